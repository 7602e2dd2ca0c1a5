"""``after`` and ``before``: some time after or before another column; NULL where that is NULL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np
import pyarrow as pa

from atdm_engine.arrow.types import column_kind
from atdm_engine.generators.base import GeneratorModel
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding
from atdm_engine.generators.times import day_array, moment_array
from atdm_engine.values.fields import Duration, SpecModel
from atdm_engine.values.times import DAY, MICROSECOND, duration


class Offset(SpecModel):
    """``column`` is a column of the row (``created_at``) or of a parent (``order.created_at``)."""

    column: str
    min: Duration = "0s"
    max: Duration


class _Shifted(GeneratorModel):
    fits: ClassVar = ("date", "timestamptz")
    json_type: ClassVar = "timestamptz"
    sign: ClassVar[int]

    @property
    def offset(self) -> Offset:
        """From which column, and how far."""
        found: Offset = getattr(self, self.keyword())
        return found

    def own_columns(self) -> Iterable[str]:
        return () if "." in self.offset.column else (self.offset.column,)

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        word, form = self.keyword(), self.offset
        path = (word, "column")
        column = yield from context.column(path, form.column)
        if column is not None and column.type not in ("date", "timestamptz"):
            found = f"{form.column!r}, a {column.type}"
            yield Finding(path, found, "a date or timestamptz column")
        if duration(form.max) < duration(form.min):
            yield Finding((word, "min"), form.min, f"at most max, {form.max}")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        form = self.offset
        base = cells.around.column(form.column)
        if not (pa.types.is_date32(base.type) or pa.types.is_timestamp(base.type)):
            raise ValueError(f"{form.column} is neither a date nor a timestamp")
        least, most = duration(form.min) // MICROSECOND, duration(form.max) // MICROSECOND
        missing = base.is_null().to_numpy(zero_copy_only=False) if base.null_count else None
        of_days = pa.types.is_date32(base.type)
        start = base.cast(pa.int32() if of_days else pa.int64()).fill_null(0)
        start = start.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
        days = column_kind(column_type).base == "date"
        whole_days = days and of_days and least % DAY == 0 and most % DAY == 0
        if whole_days:
            least, most = least // DAY, most // DAY
        elif of_days:
            start = start * DAY
        length = cells.below(most - least + 1) + least if most > least else np.int64(least)
        values = start + self.sign * length
        if days:
            return day_array(values if whole_days else values // DAY, missing)
        return moment_array(values, missing)


class After(_Shifted):
    sign: ClassVar = 1

    after: Offset


class Before(_Shifted):
    sign: ClassVar = -1

    before: Offset
