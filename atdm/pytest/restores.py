"""A baseline restored once a session, whoever of its processes asks first."""

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
    """What ``restore`` returned, to whichever process of the session called it.

    The others wait for its lock. If it dies, the kernel lets go of the lock, the database rolls the
    restore back, and the next one restores. While it lasts no process of the session leases, and
    it waits a minute for the leases that are out; not where this process holds some (``patient``
    False), which it would wait for in vain.

    Raises:
        AtdmError: what ``restore`` raises; BUSY, naming who holds leases.
    """
    name = f"restored-{hashlib.sha256(baseline.encode()).hexdigest()[:24]}"
    with folder.locked(_RESTORING):
        known = folder.told(name)
        if known is None:
            with folder.marked(_RESTORING):
                known = _done(restore, _BUSY_SECONDS if patient else 0)
            folder.tell(name, known)
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
