"""Background processes: recognised again, never mistaken for another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atdm_resources.local import processes

SLEEP = [sys.executable, "-c", "import time; print('hello', flush=True); time.sleep(60)"]


def test_start_running_stop(tmp_path: Path) -> None:
    started = processes.start(tmp_path, "sleeper", SLEEP, environment=os.environ, port=7)
    try:
        assert processes.running(tmp_path, "sleeper") == started
        assert started.port == 7
    finally:
        stopped = processes.stop(tmp_path, "sleeper")
    assert stopped == started
    assert processes.running(tmp_path, "sleeper") is None
    assert processes.stop(tmp_path, "sleeper") is None
    assert not (tmp_path / "run" / "sleeper.json").exists()


def test_a_process_that_ended_by_itself_is_not_running(tmp_path: Path) -> None:
    process = processes.start(
        tmp_path, "short", [sys.executable, "-c", "print('bye')"], environment=os.environ
    )
    os.waitpid(process.pid, 0)
    assert processes.running(tmp_path, "short") is None
    assert "bye" in processes.log_tail(tmp_path, "short")


def test_a_stranger_with_the_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL)
    try:
        record = tmp_path / "run" / "webserver.json"
        record.parent.mkdir()
        record.write_text(
            json.dumps(
                {
                    "name": "webserver",
                    "pid": stranger.pid,
                    "started": "another boot:12345",
                    "command": SLEEP,
                    "port": None,
                }
            ),
            encoding="utf-8",
        )
        assert processes.stop(tmp_path, "webserver") is None
        assert stranger.poll() is None
        assert not record.exists()
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_an_unreadable_record_counts_as_none(tmp_path: Path, text: str) -> None:
    record = tmp_path / "run" / "daemon.json"
    record.parent.mkdir()
    record.write_text(text, encoding="utf-8")
    assert processes.running(tmp_path, "daemon") is None


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}])
print(child.pid, flush=True)
{then}
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def _child_of(home: Path, name: str) -> int:
    deadline = time.monotonic() + 20
    while not (told := processes.log_tail(home, name).strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(told)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("child", "then"),
    [
        ("import time; time.sleep(600)", "child.wait()"),
        (STUBBORN, "time.sleep(600)"),
        (STUBBORN, "sys.exit()"),
    ],
    ids=["waits for its child", "does not wait", "is gone already"],
)
def test_stop_ends_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str, then: str
) -> None:
    """Also what outlives the process that started it and what does not listen."""
    monkeypatch.setattr(processes, "_STOP_SECONDS", 1.0)
    command = [sys.executable, "-c", PARENT.format(child=child, then=then)]
    parent = processes.start(tmp_path, "parent", command, environment=os.environ)
    left = _child_of(tmp_path, "parent")
    if then == "sys.exit()":
        while processes.running(tmp_path, "parent") is not None:
            time.sleep(0.02)
    assert processes.start_time(left) is not None
    stopped = processes.stop(tmp_path, "parent")
    assert stopped is not None
    assert stopped.pid == parent.pid
    assert processes.start_time(left) is None
    assert processes.stop(tmp_path, "parent") is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_start_ends_what_an_earlier_one_left(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        PARENT.format(child="import time; time.sleep(600)", then="sys.exit()"),
    ]
    processes.start(tmp_path, "parent", command, environment=os.environ)
    left = _child_of(tmp_path, "parent")
    while processes.running(tmp_path, "parent") is not None:
        time.sleep(0.02)
    processes.start(tmp_path, "parent", SLEEP, environment=os.environ)
    assert processes.start_time(left) is None
    assert processes.stop(tmp_path, "parent") is not None
