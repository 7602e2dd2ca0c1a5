"""References that no parent settles: a row of the same run, else a shared reference row."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.generation.layout import Positions
from atdm_engine.generators.cells import Cells
from atdm_engine.random.stream import pick, unit, zipf_shares
from atdm_engine.spec.generators import ReferenceChoice

if TYPE_CHECKING:
    from atdm_engine.generation.batch import GroupView, Link


def chosen_rows(view: GroupView, choice: ReferenceChoice, cells: Cells) -> Link:
    """The rows that ``choice`` picks for the rows of a group; ValueError when there is none."""
    from atdm_engine.generation.batch import Link

    batch = view.batch
    name = choice.table
    group = None
    if name not in batch.spec.domain.tables:
        if name not in batch.layout.groups:
            raise ValueError(f"{name} is neither a table nor a row group")
        group, name = name, batch.plan.table_name(name)
    reference = batch.spec.domain.reference.get(name)
    shared = len(reference) if reference is not None else 0
    if name not in batch.layout.tables:
        if not shared:
            return Link(name, _nothing(view, len(cells), name))
        return Link(name, pa.array(_shared(choice, cells, shared)))
    starts, in_table = _of_runs(view, name, group)
    made = len(batch.layout.tables[name])
    runs = view.rows.batch_runs
    if name == batch.plan.table_name(view.group) and group is None:
        return Link(name, _earlier(view, choice, cells, starts))
    if _one_each(starts):
        places = runs if in_table is None else in_table if runs is None else in_table[runs]
        return Link(name, None if places is None else pa.array(places))
    first = starts[:-1] if runs is None else starts[:-1][runs]
    sizes = np.diff(starts) if runs is None else np.diff(starts)[runs]
    inside = first + _picked(choice, cells, sizes, batch.plan.rows_per_run[name])
    empty = sizes == 0
    inside[empty] = 0
    places = inside if in_table is None else in_table[inside]
    if not empty.any():
        return Link(name, pa.array(places))
    if shared:
        return Link(name, pa.array(np.where(empty, made + _shared(choice, cells, shared), places)))
    _nothing(view, 0, name)
    return Link(name, pa.array(places, mask=empty))


def _of_runs(view: GroupView, table: str, group: str | None) -> tuple[NDArray[np.int64], Positions]:
    """Where each run's candidates start, and their places in the table."""
    layout = view.batch.layout
    if group is None:
        return layout.tables[table].starts, None
    rows = layout.groups[group]
    runs = len(layout.tables[table].starts) - 1
    starts = np.arange(runs + 1)
    if rows.batch_runs is not None:
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows.batch_runs, minlength=runs))])
    return starts, rows.places


def _one_each(starts: NDArray[np.int64]) -> bool:
    return bool((np.diff(starts) == 1).all())


def _nothing(view: GroupView, count: int, table: str) -> pa.Array:
    columns = view.batch.plan.table(view.group).columns
    if not columns[view.making].nullable:
        raise ValueError(f"a run may have no row of {table} to refer to")
    return pa.nulls(count, pa.int64())


def _picked(
    choice: ReferenceChoice, cells: Cells, sizes: NDArray[np.int64], most: int
) -> NDArray[np.int64]:
    """One of ``sizes`` candidates a row, from 0 (0 where there is none).

    ``most`` bounds the sizes whatever the batch, lest rounding differ from batch to batch.
    """
    if choice.distribution == "round_robin":
        rows: NDArray[np.int64] = np.asarray(cells.rows, np.int64) % np.maximum(sizes, 1)
        return rows
    if choice.distribution == "zipf":
        shares = _zipf(most, choice.exponent)
        # The first so many ranks of one long distribution are the distribution of so many.
        part = unit(cells.bits()) * shares[np.maximum(sizes, 1) - 1]
        ranks: NDArray[np.int64] = np.minimum(pick(shares, part), np.maximum(sizes, 1) - 1)
        return ranks
    return cells.below(np.maximum(sizes, 1))


def _shared(choice: ReferenceChoice, cells: Cells, size: int) -> NDArray[np.int64]:
    if choice.distribution == "round_robin":
        turns: NDArray[np.int64] = (cells.runs - 1 + cells.rows) % size
        return turns
    return _picked(choice, cells, np.full(len(cells), size), size)


def _earlier(
    view: GroupView, choice: ReferenceChoice, cells: Cells, starts: NDArray[np.int64]
) -> pa.Array:
    """Rows of the same table: only earlier rows of the run, so that no circle can arise."""
    runs = view.rows.batch_runs
    first = starts[:-1] if runs is None else starts[:-1][runs]
    sizes = np.broadcast_to(np.asarray(cells.rows), (len(cells),)).astype(np.int64)
    most = view.batch.plan.rows_per_run[view.batch.plan.table_name(view.group)]
    places = first + _picked(choice, cells, sizes, most)
    columns = view.batch.plan.table(view.group).columns
    # The first row refers to nothing, or to itself where that is not allowed.
    return pa.array(places, mask=sizes == 0 if columns[view.making].nullable else None)


@lru_cache(maxsize=32)
def _zipf(count: int, exponent: float) -> NDArray[np.float64]:
    return zipf_shares(count, exponent)
