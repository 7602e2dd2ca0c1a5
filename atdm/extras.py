"""What a client installation lacks.

Belongs here: turning a missing optional package into an error that says what to install. Does not
belong here: anything that imports one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from atdm_engine.errors import AtdmError, ErrorCode

_OWN = frozenset({"atdm", "atdm_assets", "atdm_resources", "atdm_engine"})


@contextmanager
def server_part(what: str) -> Iterator[None]:
    """Around the imports of a command that a client installation cannot run.

    ``what`` says what needs them. Raises AtdmError MISSING_EXTRA.
    """
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
