"""Clients for programs: ``AtdmClient`` blocks, ``AsyncAtdmClient`` awaits.

A class is loaded at its first use: pytest loads ``atdm`` in every suite of the environment, also in
those that never use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atdm.client.asyncio import AsyncAtdmClient
    from atdm.client.sync import AtdmClient, AtdmClientError

__all__ = ["AsyncAtdmClient", "AtdmClient", "AtdmClientError"]


def __getattr__(name: str) -> Any:
    if name == "AsyncAtdmClient":
        from atdm.client.asyncio import AsyncAtdmClient

        return AsyncAtdmClient
    if name in __all__:
        from atdm.client import sync

        return getattr(sync, name)
    raise AttributeError(f"module 'atdm.client' has no attribute {name!r}")
