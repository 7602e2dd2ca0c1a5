"""The two output modes and the exit statuses of errors."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from atdm.cli.output import ADVICE, Mode, Output, table, write_file
from atdm_engine.errors import AtdmError, ErrorCode, UsageError

ERROR = AtdmError(ErrorCode.SCENARIO_NOT_FOUND, "no scenario 'x'", {"nearest": "y"})


def test_json_mode_prints_the_payload_alone_sorted_and_indented(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output(mode=Mode.JSON)
    output.note("aside")
    output.emit({"b": 1, "a": 2}, lambda: "never shown")
    out, err = capsys.readouterr()
    assert out == '{\n  "a": 2,\n  "b": 1\n}\n'
    assert err == "aside\n"


def test_human_mode_prints_what_the_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    Output().emit({"a": 1}, lambda: [table("Title", ("one", "two"), [("[b]x[/b]", None)]), "done"])
    out, _ = capsys.readouterr()
    assert "[b]x[/b]" in out
    assert out.rstrip().endswith("done")


def test_an_error_is_an_envelope_on_stdout_in_json_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert Output(mode=Mode.JSON).fail(ERROR) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == ERROR.envelope()
    assert err == ""


def test_an_error_says_code_message_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert Output().fail(ERROR) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "error SCENARIO_NOT_FOUND: no scenario 'x'"
    assert "nearest: y" in err
    assert ADVICE[ErrorCode.SCENARIO_NOT_FOUND] in err
    assert "Traceback" not in err


def test_usage_problems_exit_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert Output().fail(UsageError(ErrorCode.REQUEST_INVALID, "bad")) == 2
    assert "REQUEST_INVALID" in capsys.readouterr().err


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_error_is_short_unless_debug(
    capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        raise ZeroDivisionError("oops")
    assert Output(debug=debug).fail_unexpected(caught.value) == 1
    err = capsys.readouterr().err
    assert "error UNEXPECTED: unexpected ZeroDivisionError: oops" in err
    assert ("Traceback" in err) is debug
    assert ("ATDM_DEBUG=1" in err) is not debug


def test_progress_shows_only_what_takes_longer_than_a_second(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output()
    with output.working("short"):
        pass
    with output.working("long"):
        time.sleep(1.1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "long ...\n"


def test_quiet_says_nothing_on_the_side(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.note("aside")
    with output.working("long"):
        time.sleep(1.1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("mode", [Mode.HUMAN, Mode.JSON])
def test_an_unexpected_error_shows_no_secret(
    mode: Mode, capsys: pytest.CaptureFixture[str]
) -> None:
    token = "atdm_" + "x" * 43
    with pytest.raises(RuntimeError) as raised:
        raise RuntimeError(f"{token} at postgresql://u:hunter22@h/d")
    assert Output(mode=mode, debug=True).fail_unexpected(raised.value) == 1
    printed = "".join(capsys.readouterr())
    assert "unexpected RuntimeError: *** at postgresql://u:***@h/d" in printed
    # The traceback shows the line that raised it, which names the variable and not its value.
    assert token not in printed
    assert "Traceback" in printed


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "audit.html"
    path.write_bytes(b"old and longer")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["audit.html"]


@pytest.mark.parametrize("name", ["missing/audit.html", "folder", "n" * 300])
def test_where_nothing_can_be_written_the_error_says_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(AtdmError, match="cannot be written") as refused:
        write_file(tmp_path / name, b"page")
    assert "folder that exists" in refused.value.details["hint"]
    assert os.listdir(tmp_path) == ["folder"]
