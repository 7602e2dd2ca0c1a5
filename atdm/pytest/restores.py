"""Restores a baseline once a session, in the first process that needs it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

from atdm.pytest.session_files import SessionFolder
from atdm_engine.errors import AtdmError, ErrorCode

_RESTORING = "restoring"
_BUSY_SECONDS = 60.0
_POLL_SECONDS = 0.1


def once(
    folder: SessionFolder, baseline: str, restore: Callable[[], Any], *, patient: bool
) -> dict[str, Any]:
    """The result of ``restore``, which one process of the session calls.

    The others wait for its lock. If it dies, the kernel releases the lock, the database rolls the
    restore back, and the next process restores. During a restore no process of the session leases.
    A restore waits up to a minute for active leases; not at all (``patient`` False) where this
    process holds some of them.

    Raises:
        AtdmError: the error of ``restore``; BUSY, naming the owners of leases.
    """
    name = f"restored-{hashlib.sha256(baseline.encode()).hexdigest()[:24]}"
    with folder.locked(_RESTORING):
        known = folder.stored(name)
        if known is None:
            with folder.marked(_RESTORING):
                known = _done(restore, _BUSY_SECONDS if patient else 0)
            folder.store(name, known)
    return known


def _done(restore: Callable[[], Any], patience: float) -> dict[str, Any]:
    deadline = time.monotonic() + patience
    while True:
        try:
            done: dict[str, Any] = restore()
            return done
        except AtdmError as error:
            if error.code is not ErrorCode.BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)


def wait_while_restoring(folder: SessionFolder) -> None:
    """Wait until no process of the session restores; one that died does not count."""
    if folder.is_marked(_RESTORING):
        with folder.locked(_RESTORING):
            folder.unmark(_RESTORING)
