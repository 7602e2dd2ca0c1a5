"""``atdm audit``: what it refuses before it connects, and how a page becomes a file."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from atdm.cli import audit
from atdm.cli.arguments import past_of
from atdm.cli.output import Output, UsageError
from atdm_engine.errors import AtdmError

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ASKED: dict[str, Any] = {"run": None, "html": None, "summary": False, "since": None}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "atdm audit RUN"),
        ({"run": "x", "summary": True}, "atdm audit RUN"),
        ({"run": "x", "since": "1d"}, "--since goes with --summary"),
        ({"summary": True, "html": "f"}, "--html goes with one run"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        audit.audit(Output(), **{**ASKED, **asked})


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1d", NOW - timedelta(days=1)),
        (" 30m ", NOW - timedelta(minutes=30)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T12:00:00+02:00", datetime(2026, 11, 1, 10, tzinfo=UTC)),
    ],
)
def test_a_moment_in_the_past(text: str, moment: datetime) -> None:
    assert past_of(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "-1d", "1 d ago", "99999999y", "2026-13-01"])
def test_what_is_no_moment_says_what_is(text: str) -> None:
    with pytest.raises(UsageError, match="30m, 1d"):
        past_of(text, NOW)


def test_a_page_replaces_a_file_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "audit.html"
    path.write_bytes(b"old and longer")
    audit._write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["audit.html"]


@pytest.mark.parametrize("name", ["missing/audit.html", "folder", "n" * 300])
def test_where_nothing_can_be_written_the_error_says_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(AtdmError, match="cannot be written") as refused:
        audit._write(tmp_path / name, b"page")
    assert "folder that exists" in refused.value.details["hint"]
    assert os.listdir(tmp_path) == ["folder"]


def test_filters_read_the_options() -> None:
    options: dict[str, Any] = dict.fromkeys(("status", "owner", "invoker", "since", "until"))
    found = audit.filters_of(scenario="d/s", **options, constraint=["a=1", "b="])
    assert (found.domain, found.scenario_id) == ("d", "s")
    assert found.constraints == {"a": "1", "b": ""}
    assert audit.filters_of(scenario="s", **options, constraint=[]).domain is None
