"""Every generator and modifier, as a column of its own."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from atdm_engine.arrow.types import canonical_json
from atdm_engine.errors import AtdmError, ErrorCode
from tests.support.shop import AS_OF, one_column


def column(kind: str, generate: Any, count: int = 2000, **options: Any) -> list[Any]:
    extra = options.pop("column", {})
    array = one_column({"type": kind, "generate": generate, **extra}, count, **options)
    array.validate(full=True)
    return list(array.to_pylist())


def test_constant() -> None:
    assert set(column("numeric(6,2)", {"constant": 12.5})) == {Decimal("12.50")}
    assert set(column("text", {"constant": None}, column={"nullable": True})) == {None}


def test_defaults_of_columns_that_do_not_say_how() -> None:
    assert set(one_column({"type": "text", "values": ["b", "a"]}).to_pylist()) == {"b"}
    assert one_column({"type": "date", "nullable": True}).null_count == 1000
    with pytest.raises(AtdmError, match=r"single\.x: nothing says how it is made"):
        one_column({"type": "text"})


def test_choice_uniform_and_weighted() -> None:
    even = column("integer", {"choice": [1, 2, 3]}, 9000)
    assert all(abs(even.count(value) - 3000) < 250 for value in (1, 2, 3))
    skewed = column("text", {"choice": {"a": 3, "b": 1, "c": 0}, "prefix": "x-"}, 9000)
    assert set(skewed) == {"x-a", "x-b"}
    assert abs(skewed.count("x-a") - 6750) < 250


@pytest.mark.parametrize("kind", ["smallint", "integer", "bigint", "double", "numeric(8,2)"])
def test_integer_range(kind: str) -> None:
    values = column(kind, {"integer": {"min": -2, "max": 2}})
    assert {int(value) for value in values} == {-2, -1, 0, 1, 2}


def test_integer_distributions() -> None:
    zipf = column("integer", {"integer": {"min": 10, "max": 1000, "distribution": "zipf"}}, 20_000)
    weights = np.arange(1, 992) ** -1.2
    assert abs(zipf.count(10) / 20_000 - weights[0] / weights.sum()) < 0.015
    assert zipf.count(10) > zipf.count(11) > zipf.count(13)
    binned = column("integer", {"integer": {"min": 1, "max": 100, "weights": [1, 0, 0, 3]}}, 8000)
    first = sum(value <= 25 for value in binned)
    assert abs(first - 2000) < 200
    assert not any(26 <= value <= 75 for value in binned)
    assert set(range(1, 26)) <= set(binned)


def test_decimals_are_exact_and_include_both_ends() -> None:
    values = column("numeric(5,2)", {"decimal": {"min": 0.1, "max": 0.3}}, 3000)
    assert set(values) == {Decimal(n).scaleb(-2) for n in range(10, 31)}
    inward = column("numeric(5,1)", {"decimal": {"min": -0.25, "max": 0.25}})
    assert set(inward) == {Decimal(n).scaleb(-1) for n in range(-2, 3)}
    floats = column("double", {"decimal": {"min": -1.0, "max": 3.0, "weights": [0, 1]}})
    assert all(1.0 <= value <= 3.0 for value in floats)
    assert len(set(floats)) > 1900


def test_boolean_probability() -> None:
    values = column("boolean", {"boolean": 0.85}, 10_000)
    assert abs(sum(values) - 8500) < 180
    assert set(column("boolean", {"boolean": 1.0})) == {True}
    assert set(column("boolean", {"boolean": 0.0})) == {False}


def test_null_fraction() -> None:
    values = column(
        "text", {"faker": "first_name", "null_fraction": 0.3}, 10_000, column={"nullable": True}
    )
    assert abs(values.count(None) - 3000) < 230
    kept = column("text", {"faker": "first_name"}, 10_000)
    assert all(one in (None, other) for one, other in zip(values, kept, strict=True))


def test_dates_include_both_ends_and_follow_weights() -> None:
    values = column("date", {"date": {"from": "as_of - 3d", "to": "as_of"}})
    assert set(values) == {AS_OF.date() - timedelta(days=n) for n in range(4)}
    fixed = column("date", {"date": {"from": "2026-01-01", "to": date(2026, 1, 2)}})
    assert set(fixed) == {date(2026, 1, 1), date(2026, 1, 2)}
    skewed = column(
        "date", {"date": {"from": "2026-01-01", "to": "2026-01-10", "weights": [1, 4]}}, 5000
    )
    assert abs(sum(value <= date(2026, 1, 5) for value in skewed) - 1000) < 130


def test_timestamps_lie_in_the_range_to_the_microsecond() -> None:
    values = column("timestamptz", {"timestamp": {"from": "as_of - 1h", "to": "as_of"}})
    assert all(AS_OF - timedelta(hours=1) <= value <= AS_OF for value in values)
    assert len({value.microsecond for value in values}) > 1900


def test_timestamps_follow_the_hours_and_the_weights() -> None:
    hours = [0.0] * 24
    hours[9], hours[14] = 1.0, 3.0
    values = column(
        "timestamptz",
        {"timestamp": {"from": "as_of - 10d", "to": "as_of", "hours": hours, "weights": [1, 3]}},
        6000,
    )
    assert {value.hour for value in values} == {9, 14}
    assert all(AS_OF - timedelta(days=10) <= value <= AS_OF for value in values)
    late = sum(value > AS_OF - timedelta(days=5) for value in values)
    assert abs(late / 6000 - 0.75) < 0.04
    share = sum(value.hour == 14 for value in values) / 6000
    assert 0.68 < share < 0.78


def test_after_and_before() -> None:
    others = {
        "day": {"type": "date", "generate": {"date": {"from": "2026-01-10", "to": "2026-02-10"}}},
        "moment": {
            "type": "timestamptz",
            "nullable": True,
            "generate": {
                "timestamp": {"from": "2026-01-01", "to": "2026-02-01"},
                "null_fraction": 0.2,
            },
        },
    }

    def made(kind: str, generate: Any) -> list[Any]:
        spec = {"type": kind, "nullable": True, "generate": generate}
        return list(one_column(spec, 500, others=others).to_pylist())

    fixed = made("date", {"after": {"column": "day", "min": "365d", "max": "365d"}})
    assert all(date(2027, 1, 10) <= value <= date(2027, 2, 10) for value in fixed)
    before = made("date", {"before": {"column": "day", "min": "1d", "max": "3d"}})
    assert all(date(2026, 1, 7) <= value <= date(2026, 2, 9) for value in before)
    day_after = made("date", {"after": {"column": "day", "min": "36h", "max": "36h"}})
    bare = made("date", {"after": {"column": "day", "max": "0s"}})
    assert {one - other for one, other in zip(day_after, bare, strict=True)} == {timedelta(days=1)}
    hours = made("timestamptz", {"after": {"column": "day", "max": "36h"}})
    for value, day in zip(hours, bare, strict=True):
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        assert timedelta(0) <= value - midnight <= timedelta(hours=36)
    moments = made("timestamptz", {"after": {"column": "moment", "min": "1s", "max": "2s"}})
    base = made("timestamptz", {"before": {"column": "moment", "max": "0s"}})
    assert 50 < base.count(None) < 150
    for value, other in zip(moments, base, strict=True):
        assert (value is None) == (other is None)
        assert value is None or timedelta(seconds=1) <= value - other <= timedelta(seconds=2)
    days = made("date", {"before": {"column": "moment", "min": "1h", "max": "1h"}})
    for value, other in zip(days, base, strict=True):
        assert value == (other and (other - timedelta(hours=1)).date())


def test_pattern_and_luhn() -> None:
    values = column("text", {"pattern": "[A-Z]{2}-[0-9]{3}(x|yz)?", "prefix": "K"})
    assert all(re.fullmatch(r"K[A-Z]{2}-[0-9]{3}(x|yz)?", value) for value in values)
    long = column("text", {"pattern": "[a-z0-9]{40}"})
    assert len(set(long)) == 2000
    assert all(len(value) == 40 for value in long)


def luhn_sum(digits: str) -> int:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (2 if place % 2 else 1)
        total += number - 9 if number > 9 else number
    return total


@pytest.mark.parametrize("length", [2, 9, 10, 16])
def test_luhn_digits_hold_or_hold_nowhere(length: int) -> None:
    generate = {"pattern": f"[0-9]{{{length}}}"}
    valid = column("text", generate, column={"luhn": "valid"})
    assert all(luhn_sum(value) % 10 == 0 for value in valid)
    invalid = column("text", generate, column={"luhn": "invalid"})
    assert all(luhn_sum(value) % 10 != 0 for value in invalid)
    assert all((luhn_sum(value) + 24) % 10 != 0 for value in invalid)
    assert {value[-1] for value in invalid} == set("0123456789")
    if length == 10:
        # The checksum of a National Provider Identifier is that of 80840 and its ten digits.
        assert all(luhn_sum("80840" + value) % 10 != 0 for value in invalid)


def test_uuids() -> None:
    values = column("uuid", {"uuid": 4}, 5000)
    assert len(set(values)) == 5000
    assert all(uuid.UUID(value).version == 4 for value in values)
    assert all(str(uuid.UUID(value)) == value for value in values)
    assert {uuid.UUID(value).variant for value in values} == {uuid.RFC_4122}


def test_text_has_so_many_words() -> None:
    values = column("text", {"text": {"min_words": 2, "max_words": 5}})
    assert {len(value.split()) for value in values} == {2, 3, 4, 5}
    assert all(re.fullmatch(r"[A-Z][a-z]*( [a-z]+)+\.", value) for value in values)


def test_faker_takes_words_of_the_locale_and_pool() -> None:
    assert set(column("text", {"faker": "first_name"})) == {"Ann", "Bob", "Cid", "Dee", "Eve"}
    german = {"faker": {"provider": "first_name", "locale": "de_DE"}, "prefix": "FAKE_"}
    assert set(column("text", german)) == {"FAKE_Jörg", "FAKE_Änne"}
    few = {"faker": {"provider": "first_name", "pool": 2}}
    assert set(column("text", few)) == {"Ann", "Bob"}


def test_json_is_canonical_whatever_is_inside() -> None:
    generate = {
        "json": {
            "z": {"integer": {"min": 1, "max": 3}},
            "a": {"json": {"b": True, "c": None, "d": {"date": {"from": "as_of", "to": "as_of"}}}},
            "text": {"choice": ['"', "\\", "\n\u0001", "ü"]},
            "price": {"decimal": {"min": -1.5, "max": 1.5}},
            "list": {"array": {"of": {"json": {"n": {"integer": {"max": 9}}}}, "max": 2}},
            "when": {"timestamp": {"from": "as_of", "to": "as_of"}},
            "name": {"faker": "first_name", "prefix": '"\\\n'},
            "maybe": {"boolean": 0.5, "null_fraction": 0.5},
            "kind": {"case": "kind", "x": {"pattern": "[0-9]"}, "else": 1.5},
        }
    }
    others = {"kind": {"type": "text", "generate": {"choice": ["x", "y"]}}}
    values = column("jsonb", generate, 600, others=others)
    loaded = [json.loads(value) for value in values]
    assert [canonical_json(value) for value in loaded] == values
    assert {value["z"] for value in loaded} == {1, 2, 3}
    assert loaded[0]["a"] == {"b": True, "c": None, "d": AS_OF.date().isoformat()}
    assert {value["text"] for value in loaded} == {'"', "\\", "\n\u0001", "ü"}
    assert {len(value["list"]) for value in loaded} == {0, 1, 2}
    assert loaded[0]["when"].startswith(AS_OF.date().isoformat())
    assert {str(value["maybe"]) for value in loaded} == {"True", "False", "None"}
    assert {type(value["kind"]) for value in loaded} == {str, float}
    assert all(-1.5 <= value["price"] <= 1.5 for value in loaded)
    assert all(value["name"].startswith('"\\\n') for value in loaded)


def test_empty_json() -> None:
    assert set(column("jsonb", {"json": {}}, 3)) == {"{}"}


def test_arrays() -> None:
    values = column("integer[]", {"array": {"of": {"integer": {"max": 99}}, "min": 1, "max": 4}})
    assert {len(value) for value in values} == {1, 2, 3, 4}
    pairs = [value[:2] for value in values if len(value) > 1]
    assert sum(one == two for one, two in pairs) < 40
    longer = column(
        "integer[]", {"array": {"of": {"integer": {"max": 99}}, "min": 1, "max": 4}}, 10
    )
    assert longer == values[:10]


def test_an_array_of_a_json_column_is_a_json_list() -> None:
    generate = {"array": {"of": {"json": {"n": {"integer": {"max": 9}}}}, "min": 1, "max": 2}}
    values = [json.loads(value) for value in column("jsonb", generate, 200)]
    assert {len(value) for value in values} == {1, 2}
    assert all(set(one) == {"n"} for value in values for one in value)


def test_a_missing_array_inside_json_is_null() -> None:
    words = {"array": {"of": "a", "min": 1}, "null_fraction": 0.5}
    values = [
        json.loads(value)["tags"] for value in column("jsonb", {"json": {"tags": words}}, 400)
    ]
    assert 140 < values.count(None) < 260
    assert all(set(value) == {"a"} for value in values if value is not None)


def test_case_on_columns_of_any_type() -> None:
    others = {
        "flag": {"type": "boolean", "nullable": True, "generate": {"choice": [True, False, None]}},
    }
    generate = {"case": "flag", "true": "yes", "null": "unknown", "else": {"pattern": "[a-c]"}}
    values = column("text", generate, others=others)
    assert set(values) == {"yes", "unknown", "a", "b", "c"}
    nested = {
        "case": "flag",
        "true": {"case": "flag", "true": "deep", "else": "never"},
        "else": "no",
    }
    assert set(column("text", nested, others=others)) == {"deep", "no"}


@pytest.mark.parametrize(
    ("kind", "generate", "extra", "why"),
    [
        (
            "integer",
            {"faker": "first_name"},
            {},
            "faker for integer; allowed: faker for text columns",
        ),
        ("text", {"faker": "first_nam"}, {}, "did you mean 'first_name'"),
        ("text", {"integer": {}}, {}, "integer for text; allowed: integer for smallint or"),
        ("smallint", {"integer": {"max": 40_000}}, {}, "smallint holds"),
        (
            "integer",
            {"integer": {"min": 3, "max": 2}},
            {},
            r"integer\.min: found 3; allowed: at most max, 2",
        ),
        ("integer", {"integer": {"max": 2, "weights": [1, 1, 1, 1]}}, {}, "4 weights for 3 values"),
        ("bigint", {"integer": {"max": 10**7, "distribution": "zipf"}}, {}, "at most 1000000"),
        (
            "numeric(4,2)",
            {"decimal": {"max": 100.0}},
            {},
            r"0.00 to 100.00; allowed: values that numeric\(4,2\)",
        ),
        (
            "numeric(4,1)",
            {"decimal": {"min": 0.01, "max": 0.02}},
            {},
            "holds a value with 1 decimal places",
        ),
        ("integer", {"choice": [1, "x"]}, {}, "not a valid integer"),
        ("date", {"constant": "2026-02-30"}, {}, "not a valid date"),
        ("text", {"constant": None}, {}, "not nullable"),
        ("text", {"pattern": "[0-9]", "null_fraction": 0.5}, {}, "nullable column"),
        (
            "integer",
            {"integer": {}, "prefix": "a"},
            {},
            "prefix: found 'a'; allowed: this for text columns only",
        ),
        ("text", {"pattern": "[a-z"}, {}, "ends too early"),
        ("text", {"pattern": "[a-z]{5}"}, {"luhn": "valid"}, "digit"),
        ("text", {"pattern": "[a-z][0-9]"}, {"luhn": "valid"}, "digits alone"),
        ("text", {"text": {"min_words": 5, "max_words": 2}}, {}, "max_words"),
        ("text", {"case": "nothing", "a": "b"}, {}, "neither a column nor a constraint"),
        ("text", {"case": "id", "a": {"pattern": "("}}, {}, "ends too early"),
        ("text", {"references": "nothing"}, {}, "found nothing; allowed: a table or a row group"),
        ("text", {"references": "customer"}, {}, "customer, of which a run has no row"),
        ("text[]", {"faker": "first_name"}, {}, r"text\[\]"),
        (
            "text",
            {"array": {"of": "a"}},
            {},
            "array for text; allowed: array for array or jsonb columns",
        ),
        ("text[]", {"array": {"of": {"integer": {}}}}, {}, r"array\.of: found integer for text"),
        ("date", {"after": {"column": "id", "max": "1d"}}, {}, "neither a date nor a timestamp"),
        ("date", {"date": {"from": "as_of", "to": "as_of - 1d"}}, {}, "before it starts"),
        (
            "date",
            {"date": {"from": "sometime", "to": "as_of"}},
            {},
            "from: found 'sometime'; allowed: a date, a timestamp",
        ),
    ],
)
def test_what_cannot_be_made_is_a_clear_error(
    kind: str, generate: Any, extra: dict[str, Any], why: str
) -> None:
    with pytest.raises(AtdmError, match=why) as caught:
        one_column({"type": kind, "generate": generate, **extra}, 5)
    assert caught.value.code == ErrorCode.SPEC_INVALID
    assert "single.x" in str(caught.value)


def test_cells_are_arrow_arrays_of_the_columns_type() -> None:
    assert one_column({"type": "numeric(9,3)", "generate": {"integer": {}}}).type == pa.decimal128(
        9, 3
    )
