"""Reading constraints, times and lengths of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from atdm.cli.arguments import parse_constraints
from atdm_engine.errors import UsageError
from atdm_services.arguments import parse_length, parse_past, parse_time

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_constraints_keep_what_follows_the_first_equals_sign() -> None:
    assert parse_constraints(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    assert parse_constraints(["a=1", "a=1"]) == {"a": "1"}


@pytest.mark.parametrize("pair", ["novalue", "=value", " =x", ""])
def test_a_constraint_without_name_or_sign_is_a_usage_problem(pair: str) -> None:
    with pytest.raises(UsageError, match="key=value"):
        parse_constraints([pair])


def test_a_constraint_given_twice_with_two_values_is_a_usage_problem() -> None:
    with pytest.raises(UsageError, match="given twice"):
        parse_constraints(["a=1", "a=2"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00+09:00", datetime(2026, 1, 31, 3, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_utc(text: str, expected: datetime) -> None:
    moment = parse_time(text)
    assert moment == expected
    assert moment.utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "", "0001-01-01T00:00+09:00"])
def test_no_time_is_a_usage_problem(text: str) -> None:
    with pytest.raises(UsageError, match="ISO 8601"):
        parse_time(text)


def test_lengths_of_time() -> None:
    assert parse_length("30m") == timedelta(minutes=30)
    for wrong in ("30", "m", "-4h", "0s", "4 hours", "99999999999y"):
        with pytest.raises(UsageError):
            parse_length(wrong)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1d", NOW - timedelta(days=1)),
        ("90m", NOW - timedelta(minutes=90)),
        (" 30m ", NOW - timedelta(minutes=30)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T12:00:00+02:00", datetime(2026, 11, 1, 10, tzinfo=UTC)),
    ],
)
def test_a_moment_in_the_past(text: str, moment: datetime) -> None:
    assert parse_past(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "yesterday", "-1d", "7 days", "1 d ago", "99999999y", "2026-13-01"]
)
def test_what_is_no_moment_says_what_is(text: str) -> None:
    with pytest.raises(UsageError, match="30m, 1d"):
        parse_past(text, NOW)
