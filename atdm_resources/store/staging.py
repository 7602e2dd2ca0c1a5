"""The names of files that are being written, which tell who writes them.

A file on disk is written beside its name and then renamed. A process that is killed leaves such a
file behind; its name tells later ones whether the process is still there.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")
_STAGED = re.compile(r"\..+\.(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)-[0-9a-f]{12}\Z")


def staged_name(name: str) -> str:
    """What the file ``name`` is called while this process writes it."""
    pid = os.getpid()
    return f".{name}.{_place()}-{pid}-{_started(pid)}-{secrets.token_hex(6)}"


def is_staged(name: str) -> bool:
    """Whether ``name`` is of a file that somebody writes, or wrote when he was killed."""
    return _STAGED.match(name) is not None


def is_abandoned(name: str) -> bool:
    """Whether ``name`` is of a file whose writer is gone.

    False for names of any other kind, and for writers on other machines or in other containers,
    of which nothing can be known from here.
    """
    match = _STAGED.match(name)
    if match is None or match["place"] != _place():
        return False
    return _started(int(match["pid"])) != int(match["started"]) or not _alive(int(match["pid"]))


@cache
def _place() -> str:
    """Where process ids mean the same as here: this boot of this machine, this container."""
    parts = [os.uname().nodename]
    if _BOOT_ID.exists() and _NAMESPACE.exists():
        parts = [_BOOT_ID.read_text(encoding="ascii").strip(), str(_NAMESPACE.stat().st_ino)]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:8]


def _started(pid: int) -> int:
    """When a process started, in ticks since the boot; 0 where that cannot be known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # alive, under another user
    return True
