"""Background processes: recognised again, never mistaken for another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atdm import processes

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
