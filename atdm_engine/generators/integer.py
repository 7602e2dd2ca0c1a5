"""``integer``: a whole number of a range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from atdm_engine.arrow.types import INTEGER_BITS, ColumnKind, column_kind
from atdm_engine.generators.base import NumberedModel
from atdm_engine.generators.cells import Cells, Luhn
from atdm_engine.generators.context import ColumnContext, Finding, placed
from atdm_engine.generators.ranges import drawn, number_array, unit_findings, weight_findings
from atdm_engine.random.permutation import MAX_CAPACITY
from atdm_engine.random.stream import pick, zipf_shares
from atdm_engine.values.fields import SpecModel

MAX_RANKS = 1_000_000
"""The longest range a zipf distribution may have."""


class IntegerRange(SpecModel):
    min: int = 0
    max: int = 100
    distribution: Literal["uniform", "zipf"] = "uniform"
    exponent: float = Field(1.2, gt=0.0)
    weights: list[float] | None = Field(None, description="Weights of equal bins of the range.")

    @property
    def span(self) -> int:
        """How many values it has."""
        return self.max - self.min + 1

    def findings(self, kind: ColumnKind) -> Iterator[Finding]:
        """What is wrong with it for values of a column type."""
        if self.max < self.min:
            yield Finding(("min",), str(self.min), f"at most max, {self.max}")
            return
        if kind.base == "numeric":
            yield from unit_findings(self.min * 10**kind.scale, self.max * 10**kind.scale, kind)
        else:
            limit = 1 << (INTEGER_BITS.get(kind.base, 64) - 1)
            if self.min < -limit or self.max >= limit or self.span > 1 << 63:
                allowed = f"{-limit} to {limit - 1}, and at most 2 ** 63 values"
                yield Finding((), f"{self.min} to {self.max}", f"what {kind.base} holds: {allowed}")
        if self.distribution == "zipf" and self.span > MAX_RANKS:
            found = f"zipf over {self.span} values"
            yield Finding(("distribution",), found, f"at most {MAX_RANKS} values")
        yield from weight_findings(self.weights, self.span)


class Integer(NumberedModel):
    fits: ClassVar = ("smallint", "integer", "bigint", "numeric", "double")
    json_type: ClassVar = "bigint"

    integer: IntegerRange

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        return placed(self.integer.findings(self.kind(context)), "integer")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        form = self.integer
        if form.distribution == "zipf":
            values = pick(zipf_shares(form.span, form.exponent), cells.uniform()) + form.min
        else:
            values = drawn(form.min, form.max, form.weights, cells)
        return number_array(values, column_type)

    def capacity(self, luhn: Luhn | None) -> int:
        if self.integer.distribution != "uniform" or self.integer.weights is not None:
            raise ValueError("a unique integer has no distribution and no weights")
        return min(self.integer.span, MAX_CAPACITY)

    def unrank(self, ranks: NDArray[np.int64], column_type: str, luhn: Luhn | None) -> pa.Array:
        return number_array(ranks + self.integer.min, column_type)

    def rank(self, values: pa.Array, column_type: str, luhn: Luhn | None) -> NDArray[np.int64]:
        if column_kind(column_type).base == "numeric":
            values = pc.floor(values)
        least = self.integer.min
        whole = values.cast(pa.int64()).fill_null(least - 1)
        ranks: NDArray[np.int64] = whole.to_numpy(zero_copy_only=False) - least
        return ranks
