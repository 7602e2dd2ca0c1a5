"""Values of options that need reading: constraints, times, lengths of time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from atdm.cli.output import UsageError
from atdm_engine.errors import ErrorCode


def constraints_of(pairs: Sequence[str]) -> dict[str, str]:
    """``["a=1", "b=x=y"]`` as a mapping; UsageError for anything else, and for two values."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        name = name.strip()
        if not separator or not name:
            raise UsageError(
                ErrorCode.REQUEST_INVALID,
                f"-c {pair}: write it as -c key=value",
                {"found": pair},
            )
        if found.get(name, value) != value:
            raise UsageError(
                ErrorCode.REQUEST_INVALID,
                f"-c {name} is given twice: {found[name]!r} and {value!r}",
                {"constraint": name, "found": [found[name], value]},
            )
        found[name] = value
    return found


def moment_of(text: str) -> datetime:
    """An ISO 8601 date or time as an aware datetime in UTC; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"as_of {text!r}: write an ISO 8601 time like 2026-01-31T12:00:00Z",
            {"found": text},
        ) from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def length_of(text: str) -> timedelta:
    """A length of time like ``30m`` or ``4h``; more than zero."""
    from atdm_engine.values.times import duration

    try:
        length = duration(text)
    except ValueError as error:
        raise UsageError(ErrorCode.REQUEST_INVALID, f"ttl: {error}", {"found": text}) from error
    if length <= timedelta(0):
        raise UsageError(
            ErrorCode.REQUEST_INVALID, "ttl: a lease that lasts no time", {"found": text}
        )
    return length


def past_of(text: str, now: datetime) -> datetime:
    """A moment in the past: so long ago (``1d``, ``30m``), or an ISO 8601 time; UTC if unsaid."""
    from atdm_engine.values.times import duration

    try:
        return now - duration(text.strip())
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"{text!r}: write how long ago (30m, 1d) or an ISO 8601 time like 2026-01-31T12:00:00Z",
            {"found": text},
        ) from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
