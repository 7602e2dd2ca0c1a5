"""Constraints: typed, with what is allowed said in words."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from atdm_engine.spec.constraints import Constraint, parse_scalar
from atdm_engine.values.scalars import scalar_json, scalar_text


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        ("boolean", "false", False),
        ("boolean", "No", False),
        ("boolean", True, True),
        ("boolean", "1", True),
        ("integer", "12", 12),
        ("integer", 12, 12),
        ("decimal", "12.50", Decimal("12.50")),
        ("decimal", 0.1, Decimal("0.1")),
        ("date", "2026-01-31", date(2026, 1, 31)),
        ("timestamptz", "2026-01-31T00:00:00+01:00", datetime(2026, 1, 30, 23, tzinfo=UTC)),
        ("text", 99213, "99213"),
    ],
)
def test_texts_become_typed_values(kind: Any, written: Any, value: Any) -> None:
    parsed = parse_scalar(kind, written)
    assert parsed == value
    assert type(parsed) is type(value)
    assert parse_scalar(kind, scalar_json(parsed)) == parsed


@pytest.mark.parametrize(
    ("kind", "written", "allowed"),
    [
        ("boolean", "falsch", "true or false"),
        ("boolean", 0.0, "true or false"),
        ("integer", "1.5", "an integer"),
        ("integer", True, "an integer"),
        ("decimal", "1e5", "a decimal number"),
        ("date", "31.01.2026", "a date like"),
        ("date", datetime(2026, 1, 1), "a date like"),
        ("timestamptz", "soon", "a timestamp like"),
    ],
)
def test_other_texts_are_refused_with_what_is_allowed(
    kind: Any, written: Any, allowed: str
) -> None:
    with pytest.raises(ValueError, match=allowed):
        Constraint("x", kind).parse(written)


def test_allowed_values_and_bounds() -> None:
    status = Constraint("status", "text", values=("paid", "denied"))
    assert status.parse("paid") == "paid"
    with pytest.raises(ValueError, match=r"one of: paid, denied; did you mean 'denied'\?"):
        status.parse("dennied")
    count = Constraint("count", "integer", min=1, max=8)
    assert count.parse("8") == 8
    with pytest.raises(ValueError, match="less than the minimum an integer at least 1 at most 8"):
        count.parse(0)
    with pytest.raises(ValueError, match="more than the maximum"):
        count.parse("9")
    assert count.parse(None) is None


def test_scalars_as_text() -> None:
    assert [scalar_text(value) for value in (None, True, Decimal("1E+2"), date(2026, 1, 1))] == [
        "null",
        "true",
        "100",
        "2026-01-01",
    ]
