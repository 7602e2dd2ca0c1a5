"""Checks of the values of one column, vectorised over Arrow.

Every check gives true, false or NULL for each value; NULL passes, as in an SQL CHECK. The results
are those of PostgreSQL: lengths count characters, text compares by code point, NaN is the greatest
number, and the calendar ends where PostgreSQL's ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atdm_engine.arrow import duck
from atdm_engine.arrow.text_columns import starts_and_lengths, text_bytes
from atdm_engine.arrow.types import ColumnKind, arrow_type, column_kind, parse_value
from atdm_engine.patterns.forbidden import Forbidden
from atdm_engine.patterns.pattern import parse_pattern
from atdm_engine.spec.domain import Marker
from atdm_engine.spec.table import ColumnSpec

Passes = Callable[[pa.Array], pa.Array]

_FIRST_DAY = -2_440_588
"""4714-11-24 BC, PostgreSQL's first day, in days from 1970-01-01."""
_LAST_DAY = 2_145_042_905
"""5874897-12-31, its last date."""
_MICROSECONDS = 86_400_000_000
_UUID = r"\A[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\z"


@dataclass(frozen=True)
class ColumnCheck:
    """A check of one column. ``name`` has no bound in it: a moved bound keeps the history."""

    name: str
    description: str
    passes: Passes


def column_checks(
    spec: ColumnSpec, marker: Marker | None = None, forbidden: Mapping[str, str] | None = None
) -> Iterator[ColumnCheck]:
    """The checks of a column besides its type and nullability.

    ``forbidden`` are patterns, by name, that no text may contain.
    """
    kind = column_kind(spec.type)
    yield from _storable(kind)
    if kind.array:
        return
    dtype = arrow_type(spec.type)
    if spec.values is not None:
        allowed = pa.array([parse_value(spec.type, value) for value in spec.values], dtype)
        described = "one of " + ", ".join(spec.values)
        yield ColumnCheck("allowed_values", described, lambda a: _is_in(a, allowed))
    if spec.min is not None:
        low = pa.scalar(parse_value(spec.type, spec.min), dtype)
        yield ColumnCheck("minimum", f"at least {spec.min}", lambda a: _at_least(a, low))
    if spec.max is not None:
        high = pa.scalar(parse_value(spec.type, spec.max), dtype)
        yield ColumnCheck("maximum", f"at most {spec.max}", lambda a: pc.less_equal(a, high))
    if spec.min_length is not None:
        least = spec.min_length
        described = f"at least {least} characters"
        yield ColumnCheck(
            "min_length", described, lambda a: pc.greater_equal(pc.utf8_length(a), least)
        )
    if spec.max_length is not None:
        most = spec.max_length
        described = f"at most {most} characters"
        yield ColumnCheck("max_length", described, lambda a: pc.less_equal(pc.utf8_length(a), most))
    if spec.pattern is not None:
        regex = parse_pattern(spec.pattern).re2_regex
        yield ColumnCheck(
            "pattern", f"matches {spec.pattern}", lambda a: pc.match_substring_regex(a, regex)
        )
    if spec.luhn is not None:
        wanted = spec.luhn == "valid"
        described = f"its Luhn checksum {'holds' if wanted else 'does not hold'}"
        yield ColumnCheck(
            "luhn", described, lambda a: luhn_holds(a) if wanted else pc.invert(luhn_holds(a))
        )
    if marker is not None and marker.starts_with is not None:
        start = marker.starts_with
        yield ColumnCheck("marker", f"starts with {start}", lambda a: pc.starts_with(a, start))
    if marker is not None and marker.equals is not None:
        same = marker.equals
        yield ColumnCheck("marker", f"is {same}", lambda a: pc.equal(a, same))
    if kind.base == "text":
        for name, pattern in (forbidden or {}).items():
            finder = Forbidden(pattern)
            described = f"contains nothing like {pattern}"
            yield ColumnCheck(f"forbidden_{name}", described, finder.absent)


def _storable(kind: ColumnKind) -> Iterator[ColumnCheck]:
    check = STORABLE.get(kind.base)
    if check is not None:
        yield replace(check, passes=_each(check.passes)) if kind.array else check


def _each(passes: Passes) -> Passes:
    """The check of an array: it passes if all its elements pass."""

    def run(array: pa.Array) -> pa.Array:
        elements = pc.list_flatten(array)
        wrong = pc.invert(pc.fill_null(passes(elements), True))
        if not pc.any(wrong).as_py():
            return _all_true(array)
        rows = pc.list_parent_indices(array).filter(wrong).to_numpy()
        result = np.ones(len(array), bool)
        result[rows] = False
        return pa.array(result)

    return run


