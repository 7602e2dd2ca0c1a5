"""Values as texts for the audit page: texts, times, lengths of time, counts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

# Control characters are not allowed in HTML; characters that change the direction of writing could
# make a value look like another one.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ud800-\udfff\ufeff]"
)
_STEPS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))


def text(value: Any, most: int = 200) -> str:
    """A value in at most ``most`` characters, with invisible characters as escapes."""
    if value is None:
        shown = ""
    elif isinstance(value, str):
        shown = value
    elif isinstance(value, bool):
        shown = "true" if value else "false"
    elif isinstance(value, (Mapping, list, tuple)):
        shown = json.dumps(value, ensure_ascii=False, default=str, sort_keys=True)
    else:
        shown = str(value)
    # Cut first: a value may have megabytes.
    shown = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", shown[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1].rstrip() + "\u2026"


def moment(value: datetime | str | None) -> str:
    """A time to the second, in UTC; other texts stay unchanged."""
    found = as_moment(value)
    if found is None:
        return text(value)
    return f"{found:%Y-%m-%d %H:%M:%S} UTC"


def clock(value: datetime | str | None) -> str:
    """A time to the millisecond, in UTC."""
    found = as_moment(value)
    if found is None:
        return text(value)
    return f"{found:%Y-%m-%d %H:%M:%S}.{found.microsecond // 1000:03d}"


def as_moment(value: datetime | str | None) -> datetime | None:
    """An aware time in UTC; a text is ISO 8601."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if value is None:
        return None
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


def length(span: timedelta) -> str:
    """A length of time in at most two units."""
    seconds = span.total_seconds()
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, part, smaller in _STEPS:
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def count(number: int, one: str, several: str | None = None) -> str:
    """``1 row``, ``2 rows``, ``1,200 rows``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def size(number: int | None) -> str:
    """Bytes in the unit that leaves a readable number."""
    if number is None:
        return ""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def listed(values: list[str], most: int) -> str:
    """The first values, and the number of the others."""
    more = len(values) - most
    return ", ".join(values[:most]) + (f" and {more:,} more" if more > 0 else "")
