"""``timestamp``: a microsecond of a range, both ends included."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.generators.base import GeneratorModel
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding, placed
from atdm_engine.generators.ranges import drawn
from atdm_engine.generators.times import TimeRange, moment_array
from atdm_engine.random.stream import cumulative, pick
from atdm_engine.values.times import DAY, HOUR

MAX_HOURS_RANGE = 200 * 366 * DAY
"""The longest range, in microseconds, that may have weights of the hours."""


class Timestamp(GeneratorModel):
    fits: ClassVar = ("timestamptz",)
    json_type: ClassVar = "timestamptz"

    timestamp: TimeRange

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        return placed(self.timestamp.findings(), "timestamp")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        form = self.timestamp
        first, last = form.bounds(cells.setting.as_of, days=False)
        if form.hours is None and form.weekdays is None:
            return moment_array(drawn(first, last, form.weights, cells))
        hours, weekdays = tuple(form.hours or (1.0,) * 24), tuple(form.weekdays or (1.0,) * 7)
        edges, shares = _hour_slots(first, last, hours, weekdays, tuple(form.weights or (1.0,)))
        slot = pick(shares, cells.derive("hour").uniform())
        return moment_array(cells.below(np.diff(edges)[slot]) + edges[slot])


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
