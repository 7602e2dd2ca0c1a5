"""Dates and instants between PostgreSQL's text and Arrow, over PostgreSQL's whole calendar.

In Arrow a moment is PostgreSQL's number, counted from 1970 instead of 2000. The last moments wrap
around to numbers that no other moment has, so nothing is lost. Texts are those of
``DateStyle = 'ISO, YMD'`` and ``TimeZone = 'UTC'``.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import null_rows

DAYS_TO_2000: Final = 10_957
"""From Arrow's epoch to PostgreSQL's."""

_PARTS = re.compile(
    r"(?P<year>\d+)(?P<day>-\d\d-\d\d)"
    r"(?: (?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:\.(?P<fraction>\d{1,6}))?\+00)?"
    r"(?P<before> BC)?\Z"
)
_DAY_MICROSECONDS: Final = 86_400_000_000
_FIRST_DAY: Final = int(np.datetime64("0001-01-01", "D").astype(np.int64))
_LAST_DAY: Final = int(np.datetime64("9999-12-31", "D").astype(np.int64))


def from_text(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """PostgreSQL's texts as ``kind``: date32, or timestamp in microseconds and UTC.

    Raises:
        ValueError: a text that PostgreSQL does not print for the type.
    """
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        numbers = _integers(kind)
        values = [None if text is None else _number(text, kind) for text in texts.to_pylist()]
        return pa.array(values, numbers).view(kind)


def as_text(moments: pa.Array) -> pa.Array:
    """Dates or instants as PostgreSQL prints them."""
    kind = moments.type
    if not usual(moments):
        printed = [
            None if null else _printed(number, kind)
            for number, null in zip(
                numbers_of(moments).tolist(), null_rows(moments).tolist(), strict=True
            )
        ]
        return pa.array(printed, pa.string())
    texts = moments.cast(pa.string())
    if pa.types.is_date(kind):
        return texts
    return pc.replace_substring_regex(texts, r"(\.\d*[1-9])?\.?0*Z$", r"\1+00")


def usual(moments: pa.Array) -> bool:
    """Whether Arrow reads and writes all of them as PostgreSQL does: years 1 to 9999."""
    numbers, day = numbers_of(moments), _a_day(moments.type)
    usual = (numbers >= _FIRST_DAY * day) & (numbers < (_LAST_DAY + 1) * day)
    if moments.null_count:
        usual |= null_rows(moments)
    return bool(usual.all())


def numbers_of(moments: pa.Array) -> NDArray[Any]:
    """Days or microseconds since 1970; an arbitrary number where the value is NULL."""
    kind = np.dtype("i4" if pa.types.is_date(moments.type) else "i8")
    values = np.frombuffer(moments.buffers()[1], kind)
    return values[moments.offset : moments.offset + len(moments)]


def _integers(kind: pa.DataType) -> pa.DataType:
    return pa.int32() if pa.types.is_date(kind) else pa.int64()


def _a_day(kind: pa.DataType) -> int:
    return 1 if pa.types.is_date(kind) else _DAY_MICROSECONDS


def _wrapped(number: int, kind: pa.DataType) -> int:
    half: int = 1 << (_integers(kind).bit_width - 1)
    return (number + half) % (2 * half) - half


def _number(text: str, kind: pa.DataType) -> int:
    largest = (1 << (_integers(kind).bit_width - 1)) - 1
    shift = DAYS_TO_2000 * _a_day(kind)
    if text in ("infinity", "-infinity"):
        return _wrapped((largest if text == "infinity" else -largest - 1) + shift, kind)
    match = _PARTS.match(text)
    if match is None or (match["hour"] is None) != pa.types.is_date(kind):
        raise ValueError(f"{text!r} is no {kind}")
    # numpy has a year 0, which is 1 BC.
    year = 1 - int(match["year"]) if match["before"] else int(match["year"])
    number = int(np.datetime64(f"{year:+05d}{match['day']}", "D").astype(np.int64)) * _a_day(kind)
    if match["hour"]:
        minutes = int(match["hour"]) * 60 + int(match["minute"])
        seconds = minutes * 60 + int(match["second"])
        number += seconds * 1_000_000 + int((match["fraction"] or "").ljust(6, "0"))
    return _wrapped(number, kind)


def _printed(number: int, kind: pa.DataType) -> str:
    largest = (1 << (_integers(kind).bit_width - 1)) - 1
    theirs = _wrapped(number - DAYS_TO_2000 * _a_day(kind), kind)
    if theirs in (largest, -largest - 1):
        return "infinity" if theirs == largest else "-infinity"
    days, rest = divmod(theirs, _a_day(kind))
    text = str(np.datetime64(days + DAYS_TO_2000, "D"))
    year = int(text[:-6])
    # PostgreSQL prints at least four digits.
    printed = f"{year if year > 0 else 1 - year:04d}{text[-6:]}"
    if not pa.types.is_date(kind):
        seconds, fraction = divmod(rest, 1_000_000)
        printed += f" {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        printed += f".{fraction:06d}".rstrip("0") if fraction else ""
        printed += "+00"
    return printed if year > 0 else f"{printed} BC"
