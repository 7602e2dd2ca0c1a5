"""``decimal``: a decimal number of a range."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR
from decimal import Decimal as Exact
from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from atdm_engine.arrow.types import ColumnKind, column_kind
from atdm_engine.generators.base import GeneratorModel
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding, placed
from atdm_engine.generators.ranges import decimal_array, drawn, unit_findings, weight_findings
from atdm_engine.random.stream import cumulative, pick
from atdm_engine.values.fields import SpecModel


class DecimalRange(SpecModel):
    min: float = 0.0
    max: float = 1000.0
    weights: list[float] | None = Field(None, description="Weights of equal bins of the range.")

    def units(self, scale: int) -> tuple[int, int]:
        """The range in units of 10 ** -scale, inwards where a bound lies between two units."""
        low = Exact(repr(self.min)).scaleb(scale).to_integral_value(ROUND_CEILING)
        high = Exact(repr(self.max)).scaleb(scale).to_integral_value(ROUND_FLOOR)
        return int(low), int(high)

    def findings(self, kind: ColumnKind) -> Iterator[Finding]:
        """What is wrong with it for values of a column type."""
        if self.max < self.min:
            yield Finding(("min",), str(self.min), f"at most max, {self.max}")
            return
        if kind.base == "double":
            yield from weight_findings(self.weights)
            return
        low, high = self.units(kind.scale)
        if high < low:
            allowed = f"a range that holds a value with {kind.scale} decimal places"
            yield Finding((), f"{self.min} to {self.max}", allowed)
            return
        yield from unit_findings(low, high, kind)
        yield from weight_findings(self.weights, high - low + 1)


class Decimal(GeneratorModel):
    fits: ClassVar = ("numeric", "double")
    json_type: ClassVar = "numeric(18,2)"

    decimal: DecimalRange

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        return placed(self.decimal.findings(self.kind(context)), "decimal")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        """Integers in units of the column's last decimal place, so that nothing is rounded."""
        form, kind = self.decimal, column_kind(column_type)
        if kind.base != "double":
            low, high = form.units(kind.scale)
            return decimal_array(drawn(low, high, form.weights, cells), column_type)
        span = form.max - form.min
        if form.weights is None:
            return pa.array(form.min + cells.uniform() * span)
        index = pick(cumulative(form.weights), cells.derive("bin").uniform())
        return pa.array(form.min + (index + cells.uniform()) * (span / len(form.weights)))
