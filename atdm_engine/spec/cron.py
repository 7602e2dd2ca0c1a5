"""Cron expressions: five fields, as Dagster's schedules take them."""

from __future__ import annotations

import re

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_ITEM = re.compile(r"(\*|[0-9a-z]+)(?:-([0-9a-z]+))?(?:/([0-9]+))?\Z")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def cron_problem(text: str) -> str | None:
    """What is wrong with a cron expression, in words; None when it is one.

    Five fields: minute, hour, day of the month, month, day of the week; numbers, ``*``, lists,
    ranges, steps and English three-letter names. An expression that never comes true is wrong.
    """
    parts = text.split()
    if len(parts) != len(_FIELDS):
        return "five fields (minute hour day month weekday), like 0 2 * * *"
    values: list[frozenset[int]] = []
    for part, (name, low, high, words) in zip(parts, _FIELDS, strict=True):
        found = _values(part.lower(), low, high, words)
        if found is None:
            return f"in the field {name} numbers from {low} to {high}, *, lists, ranges and steps"
        values.append(found)
    if parts[4] == "*" and min(values[2]) > max(_LONGEST[month - 1] for month in values[3]):
        return "a day that the month has"
    return None


def _values(field: str, low: int, high: int, words: tuple[str, ...]) -> frozenset[int] | None:
    found: set[int] = set()
    for item in field.split(","):
        match = _ITEM.match(item)
        if match is None:
            return None
        start, end, step = match.groups()
        if start == "*":
            if end is not None:
                return None
            first, last = low, high
        else:
            numbers = [_number(word, low, words) for word in (start, end or start)]
            if None in numbers:
                return None
            first, last = (number for number in numbers if number is not None)
            if step is not None and end is None:
                # 5/10 means 5-59/10 to some and 5 to others: one has to say which.
                return None
        width = int(step or 1)
        if not low <= first <= last <= high or not 1 <= width <= high:
            return None
        found |= set(range(first, last + 1, width))
    return frozenset(found)


def _number(word: str, low: int, words: tuple[str, ...]) -> int | None:
    if word in words:
        return words.index(word) + low
    return int(word) if word.isdigit() and len(word) <= 2 else None
