"""Charts of a column's profile: drawn in characters, seen where there is something to see."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdm_assets.metadata import chart
from atdm_engine.checks.profile import BINS, ColumnProfile
from atdm_engine.spec.table import TableSpec

BLANK = "\u2002"
FULL = "\u2588"


def profiled(column_type: str, values: list[Any], arrow: pa.DataType) -> dict[str, Any]:
    columns = {"a": {"type": column_type, "nullable": True}}
    spec = TableSpec.model_validate({"description": "d", "key": "a", "columns": columns})
    profile = ColumnProfile(spec)
    profile.add(pa.table({"a": pa.array(values, arrow)}))
    found: dict[str, Any] = profile.result()["columns"]["a"]
    return found


@pytest.mark.parametrize(
    ("column_type", "values", "arrow"),
    [
        ("integer", list(range(24)), pa.int32()),
        ("numeric(6,2)", [Decimal(n) / 4 for n in range(24)], pa.decimal128(6, 2)),
        ("date", [date(2026, 1, 1) + timedelta(n) for n in range(24)], pa.date32()),
        (
            "timestamptz",
            [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(24)],
            pa.timestamp("us", "UTC"),
        ),
    ],
)
def test_values_with_a_distance_have_a_histogram(
    column_type: str, values: list[Any], arrow: pa.DataType
) -> None:
    column = profiled(column_type, values, arrow)
    assert column["histogram"] == [2] * BINS
    assert chart(column) == FULL * BINS


def test_a_few_values_have_a_bar_each() -> None:
    column = profiled("text", ["paid"] * 6 + ["denied"] * 3 + [None], pa.string())
    assert column["histogram"] is None
    assert chart(column) == f"paid {FULL * 7} 67%  denied {FULL * 3} 33%"


@pytest.mark.parametrize("values", [[], [None], ["same"] * 5, [f"v{n}" for n in range(50)]])
def test_nothing_is_drawn_where_there_is_nothing_to_see(values: list[str | None]) -> None:
    assert chart(profiled("text", values, pa.string())) == ""


@given(st.lists(st.floats(), min_size=1, max_size=60))
def test_every_value_is_in_a_bin_and_every_bin_is_seen(values: list[float]) -> None:
    column = profiled("double", values, pa.float64())
    finite = [value for value in values if value - value == 0]
    if column["histogram"] is None:
        assert len(Counter(map(str, values))) <= 6
        return
    assert sum(column["histogram"]) == len(finite)
    drawn = chart(column)
    if finite:
        assert [mark != BLANK for mark in drawn] == [n > 0 for n in column["histogram"]]