def _between(array: pa.Array, low: int, high: int) -> pa.Array:
    bounds = pc.min_max(array).as_py()
    if bounds["min"] is None or (bounds["min"] >= low and bounds["max"] <= high):
        return _all_true(array)
    return pc.and_(pc.greater_equal(array, low), pc.less_equal(array, high))


def _at_least(array: pa.Array, low: pa.Scalar) -> pa.Array:
    holds = pc.greater_equal(array, low)
    # In PostgreSQL NaN is greater than every number; in Arrow it is not comparable.
    return pc.or_(holds, pc.is_nan(array)) if pa.types.is_floating(array.type) else holds


def _is_in(array: pa.Array, allowed: pa.Array) -> pa.Array:
    # Arrow gives false for NULL, IN of SQL gives NULL.
    return pc.or_(pc.is_in(array, value_set=allowed), pc.is_null(array))


def _all_true(array: pa.Array) -> pa.Array:
    return pa.repeat(pa.scalar(True), len(array))


def plain_text(array: pa.Array) -> pa.Array:
    """Whether each text is valid UTF-8 without NUL, as PostgreSQL demands of text."""
    data = text_bytes(array)
    # The usual case is found at once: all bytes are ASCII, none is NUL.
    if len(data) == 0 or (data.min() > 0 and data.max() < 0x80):
        return _all_true(array)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        raw = array.cast(pa.binary()).to_pylist()
        valid = pa.array([value is None or _is_text(value) for value in raw])
        return pc.fill_null(valid, True)
    if data.min() > 0:
        return _all_true(array)
    return pc.invert(pc.match_substring(array, pattern="\0"))


def _is_text(value: bytes) -> bool:
    try:
        return "\0" not in value.decode("utf-8")
    except UnicodeDecodeError:
        return False


def json_holds(array: pa.Array) -> pa.Array:
    """Whether jsonb accepts each text: strict JSON without NUL and half surrogate pairs."""
    holds, doubtful = duck.json_verdicts(array)
    # DuckDB also accepts NaN, Infinity and trailing commas: Python reads the few such texts.
    for row in np.flatnonzero(holds & doubtful).tolist():
        holds[row] = _is_strict_json(array[row].as_py())
    return pa.array(holds)


def _is_strict_json(text: str) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.dumps(json.loads(text, parse_constant=refuse), ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        return False
    # An escaped backslash before u0000 is text and no escape, so these are removed first.
    return "\\u0000" not in text.replace("\\\\", "")


def luhn_holds(array: pa.Array) -> pa.Array:
    """Whether each text is ASCII digits, at least one, whose Luhn checksum is 0 modulo 10."""
    data, starts, lengths = starts_and_lengths(array)
    result = np.zeros(len(array), bool)
    for length in np.unique(lengths[lengths > 0]):
        rows = np.flatnonzero(lengths == length)
        if len(rows) == len(array):
            first = int(starts[0])
            block = data[first : first + len(array) * int(length)].reshape(-1, int(length))
        else:
            block = data[starts[rows, None] + np.arange(length)]
        digits = block - np.uint8(48)
        valid = (digits <= 9).all(axis=1)
        doubled = _DOUBLED[digits[:, -2::-2] % 10].sum(axis=1, dtype=np.uint16)
        total = digits[:, ::-2].sum(axis=1, dtype=np.uint16) + doubled
        result[rows] = valid & (total % 10 == 0)
    return pa.array(result, mask=lengths < 0)


_DOUBLED = np.array([0, 2, 4, 6, 8, 1, 3, 5, 7, 9], np.uint8)

STORABLE: Mapping[str, ColumnCheck] = {
    "text": ColumnCheck("plain_text", "valid UTF-8 without NUL characters", plain_text),
    "uuid": ColumnCheck("uuid", "a UUID", lambda a: pc.match_substring_regex(a, pattern=_UUID)),
    "jsonb": ColumnCheck("json", "a JSON text without NUL characters", json_holds),
    "date": ColumnCheck(
        "calendar",
        "a date between 4714 BC and 5874897",
        lambda a: _between(a.view(pa.int32()), _FIRST_DAY, _LAST_DAY),
    ),
    "timestamptz": ColumnCheck(
        "calendar",
        "a timestamp after 4714 BC",
        lambda a: _between(a.view(pa.int64()), _FIRST_DAY * _MICROSECONDS, 2**63 - 1),
    ),
}
"""By base type: the check that PostgreSQL can store a value."""
