"""Ranges of time, and days and moments as columns."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from atdm_engine.generators.context import Finding
from atdm_engine.generators.ranges import weight_findings
from atdm_engine.values.fields import SpecModel, TimeExpression
from atdm_engine.values.times import DAY, EPOCH, instant, microseconds


class TimeRange(SpecModel):
    start: TimeExpression = Field(alias="from")
    stop: TimeExpression = Field(alias="to")
    weights: list[float] | None = Field(None, description="Weights of equal bins of the range.")
    hours: list[float] | None = Field(
        None, min_length=24, max_length=24, description="timestamp only: weight of each hour, UTC."
    )
    weekdays: list[float] | None = Field(
        None, min_length=7, max_length=7, description="timestamp only: weights from Monday on, UTC."
    )

    def findings(self) -> Iterator[Finding]:
        """What is wrong with it, whatever the request's clock."""
        for name, edge in (("from", self.start), ("to", self.stop)):
            try:
                instant(edge, EPOCH.replace(year=2000))
            except ValueError:
                allowed = "a date, a timestamp, or as_of, as_of - 30d, as_of + 12h"
                yield Finding((name,), repr(edge), allowed)
        yield from weight_findings(self.weights)

    def bounds(self, as_of: datetime, *, days: bool) -> tuple[int, int]:
        """First and last day, or microsecond, since 1970; ValueError when the range is empty."""
        start, stop = (microseconds(instant(edge, as_of)) for edge in (self.start, self.stop))
        if days:
            start, stop = start // DAY, stop // DAY
        if stop < start:
            raise ValueError(f"the range ends ({self.stop}) before it starts ({self.start})")
        return start, stop


def day_array(values: NDArray[np.int64], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Days since 1970 as dates, NULL where ``missing`` is true."""
    return pa.array(values.astype(np.int32), mask=missing).cast(pa.date32())


def moment_array(values: NDArray[np.int64], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Microseconds since 1970 as timestamps, NULL where ``missing`` is true."""
    return pa.array(values, mask=missing).cast(pa.timestamp("us", tz="UTC"))
