"""The rows that references pick: of the same run, else the shared reference rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.generation.layout import GroupRows, Layout, Positions, through
from atdm_engine.generation.plan import GenerationPlan
from atdm_engine.generators.cells import Cells, RowChoice


@dataclass(frozen=True)
class Link:
    """Rows that rows refer to: places in ``table``'s made rows, followed by its reference rows.

    ``places`` None: each row refers to the made row at its own place. A NULL place refers to
    nothing.
    """

    table: str
    places: pa.Array | None

    @classmethod
    def to_made(cls, table: str, places: Positions) -> Link:
        """Rows that refer to made rows."""
        return cls(table, None if places is None else pa.array(places))


@dataclass(frozen=True)
class Linker:
    """Links the rows of a row group of a batch; ``column`` is the one that refers."""

    plan: GenerationPlan
    layout: Layout
    group: str
    column: str

    @property
    def rows(self) -> GroupRows:
        """Where the group's rows are."""
        return self.layout.groups[self.group]

    def link(self, choice: RowChoice, cells: Cells) -> Link:
        """The rows that ``choice`` picks; ValueError when there is none."""
        name = choice.table
        group = None
        if name not in self.plan.domain.tables:
            if name not in self.layout.groups:
                raise ValueError(f"{name} is neither a table nor a row group")
            group, name = name, self.plan.table_name(name)
        reference = self.plan.domain.reference.get(name)
        shared = len(reference) if reference is not None else 0
        if name not in self.layout.tables:
            if not shared:
                return Link(name, self._no_rows(name, len(cells)))
            return Link(name, pa.array(choice.picked_of_all(cells, shared)))
        starts, in_table = self._candidates(name, group)
        made = len(self.layout.tables[name])
        runs = self.rows.batch_runs
        if name == self.plan.table_name(self.group) and group is None:
            return Link(name, self._earlier_rows(choice, cells, starts))
        if bool((np.diff(starts) == 1).all()):
            return Link.to_made(name, through(runs, in_table))
        first = starts[:-1] if runs is None else starts[:-1][runs]
        sizes = np.diff(starts) if runs is None else np.diff(starts)[runs]
        inside = first + choice.picked(cells, sizes, self.plan.rows_per_run[name])
        empty = sizes == 0
        inside[empty] = 0
        places = inside if in_table is None else in_table[inside]
        if not empty.any():
            return Link(name, pa.array(places))
        if shared:
            others = made + choice.picked_of_all(cells, shared)
            return Link(name, pa.array(np.where(empty, others, places)))
        self._no_rows(name, 0)
        return Link(name, pa.array(places, mask=empty))

    def _candidates(self, table: str, group: str | None) -> tuple[NDArray[np.int64], Positions]:
        """Where each run's candidates start, and their places in the table."""
        if group is None:
            return self.layout.tables[table].starts, None
        rows = self.layout.groups[group]
        runs = len(self.layout.tables[table].starts) - 1
        starts = np.arange(runs + 1)
        if rows.batch_runs is not None:
            starts = np.concatenate([[0], np.cumsum(np.bincount(rows.batch_runs, minlength=runs))])
        return starts, rows.places

    def _earlier_rows(self, choice: RowChoice, cells: Cells, starts: NDArray[np.int64]) -> pa.Array:
        """Rows of the same table: only earlier rows of the run, so that no circle can arise."""
        runs = self.rows.batch_runs
        first = starts[:-1] if runs is None else starts[:-1][runs]
        sizes = np.broadcast_to(np.asarray(cells.rows), (len(cells),)).astype(np.int64)
        most = self.plan.rows_per_run[self.plan.table_name(self.group)]
        places = first + choice.picked(cells, sizes, most)
        # The first row refers to nothing, or to itself where that is not allowed.
        return pa.array(places, mask=sizes == 0 if self._nullable else None)

    def _no_rows(self, table: str, count: int) -> pa.Array:
        """Places of rows that refer to nothing; ValueError when the column must refer."""
        if not self._nullable:
            raise ValueError(f"a run may have no row of {table} to refer to")
        return pa.nulls(count, pa.int64())

    @property
    def _nullable(self) -> bool:
        return self.plan.table(self.group).columns[self.column].nullable
