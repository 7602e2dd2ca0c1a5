"""What people use: the client, the command line, the pytest plugin and the audit report.

Belongs here: names that other projects import. Does not belong here: anything that costs time to
import; the client is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atdm.client.asyncio import AsyncAtdmClient
    from atdm.client.sync import AtdmClient, AtdmClientError

__all__ = ["AsyncAtdmClient", "AtdmClient", "AtdmClientError"]


def __getattr__(name: str) -> Any:
    # pytest loads this package in every suite of the environment, also in those that never use it.
    if name == "AsyncAtdmClient":
        from atdm.client.asyncio import AsyncAtdmClient

        return AsyncAtdmClient
    if name in __all__:
        from atdm.client import sync

        return getattr(sync, name)
    raise AttributeError(f"module 'atdm' has no attribute {name!r}")
