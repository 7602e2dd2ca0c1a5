"""Names of files that are being written: each one tells which process writes it.

A file on disk is written beside its name and then renamed. A process that is killed leaves such a
file behind, and later processes can tell from its name that the writer is gone (ADR 0086).
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from functools import cache
from pathlib import Path

from atdm_resources.local.processes import start_time

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")
_STAGED = re.compile(
    r"\..+\.(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>[0-9a-f]{8})-[0-9a-f]{12}\Z"
)


def staged_name(name: str) -> str:
    """The name of the file ``name`` while this process writes it."""
    return f".{name}.{_writer(os.getpid())}-{secrets.token_hex(6)}"


def is_staged(name: str) -> bool:
    """Whether ``name`` is that of a file that a process writes, or wrote when it was killed."""
    return _STAGED.match(name) is not None


def is_abandoned(name: str) -> bool:
    """Whether ``name`` is that of a file whose writer is gone.

    False for names of any other form, and for writers on other machines or in other containers:
    their processes cannot be seen from here.
    """
    match = _STAGED.match(name)
    if match is None or match["place"] != _place():
        return False
    return _started(int(match["pid"])) != match["started"]


@cache
def _writer(pid: int) -> str:
    return f"{_place()}-{pid}-{_started(pid)}"


@cache
def _place() -> str:
    """Where a pid means the same process as here: this boot of this machine, this container."""
    parts = [os.uname().nodename]
    if _BOOT_ID.exists() and _NAMESPACE.exists():
        parts = [_BOOT_ID.read_text(encoding="ascii").strip(), str(_NAMESPACE.stat().st_ino)]
    return _digest("/".join(parts))


def _started(pid: int) -> str:
    return _digest(start_time(pid) or "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
