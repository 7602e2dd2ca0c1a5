"""Background processes of one ATDM home: started, recorded, recognised again, stopped.

Belongs here: pid records under ``ATDM_HOME/run`` and the certainty that a pid is still the process
that was recorded. Does not belong here: what is started (``atdm.cli.services``) or the embedded
PostgreSQL, which keeps its own record.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started: ``started`` is the system's own word on when, so that a pid that
    has been given to somebody else is not taken for it."""

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
    """Start a process that outlives this one and record it; it writes to ``home/log/NAME.log``."""
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
    process = Process(name, child.pid, _started(child.pid) or "", list(command), port)
    record = _record(home, name)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(asdict(process), indent=2) + "\n", encoding="utf-8")
    # The child is on its own: without this Popen would warn that it is still running.
    child.returncode = 0
    return process


def running(home: Path, name: str) -> Process | None:
    """The recorded process if it still runs. A stale record is removed."""
    record = _record(home, name)
    try:
        process = Process(**json.loads(record.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        record.unlink(missing_ok=True)
        return None
    if process.started and _started(process.pid) == process.started:
        return process
    record.unlink(missing_ok=True)
    return None


def stop(home: Path, name: str) -> Process | None:
    """Stop the recorded process and those it started; None when it does not run.

    Asks first (SIGTERM) and insists after 15 seconds.
    """
    process = running(home, name)
    if process is None:
        return None
    for wanted, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        try:
            # It leads its own session, so its children have its group.
            os.killpg(process.pid, wanted)
        except ProcessLookupError:
            break
        if _gone(process, seconds):
            break
    _record(home, name).unlink(missing_ok=True)
    return process


def log_tail(home: Path, name: str, lines: int = 15) -> str:
    """The last lines that a process wrote."""
    try:
        text = (home / "log" / f"{name}.log").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _gone(process: Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _started(process.pid) != process.started:
            return True
        time.sleep(0.05)
    return False


def _record(home: Path, name: str) -> Path:
    return home / "run" / f"{name}.json"


def _started(pid: int) -> str | None:
    """When a process started, as the system says it; None when there is none (or only a zombie)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"
    answer = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout.split(maxsplit=1)
    return None if len(answer) < 2 or answer[0].startswith("Z") else answer[1].strip()
