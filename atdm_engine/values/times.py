"""Durations and points in time. The only clock is the ``as_of`` of the request, in UTC."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

DURATION = r"(\d+(?:\.\d+)?)(s|m|h|d|w|y)"
_TIME_EXPRESSION = re.compile(rf"^as_of(?:\s*([+-])\s*{DURATION})?$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
HOUR = 3_600_000_000
"""Microseconds."""
DAY = 24 * HOUR


def duration(text: str) -> timedelta:
    """The length of time that ``text`` (``30d``, ``4h``) names; ValueError if it is none."""
    match = re.fullmatch(DURATION, text)
    if match is None:
        raise ValueError(f"{text!r} is no duration: a number and s, m, h, d, w or y, like 30d")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])


def timestamp(text: str) -> datetime:
    """The ISO 8601 date or time ``text`` in UTC, which is meant where it has no offset.

    Raises ValueError if it is none.
    """
    moment = datetime.fromisoformat(text.strip())
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} lies outside of the years 1 to 9999") from None


def instant(expression: str | date | datetime, as_of: datetime) -> datetime:
    """The moment (UTC) that a time expression names; ValueError if it names none."""
    if isinstance(expression, datetime):
        return expression.replace(tzinfo=UTC) if not expression.tzinfo else expression
    if isinstance(expression, date):
        return datetime(expression.year, expression.month, expression.day, tzinfo=UTC)
    match = _TIME_EXPRESSION.match(expression.strip())
    if match is None:
        try:
            return instant(datetime.fromisoformat(expression.strip()), as_of)
        except ValueError:
            raise ValueError(
                f"{expression!r} is no point in time: a date, a timestamp, as_of, as_of - 30d"
            ) from None
    if match[1] is None:
        return as_of
    try:
        length = duration(match[2] + match[3])
        return as_of - length if match[1] == "-" else as_of + length
    except OverflowError:
        raise ValueError(f"{expression!r} lies outside of the years 1 to 9999") from None


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 in UTC, exactly."""
    return (moment - EPOCH) // MICROSECOND
