"""Column profiles: exact when small, of a sample when large, JSON-able always."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa

from atdm_engine.checks.profile import ColumnProfile
from atdm_engine.spec.table import TableSpec

SPEC = TableSpec.model_validate(
    {
        "description": "d",
        "key": "a",
        "columns": {
            "a": {"type": "text", "generate": {"id": "x"}},
            "n": {"type": "numeric(6,2)", "nullable": True},
            "d": {"type": "date", "nullable": True},
            "t": {"type": "timestamptz", "nullable": True},
            "l": {"type": "text[]", "nullable": True},
            "f": {"type": "double", "nullable": True},
        },
    }
)


def table(count: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table(
        {
            "a": pa.array([f"v{number % 3}" for number in numbers]),
            "n": pa.array([Decimal(number) / 4 for number in numbers], pa.decimal128(6, 2)),
            "d": pa.array([date(2026, 1, 1 + number % 28) for number in numbers]),
            "t": pa.array(
                [datetime(2026, 1, 1, number % 24, tzinfo=UTC) for number in numbers],
                pa.timestamp("us", "UTC"),
            ),
            "l": pa.array([["x"] if number % 2 else None for number in numbers]),
            "f": pa.array([float("nan") if number == 1 else float(number) for number in numbers]),
        }
    )


def test_small_tables_are_profiled_exactly() -> None:
    profile = ColumnProfile(SPEC)
    profile.add(table(4))
    profile.add(table(3, first=4))
    found = profile.result()
    assert (found["rows"], found["sampled_rows"], found["complete"]) == (7, 7, True)
    assert found["columns"]["a"] == {
        "nulls": 0,
        "distinct": 3,
        "min": "v0",
        "max": "v2",
        "top": [
            {"value": "v0", "rows": 3},
            {"value": "v1", "rows": 2},
            {"value": "v2", "rows": 2},
        ],
        "histogram": None,
    }
    assert (found["columns"]["n"]["min"], found["columns"]["n"]["max"]) == ("0.00", "1.50")
    assert found["columns"]["d"]["max"] == "2026-01-07"
    assert found["columns"]["t"]["min"] == "2026-01-01T00:00:00+00:00"
    assert found["columns"]["l"]["nulls"] == 4
    assert found["columns"]["l"]["top"] == [{"value": ["x"], "rows": 3}]
    json.dumps(found, allow_nan=False)


def test_large_tables_say_that_values_are_of_a_sample() -> None:
    profile = ColumnProfile(SPEC, sample_rows=5)
    profile.add(table(4))
    profile.add(table(96, first=4))
    found = profile.result()
    assert (found["rows"], found["sampled_rows"], found["complete"]) == (100, 5, False)
    assert sum(top["rows"] for top in found["columns"]["a"]["top"]) == 5
    assert found["columns"]["l"]["nulls"] == 50
    assert found["columns"]["n"]["max"] == "24.75"


def test_nothing_at_all() -> None:
    profile = ColumnProfile(SPEC)
    profile.add(table(0))
    found = profile.result()
    assert (found["rows"], found["complete"]) == (0, True)
    assert found["columns"]["n"] == {
        "nulls": 0, "distinct": 0, "min": None, "max": None, "top": [], "histogram": None,
    }  # fmt: skip
