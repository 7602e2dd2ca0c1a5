"""Column types: what ``type: numeric(10,2)`` means in Arrow, pandas and Python."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atdm_engine.values.scalars import scalar_text

if TYPE_CHECKING:
    import pandas as pd

_ARROW: dict[str, pa.DataType] = {
    "text": pa.string(),
    "uuid": pa.string(),
    "jsonb": pa.string(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamptz": pa.timestamp("us", tz="UTC"),
}
COLUMN_TYPE = re.compile(
    r"^(?P<base>text|smallint|integer|bigint|double|boolean|date|timestamptz|uuid|jsonb"
    r"|numeric\((?P<precision>\d{1,2}),(?P<scale>\d{1,2})\))(?P<array>\[\])?$"
)
INTEGER_BITS = {"smallint": 16, "integer": 32, "bigint": 64}
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}\Z")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?\Z")
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


@dataclass(frozen=True, slots=True)
class ColumnKind:
    """A type name taken apart. ``base`` is the name without parameters and array brackets."""

    base: str
    precision: int = 0
    scale: int = 0
    array: bool = False


@lru_cache(maxsize=256)
def column_kind(column_type: str) -> ColumnKind:
    """The parts of a type name such as ``numeric(10,2)`` or ``text[]``, else ValueError."""
    match = COLUMN_TYPE.match(column_type)
    if match is None:
        raise ValueError(f"{column_type!r} is no column type")
    if match["precision"] is None:
        return ColumnKind(match["base"], array=bool(match["array"]))
    precision, scale = int(match["precision"]), int(match["scale"])
    if not 1 <= precision <= 38 or scale > precision:
        raise ValueError(f"{column_type!r}: precision is 1 to 38, scale at most the precision")
    return ColumnKind("numeric", precision, scale, bool(match["array"]))


def arrow_type(column_type: str) -> pa.DataType:
    """The Arrow type of a column type."""
    kind = column_kind(column_type)
    element = (
        pa.decimal128(kind.precision, kind.scale) if kind.base == "numeric" else _ARROW[kind.base]
    )
    return pa.list_(element) if kind.array else element


def pandas_type(column_type: str) -> pd.ArrowDtype:
    """The Arrow-backed pandas type of a column type."""
    import pandas as pd

    return pd.ArrowDtype(arrow_type(column_type))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, in which equal values have equal texts."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def parse_value(column_type: str, value: Any) -> Any:
    """``value`` (a YAML scalar, or text from CSV) as the Python value of a column type.

    None stays None. Nothing is rounded or cut: a value that does not fit exactly is a ValueError
    that says what would. For arrays a list, or its JSON text.
    """
    if value is None:
        return None
    kind = column_kind(column_type)
    if kind.array:
        items = _json_list(value, column_type)
        element = column_type.removesuffix("[]")
        return [parse_value(element, item) for item in items]
    if kind.base == "jsonb":
        return _json_value(value)
    text = scalar_text(value)
    if kind.base == "text":
        return text
    try:
        return _parse_text(kind, text.strip(), value)
    except (ValueError, ArithmeticError) as error:
        reason = f": {error}" if isinstance(error, _RangeError) else ""
        raise ValueError(f"{text!r} is not a valid {column_type}{reason}") from error


class _RangeError(ValueError):
    """A value of the right form that is too large or too fine for its type."""


def _parse_text(kind: ColumnKind, text: str, value: Any) -> Any:
    if kind.base == "boolean":
        if isinstance(value, float) or text.lower() not in _BOOLEANS:
            raise ValueError(text)
        return _BOOLEANS[text.lower()]
    if isinstance(value, bool):
        raise ValueError(text)
    if kind.base in INTEGER_BITS:
        if not _INTEGER.match(text):
            raise ValueError(text)
        number = int(text)
        limit = 1 << (INTEGER_BITS[kind.base] - 1)
        if not -limit <= number < limit:
            raise _RangeError(f"it must lie between {-limit} and {limit - 1}")
        return number
    if kind.base == "numeric":
        return _parse_decimal(kind, text)
    if kind.base == "double":
        return float(text)
    if kind.base == "date":
        if isinstance(value, datetime):
            raise ValueError(text)
        return date.fromisoformat(text)
    if kind.base == "timestamptz":
        instant = datetime.fromisoformat(text)
        return instant.replace(tzinfo=UTC) if not instant.tzinfo else instant.astimezone(UTC)
    return str(uuid.UUID(text))


def _parse_decimal(kind: ColumnKind, text: str) -> Decimal:
    if not _NUMBER.match(text):
        raise ValueError(text)
    number = Decimal(text)
    scaled = number.scaleb(kind.scale)
    if scaled != scaled.to_integral_value():
        raise _RangeError(f"it has more than {kind.scale} decimal places")
    if abs(scaled) >= 10**kind.precision:
        raise _RangeError(f"it has more than {kind.precision - kind.scale} digits before the point")
    return Decimal(int(scaled)).scaleb(-kind.scale)


def _json_value(value: Any) -> str:
    if not isinstance(value, str):
        return canonical_json(value if not isinstance(value, date) else value.isoformat())
    try:
        return canonical_json(json.loads(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is not valid JSON: {error}") from error


def _json_list(value: Any, column_type: str) -> list[Any]:
    items = value
    if isinstance(value, str):
        try:
            items = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{value!r} is not a JSON list ({column_type})") from error
    if not isinstance(items, list):
        raise ValueError(f"{value!r} is not a list ({column_type})")
    return items


def typed_array(column_type: str, values: Sequence[Any]) -> pa.Array:
    """Scalars (see ``parse_value``) as an Arrow array of a column type."""
    return pa.array(
        [parse_value(column_type, value) for value in values], type=arrow_type(column_type)
    )


def repeated(column_type: str, value: Any, count: int) -> pa.Array:
    """``count`` times the same scalar, typed."""
    kind = arrow_type(column_type)
    parsed = parse_value(column_type, value)
    if parsed is None:
        return pa.nulls(count, type=kind)
    return pa.repeat(pa.scalar(parsed, type=kind), count)
