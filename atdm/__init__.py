"""The faces of ATDM: client, command line, pytest plugin, web pages.

A face reads arguments, calls a service of ``atdm_services`` and shows the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atdm.client import AsyncAtdmClient, AtdmClient, AtdmClientError

__all__ = ["AsyncAtdmClient", "AtdmClient", "AtdmClientError"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from atdm import client

        return getattr(client, name)
    raise AttributeError(f"module 'atdm' has no attribute {name!r}")
