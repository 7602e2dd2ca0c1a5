"""Profiles of columns (NULLs, extremes, frequent values), shown at a materialisation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atdm_engine.arrow.types import column_kind
from atdm_engine.spec.table import TableSpec
from atdm_engine.values.scalars import json_value

SAMPLE_ROWS = 10_000
TOP_VALUES = 5
BINS = 12
"""Bins of a histogram."""

_ORDERED = frozenset(
    {"smallint", "integer", "bigint", "double", "numeric", "date", "timestamptz", "text"}
)
_WITH_DISTANCE = (int, float, Decimal, date, datetime)


@dataclass
class _Column:
    ordered: bool
    nulls: int = 0
    extremes: tuple[Any, ...] = ()
    values: Counter[Any] = field(default_factory=Counter)


class ColumnProfile:
    """Accumulates the profile of one table over its batches.

    ``rows``, ``nulls``, ``min`` and ``max`` are of all rows (texts: of the sample). ``distinct``,
    ``top`` and ``histogram`` are of the first ``sample_rows`` rows, which is all of them while the
    table is no larger (``complete``). ``histogram`` counts values in equal steps between
    the least and the greatest; it is None for what has no distance (texts) or too few values.
    """

    def __init__(self, spec: TableSpec, *, sample_rows: int = SAMPLE_ROWS) -> None:
        self._sample_rows = sample_rows
        self._rows = 0
        self._columns = {
            name: _Column(
                column_kind(column.type).base in _ORDERED and not column_kind(column.type).array
            )
            for name, column in spec.columns.items()
        }

    def add(self, table: pa.Table) -> None:
        """Add a batch: a table with (at least) the columns of the specification."""
        room = max(0, self._sample_rows - self._rows)
        sample = table.slice(0, room)
        for name, column in self._columns.items():
            values = table.column(name)
            column.nulls += values.null_count
            if room:
                column.values.update(_counted(sample.column(name)))
            # Comparing all texts is slow and their order means little: the sample is enough.
            source = sample.column(name) if pa.types.is_string(values.type) else values
            if column.ordered and len(source) > source.null_count:
                known = (*column.extremes, *pc.min_max(source).as_py().values())
                column.extremes = (min(known), max(known))
        self._rows += len(table)

    def result(self) -> dict[str, Any]:
        """The profile as JSON values: ``rows``, ``sampled_rows``, ``complete`` and ``columns``."""
        sampled = min(self._rows, self._sample_rows)
        return {
            "rows": self._rows,
            "sampled_rows": sampled,
            "complete": sampled == self._rows,
            "columns": {
                name: {
                    "nulls": column.nulls,
                    "distinct": len(column.values),
                    "min": json_value(column.extremes[0] if column.extremes else None),
                    "max": json_value(column.extremes[1] if column.extremes else None),
                    "top": [
                        {"value": json_value(value), "rows": rows}
                        for value, rows in sorted(
                            column.values.items(), key=lambda item: (-item[1], str(item[0]))
                        )[:TOP_VALUES]
                    ],
                    "histogram": _histogram(column.values),
                }
                for name, column in self._columns.items()
            },
        }


def _histogram(values: Counter[Any]) -> list[int] | None:
    if len(values) <= TOP_VALUES or not isinstance(next(iter(values)), _WITH_DISTANCE):
        return None
    places = np.array([_place(value) for value in values])
    counts = np.fromiter(values.values(), np.int64, len(values))
    known = np.isfinite(places)
    # Halves, scaled to 0..1: the widest span of doubles overflows, the smallest has no 12 steps.
    halves = places[known] / 2
    low, high = (halves.min(), halves.max()) if len(halves) else (0.0, 0.0)
    scaled = (halves - low) / ((high - low) or 1.0)
    found, _ = np.histogram(scaled, BINS, range=(0, 1), weights=counts[known])
    return [int(count) for count in found]


def _place(value: Any) -> float:
    """A value as a number."""
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value.toordinal() if isinstance(value, date) else value)


def _counted(values: pa.ChunkedArray) -> dict[Any, int]:
    if pa.types.is_list(values.type):
        return dict(Counter(tuple(item) for item in values.to_pylist() if item is not None))
    counts = pc.value_counts(values)
    return {
        entry["values"]: entry["counts"]
        for entry in counts.to_pylist()
        if entry["values"] is not None
    }
