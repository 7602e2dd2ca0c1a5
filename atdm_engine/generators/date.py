"""``date``: a day of a range, both ends included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pyarrow as pa

from atdm_engine.generators.base import GeneratorModel
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding, placed
from atdm_engine.generators.ranges import drawn
from atdm_engine.generators.times import TimeRange, day_array


class Date(GeneratorModel):
    fits: ClassVar = ("date",)
    json_type: ClassVar = "date"

    date: TimeRange

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        return placed(self.date.findings(), "date")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        first, last = self.date.bounds(cells.setting.as_of, days=True)
        return day_array(drawn(first, last, self.date.weights, cells))
