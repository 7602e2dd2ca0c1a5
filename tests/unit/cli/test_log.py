"""The log line of a command: only where it worked, with the ids of its result, never a token."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from atdm.cli import log
from atdm.cli.output import Mode, Output
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.telemetry import logs

TOKEN = "atdm_" + "x" * 43


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (logs.LEVEL_VARIABLE, logs.FORMAT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ATDM_INVOKER", "agent:ci")
    target = logging.getLogger(logs.NAME)
    before = (target.handlers, target.propagate, target.level)
    yield
    target.handlers, target.propagate = before[0], before[1]
    target.setLevel(before[2])


def line(output: Output, failure: Exception | None = None) -> dict[str, Any]:
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        log.record(output, "request", 1.5, failure)
    (written,) = stderr.getvalue().splitlines()
    found: dict[str, Any] = json.loads(written)
    return found


def test_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(mode=Mode.JSON, quiet=True)
    assert not output.worked
    with output.working("making"):
        pass
    assert output.worked
    output.emit(
        {
            "request_id": "R",
            "test_run_id": "T",
            "scenario_id": "s",
            "domain": "d",
            "status": "ready",
            "cleanup": {"cleanup_token": TOKEN},
        }
    )
    capsys.readouterr()
    found = line(output)
    assert TOKEN not in json.dumps(found)
    assert found.pop("ts")
    assert found == {
        "level": "info", "event": "request", "status": "ready", "request_id": "R",
        "test_run_id": "T", "scenario": "d/s", "domain": "d", "method": "cli",
        "invoker": "agent:ci", "latency_ms": 1500.0,
    }  # fmt: skip


@pytest.mark.parametrize("result", [None, [1, 2], "text"])
def test_a_result_without_ids(result: Any) -> None:
    assert line(Output(result=result))["status"] == "ok"


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (AtdmError(ErrorCode.BUSY, f"postgresql://u:hunter22@h {TOKEN}"), "BUSY"),
        (KeyError(TOKEN), "KeyError"),
    ],
)
def test_a_failure(failure: Exception, status: str) -> None:
    found = line(Output(), failure)
    assert (found["status"], found["level"]) == (status, "error")
    assert "hunter22" not in found["error"]
    assert TOKEN not in found["error"]


def test_a_wrong_level_is_said_and_the_command_stays_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(logs.LEVEL_VARIABLE, "loud")
    log.record(Output(), "request", 1, None)
    assert "ATDM_LOG_LEVEL is 'loud'; allowed: debug, info" in capsys.readouterr().err


def test_a_client_has_no_structlog(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "structlog", None)
    log.record(Output(), "request", 1, None)
    assert capsys.readouterr().err == ""
