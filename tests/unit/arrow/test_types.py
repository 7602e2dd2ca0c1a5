"""Column types and the values people write for them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from atdm_engine.arrow.types import (
    arrow_type,
    canonical_json,
    column_kind,
    pandas_type,
    parse_value,
    repeated,
    typed_array,
)


@pytest.mark.parametrize(
    ("column_type", "expected"),
    [
        ("text", pa.string()),
        ("smallint", pa.int16()),
        ("integer", pa.int32()),
        ("bigint", pa.int64()),
        ("double", pa.float64()),
        ("boolean", pa.bool_()),
        ("date", pa.date32()),
        ("timestamptz", pa.timestamp("us", tz="UTC")),
        ("uuid", pa.string()),
        ("jsonb", pa.string()),
        ("numeric(10,2)", pa.decimal128(10, 2)),
        ("integer[]", pa.list_(pa.int32())),
        ("numeric(5,1)[]", pa.list_(pa.decimal128(5, 1))),
    ],
)
def test_every_type_has_an_arrow_and_a_pandas_type(column_type: str, expected: pa.DataType) -> None:
    assert arrow_type(column_type) == expected
    assert pandas_type(column_type) == pd.ArrowDtype(expected)


@pytest.mark.parametrize("column_type", ["varchar", "numeric", "numeric(39,0)", "numeric(3,4)", ""])
def test_other_names_are_refused(column_type: str) -> None:
    with pytest.raises(ValueError, match=r"column type|precision"):
        column_kind(column_type)


@pytest.mark.parametrize(
    ("column_type", "written", "value"),
    [
        ("text", 12, "12"),
        ("text", True, "true"),
        ("text", "", ""),
        ("integer", " 42 ", 42),
        ("integer", -7, -7),
        ("bigint", str(2**63 - 1), 2**63 - 1),
        ("boolean", "false", False),
        ("boolean", "T", True),
        ("boolean", False, False),
        ("numeric(10,2)", 0.1, Decimal("0.10")),
        ("numeric(10,2)", "12.5", Decimal("12.50")),
        ("numeric(10,2)", 7, Decimal("7.00")),
        ("numeric(10,2)", "1e3", Decimal("1000.00")),
        ("numeric(4,0)", "12.0", Decimal("12")),
        ("double", "1.5", 1.5),
        ("date", "2026-02-28", date(2026, 2, 28)),
        ("date", date(2026, 2, 28), date(2026, 2, 28)),
        ("timestamptz", "2026-01-01T12:00:00+02:00", datetime(2026, 1, 1, 10, tzinfo=UTC)),
        ("timestamptz", "2026-01-01T12:00:00Z", datetime(2026, 1, 1, 12, tzinfo=UTC)),
        ("timestamptz", datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)),
        ("uuid", "6F9619FF-8B86-D011-B42D-00CF4FC964FF", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"),
        ("jsonb", '{"b": 1, "a": [1, 2]}', '{"a":[1,2],"b":1}'),
        ("jsonb", {"é": None}, '{"é":null}'),
        ("text[]", '["a", "b"]', ["a", "b"]),
        ("integer[]", [1, "2"], [1, 2]),
        ("date", None, None),
    ],
)
def test_written_values_are_read(column_type: str, written: Any, value: Any) -> None:
    parsed = parse_value(column_type, written)
    assert parsed == value
    assert type(parsed) is type(value)
    pa.scalar(parsed, arrow_type(column_type))


@pytest.mark.parametrize(
    ("column_type", "written", "why"),
    [
        ("integer", "1.5", "not a valid integer"),
        ("integer", True, "not a valid integer"),
        ("integer", 2**31, "between"),
        ("smallint", "-32769", "between"),
        ("boolean", "maybe", "not a valid boolean"),
        ("boolean", 1.0, "not a valid boolean"),
        ("numeric(10,2)", "0.125", "more than 2 decimal places"),
        ("numeric(4,2)", "100", "more than 2 digits"),
        ("numeric(4,2)", "NaN", "not a valid"),
        ("date", "2026-02-30", "not a valid date"),
        ("date", datetime(2026, 1, 1), "not a valid date"),
        ("timestamptz", "noon", "not a valid"),
        ("uuid", "x", "not a valid"),
        ("jsonb", "{", "not valid JSON"),
        ("text[]", "a", "JSON list"),
        ("text[]", 5, "not a list"),
    ],
)
def test_what_does_not_fit_exactly_is_refused(column_type: str, written: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_value(column_type, written)


def test_columns_of_scalars() -> None:
    array = typed_array("numeric(6,2)", ["1.5", None, 2])
    assert array.to_pylist() == [Decimal("1.50"), None, Decimal("2.00")]
    assert repeated("date", "2026-01-01", 3).to_pylist() == [date(2026, 1, 1)] * 3
    assert repeated("jsonb", None, 2).null_count == 2
    assert repeated("text", "x", 0).to_pylist() == []


def test_canonical_json_has_one_text_for_equal_values() -> None:
    assert canonical_json({"b": 1.0, "a": "ü"}) == '{"a":"ü","b":1.0}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))
