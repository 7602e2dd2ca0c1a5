"""Generators of dates and timestamps. The only clock is the ``as_of`` of the request, in UTC."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.arrow.types import column_kind
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.scalars import ranged
from atdm_engine.random.stream import cumulative, pick
from atdm_engine.spec.generators import After, Before, Date, TimeRange, Timestamp
from atdm_engine.values.times import DAY, HOUR, MICROSECOND, duration, instant, microseconds

MAX_HOURS_RANGE = 200 * 366 * DAY
"""The longest range, in microseconds, that may have weights of the hours."""


def bounds(form: TimeRange, as_of: datetime, *, days: bool) -> tuple[int, int]:
    """First and last day, or microsecond, of a range; ValueError when it is empty."""
    start, stop = (microseconds(instant(edge, as_of)) for edge in (form.start, form.stop))
    if days:
        start, stop = start // DAY, stop // DAY
    if stop < start:
        raise ValueError(f"the range ends ({form.stop}) before it starts ({form.start})")
    return start, stop


def dates(generator: Date, cells: Cells) -> pa.Array:
    """A day of a range, both ends included."""
    first, last = bounds(generator.date, cells.setting.as_of, days=True)
    return _days(ranged(first, last, generator.date.weights, cells))


def timestamps(generator: Timestamp, cells: Cells) -> pa.Array:
    """A microsecond of a range, both ends included."""
    form = generator.timestamp
    first, last = bounds(form, cells.setting.as_of, days=False)
    if form.hours is None and form.weekdays is None:
        return _moments(ranged(first, last, form.weights, cells))
    hours, weekdays = tuple(form.hours or (1.0,) * 24), tuple(form.weekdays or (1.0,) * 7)
    edges, shares = _hour_slots(first, last, hours, weekdays, tuple(form.weights or (1.0,)))
    slot = pick(shares, cells.derive("hour").uniform())
    return _moments(cells.below(np.diff(edges)[slot]) + edges[slot])


@lru_cache(maxsize=32)
def _hour_slots(
    first: int,
    last: int,
    hours: tuple[float, ...],
    weekdays: tuple[float, ...],
    weights: tuple[float, ...],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The range cut at every full hour and every bin edge, and the running share of each piece."""
    if last - first > MAX_HOURS_RANGE:
        raise ValueError("a range with weights of the hours is at most 200 years long")
    whole = np.arange(first // HOUR * HOUR + HOUR, last + 1, HOUR, dtype=np.int64)
    span = last + 1 - first
    bins = np.array([first + span * n // len(weights) for n in range(len(weights) + 1)], np.int64)
    edges = np.unique(np.concatenate([whole, bins]))
    begin, length = edges[:-1], np.diff(edges)
    of_hour = np.asarray(hours)[begin // HOUR % 24]
    # Day 0, 1 January 1970, was a Thursday; weights start on Monday.
    of_weekday = np.asarray(weekdays)[(begin // DAY + 3) % 7]
    of_bin = np.asarray(weights)[np.searchsorted(bins, begin, side="right") - 1]
    share = of_hour * of_weekday * of_bin * length
    if share.sum() <= 0:
        raise ValueError("the weights leave no moment of the range")
    return edges, cumulative(share)


def offset(generator: After | Before, column_type: str, cells: Cells) -> pa.Array:
    """Some time after or before another column; NULL where that is NULL."""
    after = isinstance(generator, After)
    form = generator.after if isinstance(generator, After) else generator.before
    base = cells.around.column(form.column)
    if not (pa.types.is_date32(base.type) or pa.types.is_timestamp(base.type)):
        raise ValueError(f"{form.column} is neither a date nor a timestamp")
    least, most = duration(form.min) // MICROSECOND, duration(form.max) // MICROSECOND
    if most < least:
        raise ValueError(f"max ({form.max}) is less than min ({form.min})")
    days = column_kind(column_type).base == "date"
    based_on_days = pa.types.is_date32(base.type)
    missing = base.is_null().to_numpy(zero_copy_only=False) if base.null_count else None
    if based_on_days:
        start = base.cast(pa.int32()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    else:
        start = base.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    unit = 1 if days and based_on_days and least % DAY == 0 and most % DAY == 0 else None
    if unit is not None:
        least, most = least // DAY, most // DAY
    elif based_on_days:
        start = start * DAY
    length = cells.below(most - least + 1) + least if most > least else np.int64(least)
    values = start + length if after else start - length
    if days:
        return _days(values if unit else values // DAY, missing)
    return _moments(values, missing)


def _days(values: NDArray[np.int64], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.array(values.astype(np.int32), mask=missing).cast(pa.date32())


def _moments(values: NDArray[np.int64], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.array(values, mask=missing).cast(pa.timestamp("us", tz="UTC"))
