"""Background processes of one ATDM home: start, record, find, stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"
WEBSERVER: Final = "webserver"
DAEMON: Final = "daemon"
AUDIT: Final = "audit"
"""Serves audit pages."""

_STOP_SECONDS = 15.0
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started. ``started`` is its ``start_time``: by then the pid can be another
    process's."""

    name: str
    pid: int
    started: str
    command: list[str]
    port: int | None = None


def start(
    home: Path,
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    port: int | None = None,
) -> Process:
    """Start a process that outlives this one and record it; it writes to ``home/log/NAME.log``.

    What an earlier process of this name has left running is stopped first.
    """
    stop(home, name)
    log = home / "log" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=home,
            start_new_session=True,
        )
    process = Process(name, child.pid, start_time(child.pid) or "", list(command), port)
    record = _record(home, name)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(asdict(process), indent=2) + "\n", encoding="utf-8")
    # The child outlives this process: without this Popen warns that it still runs.
    child.returncode = 0
    return process


def running(home: Path, name: str) -> Process | None:
    """The recorded process if it still runs. A stale record is removed."""
    process = _recorded(home, name)
    if process is not None and _is_there(process):
        return process
    # ``stop`` needs the record to find the children that it left.
    if process is None or not _group(process, home):
        _record(home, name).unlink(missing_ok=True)
    return None


def stop(home: Path, name: str) -> Process | None:
    """Stop the recorded process and all that it started; None when none of them runs.

    Sends SIGTERM, and SIGKILL after 15 seconds. Returns when the last process has ended, also if
    its parent did not wait for it.
    """
    process = _recorded(home, name)
    ours = process is not None and bool(_group(process, home))
    if process is not None and ours:
        for wanted, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
            try:
                # It leads a session of its own, so its children are in its group.
                os.killpg(process.pid, wanted)
            except ProcessLookupError:
                break
            if _gone(process, home, seconds):
                break
    _record(home, name).unlink(missing_ok=True)
    return process if ours else None


def log_tail(home: Path, name: str, lines: int = 15) -> str:
    """The last lines of a process's log."""
    try:
        text = (home / "log" / f"{name}.log").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _gone(process: Process, home: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not _group(process, home):
            return True
        time.sleep(0.05)
    return False


def _recorded(home: Path, name: str) -> Process | None:
    try:
        return Process(**json.loads(_record(home, name).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        _record(home, name).unlink(missing_ok=True)
        return None


def _is_there(process: Process) -> bool:
    return bool(process.started) and start_time(process.pid) == process.started


def _group(process: Process, home: Path) -> list[int]:
    """The running processes of the group that a recorded process leads, itself included.

    The system does not reuse a pid while a group has it: a group without its leader is still the
    recorded one. Its processes must also have the home as their working directory.
    """
    if _is_there(process):
        leader = [process.pid]
    elif start_time(process.pid) is not None:
        return []  # another process has the pid
    else:
        leader = []
    if not (_PROC / "self/stat").exists():
        return leader
    found = []
    for entry in _PROC.iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        if fields is None or fields[0] in "ZX" or int(fields[2]) != process.pid:
            continue
        if leader or _works_in(entry, home):
            found.append(int(entry.name))
    return found


def _works_in(entry: Path, home: Path) -> bool:
    try:
        return (entry / "cwd").samefile(home)
    except OSError:
        return False


def _record(home: Path, name: str) -> Path:
    return home / "run" / f"{name}.json"


def start_time(pid: int) -> str | None:
    """When a process started, in the system's own form; None for no process and for a zombie.

    Together with its pid it identifies a process of this machine.
    """
    if (_PROC / "self/stat").exists():
        fields = _stat(pid)
        if fields is None or fields[0] in "ZX":
            return None
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}:{fields[19]}"
    answer = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout.split(maxsplit=1)
    return None if len(answer) < 2 or answer[0].startswith("Z") else answer[1].strip()


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
