"""Where the rows of a batch are: which run, which row of the run, made for which other row.

Everything is an array over the rows of a group or a table; ``None`` stands for the identity, which
is the usual case of one row a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atdm_engine.generation.counts import after_parents, count_range, drawn_counts, resolved_count
from atdm_engine.model import Scenario
from atdm_engine.random.stream import Numbers, Stream
from atdm_engine.spec.scenario import Count
from atdm_engine.values.scalars import TypedScalar

Positions = NDArray[np.int64] | None
"""Where rows are in other rows; None: each at its own place."""


def through(first: Positions, second: Positions) -> Positions:
    """Where ``first`` leads when ``second`` leads on from there."""
    if first is None:
        return second
    return first if second is None else second[first]


@dataclass(frozen=True)
class GroupRows:
    """The rows of one row group, ordered by run.

    ``runs`` are run numbers, ``batch_runs`` places of the run in the batch, ``rows`` row indexes in
    run (0-based, over the whole table), ``parents`` places in the group they are made ``per`` and
    ``places`` places in their table.
    """

    runs: NDArray[np.int64]
    batch_runs: Positions
    rows: Numbers
    parents: Positions
    places: Positions

    def __len__(self) -> int:
        return len(self.runs)


@dataclass(frozen=True)
class TableRows:
    """The rows of one table, ordered by run and row in run.

    ``starts`` has one entry a run of the batch and the end; ``order`` brings the rows of its
    groups, one group behind the other, into this order.
    """

    runs: NDArray[np.int64]
    starts: NDArray[np.int64]
    groups: tuple[str, ...]
    order: Positions

    def __len__(self) -> int:
        return len(self.runs)


@dataclass(frozen=True)
class Layout:
    """All rows of a batch."""

    groups: Mapping[str, GroupRows]
    tables: Mapping[str, TableRows]


@dataclass(frozen=True)
class _Local:
    """A group before its table is known: rows ordered by run, numbered within the group's run."""

    batch_runs: Positions
    index: Numbers
    parents: Positions
    per_run: NDArray[np.int64]


def lay_out(
    scenario: Scenario, constraints: Mapping[str, TypedScalar], seed: int, first: int, last: int
) -> Layout:
    """The rows of runs ``first``..``last`` (both included)."""
    numbers = np.arange(first, last + 1, dtype=np.int64)
    one_a_run = _Local(None, 0, None, np.ones(len(numbers), np.int64))
    local: dict[str, _Local] = {}
    for name in after_parents(scenario):
        group = scenario.groups[name]
        parent = local[group.per] if group.per else one_a_run
        stream = Stream((seed, scenario.key, "rows", name))
        local[name] = _grown(parent, numbers, resolved_count(group, constraints), stream)
    tables: dict[str, TableRows] = {}
    groups: dict[str, GroupRows] = {}
    for table in scenario.tables:
        names = tuple(
            name for name, group in scenario.groups.items() if (group.table or name) == table
        )
        rows, members = _table(numbers, names, [local[name] for name in names])
        tables[table] = rows
        groups.update(zip(names, members, strict=True))
    return Layout(groups, tables)


def _grown(parent: _Local, numbers: NDArray[np.int64], count: Count, stream: Stream) -> _Local:
    """The rows of a group that is made per row of ``parent``."""
    if count_range(count) == (1, 1):
        return _Local(parent.batch_runs, parent.index, None, parent.per_run)
    owner_runs = parent.batch_runs
    runs = numbers if owner_runs is None else numbers[owner_runs]
    counts = drawn_counts(count, stream, runs, parent.index)
    parents = np.repeat(np.arange(len(runs)), counts)
    batch_runs = parents if owner_runs is None else owner_runs[parents]
    per_run = np.bincount(batch_runs, minlength=len(numbers)).astype(np.int64)
    index = np.arange(len(parents)) - _starts(per_run)[batch_runs]
    return _Local(batch_runs, index, parents, per_run)


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def _table(
    numbers: NDArray[np.int64], names: tuple[str, ...], local: list[_Local]
) -> tuple[TableRows, list[GroupRows]]:
    if len(local) == 1:
        only = local[0]
        runs = numbers if only.batch_runs is None else numbers[only.batch_runs]
        table = TableRows(runs, _starts(only.per_run), names, None)
        return table, [GroupRows(runs, only.batch_runs, only.index, only.parents, None)]
    starts = _starts(sum((part.per_run for part in local), np.zeros(len(numbers), np.int64)))
    before = np.zeros(len(numbers), np.int64)
    places: list[NDArray[np.int64]] = []
    members: list[GroupRows] = []
    for part in local:
        batch_runs = np.arange(len(numbers)) if part.batch_runs is None else part.batch_runs
        rows = part.index + before[batch_runs]
        places.append(starts[batch_runs] + rows)
        members.append(
            GroupRows(numbers[batch_runs], part.batch_runs, rows, part.parents, places[-1])
        )
        before = before + part.per_run
    everywhere = np.concatenate(places)
    order = np.empty(len(everywhere), np.int64)
    order[everywhere] = np.arange(len(everywhere))
    return TableRows(np.repeat(numbers, np.diff(starts)), starts, names, order), members
