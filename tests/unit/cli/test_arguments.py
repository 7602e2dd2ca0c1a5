"""Reading option values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from atdm.cli.arguments import constraints_of, length_of, moment_of
from atdm.cli.output import UsageError


def test_constraints_keep_what_follows_the_first_equals_sign() -> None:
    assert constraints_of(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    assert constraints_of(["a=1", "a=1"]) == {"a": "1"}


@pytest.mark.parametrize("pair", ["novalue", "=value", " =x", ""])
def test_a_constraint_without_name_or_sign_is_a_usage_problem(pair: str) -> None:
    with pytest.raises(UsageError, match="key=value"):
        constraints_of([pair])


def test_a_constraint_given_twice_with_two_values_is_a_usage_problem() -> None:
    with pytest.raises(UsageError, match="given twice"):
        constraints_of(["a=1", "a=2"])


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
    moment = moment_of(text)
    assert moment == expected
    assert moment.utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", ""])
def test_no_time_is_a_usage_problem(text: str) -> None:
    with pytest.raises(UsageError, match="ISO 8601"):
        moment_of(text)


def test_lengths_of_time() -> None:
    assert length_of("30m") == timedelta(minutes=30)
    for wrong in ("30", "m", "-4h", "0s", "4 hours"):
        with pytest.raises(UsageError):
            length_of(wrong)
