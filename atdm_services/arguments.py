"""Times and lengths of time that callers of any face write as text."""

from __future__ import annotations

from datetime import datetime, timedelta

from atdm_engine.errors import ErrorCode, UsageError
from atdm_engine.values.times import duration, timestamp


def parse_time(text: str, name: str = "as_of") -> datetime:
    """The ISO 8601 date or time of argument ``name`` in UTC, which is meant without an offset.

    Raises UsageError REQUEST_INVALID.
    """
    try:
        return timestamp(text)
    except ValueError as error:
        raise _refused(
            f"{name} {text!r}: write an ISO 8601 time like 2026-01-31T12:00:00Z", text
        ) from error


def parse_length(text: str, name: str = "ttl") -> timedelta:
    """The length of time of argument ``name``, like ``30m`` or ``4h``; more than zero.

    Raises UsageError REQUEST_INVALID.
    """
    try:
        length = duration(text)
    except (ValueError, OverflowError) as error:
        raise _refused(f"{name}: {error}", text) from error
    if length <= timedelta(0):
        raise _refused(f"{name}: {text!r} is not longer than 0 seconds", text)
    return length


def parse_past(text: str, now: datetime) -> datetime:
    """A moment in UTC: how long before ``now`` (``1d``, ``30m``), or an ISO 8601 time.

    Raises UsageError REQUEST_INVALID.
    """
    try:
        return now - duration(text.strip())
    except (ValueError, OverflowError):
        pass
    try:
        return timestamp(text)
    except ValueError as error:
        raise _refused(
            f"{text!r}: write how long ago (30m, 1d) or an ISO 8601 time like 2026-01-31T12:00:00Z",
            text,
        ) from error


def _refused(message: str, found: str) -> UsageError:
    return UsageError(ErrorCode.REQUEST_INVALID, message, {"found": found})
