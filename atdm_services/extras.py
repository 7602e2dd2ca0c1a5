"""Parts that a client installation lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from atdm_engine.errors import AtdmError, ErrorCode

if TYPE_CHECKING:
    from atdm_engine.bundle.registry import Registry
    from atdm_resources.settings import Settings

_OWN = frozenset({"atdm", "atdm_assets", "atdm_services", "atdm_resources", "atdm_engine"})


@contextmanager
def server_part(what: str) -> Iterator[None]:
    """Turn a missing import inside the block into MISSING_EXTRA; ``what`` needs the import."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OWN:
            raise
        raise AtdmError(
            ErrorCode.MISSING_EXTRA,
            f"{what} needs the server part, which is not installed ({error.name} is missing): "
            "pip install 'atdm[server,embedded]'",
            {"extra": "server", "module": error.name},
        ) from error


def load_registry(settings: Settings) -> Registry:
    """The registry of the specification files. Raises SpecError; MISSING_EXTRA in a client."""
    # Inside with the import: the call imports further modules.
    with server_part("reading specification files"):
        from atdm_resources.store import bundle

        return bundle.load_registry(settings)
