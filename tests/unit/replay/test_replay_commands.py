"""What `atdm replay` and `atdm coverage` refuse before they connect, and how they help."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer.main

from atdm.cli import coverage, replay
from atdm.cli.app import app
from atdm.cli.output import Output, UsageError
from atdm_engine.errors import AtdmError, ErrorCode

NOTHING: dict[str, Any] = {
    "into": None, "spec": None, "print_spec": False, "prove": None, "ttl": None, "owner": None,
    "reason": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("run", "options"),
    [
        (None, {}),
        (None, {"print_spec": True, "spec": Path("f")}),
        ("R", {"print_spec": True, "spec": Path("f")}),
        ("R", {"ttl": "0s"}),
        ("R", {"ttl": "soon"}),
    ],
)
def test_options_that_do_not_go_together(run: str | None, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        replay.replay(Output(), run, **{**NOTHING, **options})
    assert caught.value.code is ErrorCode.REQUEST_INVALID


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("7d", timedelta(days=7)),
        ("90m", timedelta(minutes=90)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_since_is_a_length_of_time_or_a_date(text: str, start: datetime | timedelta) -> None:
    assert coverage.start_of(text) == start


@pytest.mark.parametrize("text", ["", "7 days", "yesterday", "-1d", "2026-13-01"])
def test_since_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="7d, or a date like 2026-01-31"):
        coverage.start_of(text)


def test_a_page_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    found = {
        "summary": dict.fromkeys(
            ("requirements", "passing", "failing", "never_exercised", "flaky", "tests"), 0
        ),
        "requirements": [], "formerly_linked": [], "scenarios": [], "tests": [],
        "database": "d", "since": None, "session": None,
    }  # fmt: skip
    with pytest.raises(AtdmError) as caught:
        coverage.write_page(tmp_path / "none" / "c.html", found)
    assert caught.value.code is ErrorCode.REQUEST_INVALID
    assert "exists and is writable" in caught.value.details["hint"]
    coverage.write_page(tmp_path / "c.html", found)
    assert (tmp_path / "c.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["replay", "coverage"])
def test_help_has_an_example(name: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert f"Example: atdm {name} " in commands[name].help
