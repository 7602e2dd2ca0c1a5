"""``references``: the key of another row, of the same test run where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from atdm_engine.generators.base import GeneratorModel
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding
from atdm_engine.random.stream import pick, unit, zipf_shares
from atdm_engine.values.fields import SpecModel


class ReferenceChoice(SpecModel):
    table: str
    distribution: Literal["uniform", "zipf", "round_robin"] = "uniform"
    exponent: float = Field(
        1.2, gt=0.0, description="zipf only: weight of rank r is r ** -exponent."
    )

    def picked(self, cells: Cells, sizes: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        """One of ``sizes`` candidates for each cell, from 0 (0 where there is none).

        ``most`` bounds the sizes in any batch, so that rounding does not depend on the batch.
        """
        if self.distribution == "round_robin":
            turns: NDArray[np.int64] = np.asarray(cells.rows, np.int64) % np.maximum(sizes, 1)
            return turns
        if self.distribution == "zipf":
            shares = zipf_shares(most, self.exponent)
            # The first so many ranks of one long distribution are the distribution of so many.
            part = unit(cells.bits()) * shares[np.maximum(sizes, 1) - 1]
            ranks: NDArray[np.int64] = np.minimum(pick(shares, part), np.maximum(sizes, 1) - 1)
            return ranks
        return cells.below(np.maximum(sizes, 1))

    def picked_of_all(self, cells: Cells, size: int) -> NDArray[np.int64]:
        """One of ``size`` candidates that all cells share."""
        if self.distribution == "round_robin":
            turns: NDArray[np.int64] = (cells.runs - 1 + cells.rows) % size
            return turns
        return self.picked(cells, np.full(len(cells), size), size)


class References(GeneratorModel):
    """``{references: provider}``: the key of a row of that table, of the same run where it can."""

    names_rows: ClassVar = True

    references: str | ReferenceChoice

    @property
    def choice(self) -> ReferenceChoice:
        """The table and how a row of it is chosen."""
        form = self.references
        return ReferenceChoice(table=form) if isinstance(form, str) else form

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        short = isinstance(self.references, str)
        path = ("references",) if short else ("references", "table")
        yield from context.reference(path, self.choice.table)

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        return cells.around.keys(self.choice, cells)
