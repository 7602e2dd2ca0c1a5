"""The rows of one batch: each column made once, on demand, in the order of their dependencies."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atdm_engine.arrow.types import repeated
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.layout import GroupRows, Positions, lay_out, through
from atdm_engine.generation.links import Link, Linker
from atdm_engine.generation.request import RequestSpec
from atdm_engine.generators.base import make_values
from atdm_engine.generators.cells import Cells, RowChoice, Setting
from atdm_engine.generators.references import References
from atdm_engine.generators.sql import evaluate
from atdm_engine.random.run_ids import key_array, run_id_array
from atdm_engine.random.stream import stream_for
from atdm_engine.values.scalars import TypedScalar


class Batch:
    """Runs ``first``..``last`` (both included) of a request."""

    def __init__(self, spec: RequestSpec, first: int, last: int) -> None:
        self.spec = spec
        self.plan = spec.plan
        self.layout = lay_out(spec.scenario, spec.effective, spec.seed, first, last)
        self.setting = Setting(spec.as_of, spec.domain.spec.locale, spec.domain.vocabularies)
        self._columns: dict[tuple[str, str], pa.Array] = {}
        self._table_columns: dict[tuple[str, str], pa.Array] = {}
        self._making: list[tuple[str, str]] = []
        self._identities: dict[tuple[str, int], tuple[NDArray[np.int64], pa.Array]] = {}

    def tables(self) -> dict[str, pa.Table]:
        """Every made table, in insert order, columns in file order and then ``test_run_id``."""
        made: dict[str, pa.Table] = {}
        for table in self.spec.scenario.tables:
            spec = self.spec.domain.tables[table]
            arrays = [self.table_column(table, name) for name in spec.columns]
            arrays.append(self.identities(None, self.layout.tables[table].runs, 0))
            made[table] = pa.Table.from_arrays(arrays, schema=spec.arrow_schema)
        return made

    def identities(
        self, prefix: str | None, runs: NDArray[np.int64], rows: NDArray[np.int64] | int
    ) -> pa.StringArray:
        """Keys of rows, or the ids of their runs; one-row-a-run columns are shared by tables."""
        if isinstance(rows, np.ndarray):
            assert prefix is not None
            return key_array(prefix, self.spec.request_id, runs, rows)
        known = self._identities.get((prefix or "", id(runs)))
        if known is None:
            array = (
                run_id_array(self.spec.request_id, runs)
                if prefix is None
                else key_array(prefix, self.spec.request_id, runs, 0)
            )
            # The numbers are kept beside the array: their id() must not be used again.
            known = self._identities[prefix or "", id(runs)] = (runs, array)
        return known[1]

    def table_column(self, table: str, name: str) -> pa.Array:
        """A column of all rows of a made table."""
        known = self._table_columns.get((table, name))
        if known is not None:
            return known
        rows = self.layout.tables[table]
        parts = [self.column(group, name) for group in rows.groups]
        made = parts[0]
        if rows.order is not None:
            made = pa.concat_arrays(parts).take(pa.array(rows.order))
        self._table_columns[table, name] = made
        return made

    def column(self, group: str, name: str) -> pa.Array:
        """A column of the rows of one group."""
        place = (group, name)
        known = self._columns.get(place)
        if known is not None:
            return known
        if place in self._making:
            circle = [*self._making[self._making.index(place) :], place]
            raise _invalid(place, "it needs itself: " + " -> ".join(map(".".join, circle)))
        self._making.append(place)
        try:
            made = self._make(group, name)
        except ValueError as error:
            raise _invalid(place, str(error)) from error
        finally:
            self._making.pop()
        self._columns[place] = made
        return made

    def _make(self, group: str, name: str) -> pa.Array:
        plan = self.plan
        columns = plan.table(group).columns
        if name not in columns:
            raise ValueError(f"table {plan.table_name(group)} has no column {name}")
        table = plan.table_name(group)
        cells = self.cells(group, name)
        unique = plan.uniques.get((table, name))
        if unique is not None:
            numbers = self.spec.number_base + (cells.runs - 1) * plan.stride + cells.rows
            return unique.make(numbers, cells)
        return make_values(plan.generators[group, name], columns[name].type, cells)

    def cells(self, group: str, name: str) -> Cells:
        """The cells of a column of a group."""
        rows = self.layout.groups[group]
        table = self.plan.table_name(group)
        stream = stream_for(self.spec.seed, self.spec.scenario.key, table, name)
        view = GroupView(self, group, name)
        luhn = self.plan.table(group).columns[name].luhn
        return Cells(stream, rows.runs, rows.rows, 0, view, self.setting, luhn)

    def all_rows(self, table: str, name: str) -> pa.Array:
        """A column of the made rows of a table, followed by its reference rows."""
        made = table in self.layout.tables
        reference = self.spec.domain.reference.get(table)
        if reference is None:
            if not made:
                raise ValueError(f"no rows of {table} are made")
            return self.table_column(table, name)
        shared: pa.Array = reference.column(name).combine_chunks()
        return pa.concat_arrays([self.table_column(table, name), shared]) if made else shared

    def linked(self, link: Link, name: str) -> pa.Array:
        """A column of the rows that a link leads to."""
        if link.places is None:
            return self.table_column(link.table, name)
        return self.all_rows(link.table, name).take(link.places)

    def key(self, table: str) -> str:
        """The key column of a table that is referred to."""
        columns = self.spec.domain.tables[table].key_columns
        if len(columns) != 1:
            raise ValueError(f"{table} has a key of several columns and cannot be referred to")
        return columns[0]


def _invalid(place: tuple[str, str], why: str) -> AtdmError:
    group, column = place
    return AtdmError(
        ErrorCode.SPEC_INVALID,
        f"{group}.{column}: {why}",
        {"row_group": group, "column": column, "reason": why},
    )


@dataclass(frozen=True)
class GroupView:
    """What surrounds the cells of one column of one row group, ``making``.

    It is the ``Surroundings`` of generators and the ``SqlRows`` of their expressions.
    """

    batch: Batch
    group: str
    making: str

    @property
    def rows(self) -> GroupRows:
        """Where the group's rows are."""
        return self.batch.layout.groups[self.group]

    def __len__(self) -> int:
        return len(self.rows)

    def fixed(self, name: str) -> tuple[bool, TypedScalar]:
        return self.batch.plan.fixed(self.group, name)

    def identities(self, prefix: str) -> pa.Array:
        return self.batch.identities(prefix, self.rows.runs, self.rows.rows)

    def column(self, name: str) -> pa.Array:
        plan = self.batch.plan
        owner, _, column = name.rpartition(".")
        if owner in ("", plan.table_name(self.group)) and column in plan.table(self.group).columns:
            return self.batch.column(self.group, column)
        if owner == "":
            constraint = plan.scenario.constraints.get(column)
            if constraint is None:
                raise ValueError(f"{column} is neither a column nor a constraint")
            kind = "numeric(38,9)" if constraint.type == "decimal" else constraint.type
            return repeated(kind, plan.constraint(self.group, column), len(self.rows))
        if owner == "parent":
            above = plan.group(self.group).per
            if above is None:
                raise ValueError(
                    f"{name}: row group {self.group} is made per test run, not per row"
                )
            return _taken(self.batch.column(above, column), self.rows.parents)
        for above, places in self.ancestors():
            if owner == above and owner not in plan.domain.tables:
                return _taken(self.batch.column(above, column), places)
        link = self.related(owner)
        if column not in plan.domain.tables[link.table].columns:
            raise ValueError(f"{name}: table {link.table} has no column {column}")
        return self.batch.linked(link, column)

    def ancestors(self) -> list[tuple[str, Positions]]:
        """The groups above, nearest first, with the place of each row's own in them."""
        found: list[tuple[str, Positions]] = []
        places: Positions = None
        below = self.group
        for above in self.batch.plan.ancestors(self.group):
            places = through(places, self.batch.layout.groups[below].parents)
            found.append((above, places))
            below = above
        return found

    def related(self, table: str) -> Link:
        """The rows of ``table`` that the rows refer to, or were made for."""
        plan = self.batch.plan
        for name, spec in plan.table(self.group).columns.items():
            if spec.references != table:
                continue
            value = plan.generators[self.group, name]
            if isinstance(value, References) and not value.null_fraction:
                # The column that refers, not the one being made, says what becomes of no row.
                view = GroupView(self.batch, self.group, name)
                return view.link(value.choice, self.batch.cells(self.group, name))
            if name != self.making:
                keys = self.batch.all_rows(table, self.batch.key(table))
                return Link(table, pc.index_in(self.batch.column(self.group, name), value_set=keys))
        link = self._ancestor(table)
        if link is None:
            raise ValueError(f"{self.group} does not refer to {table}")
        return link

    def _ancestor(self, name: str) -> Link | None:
        """The nearest row above of a table (or of a row group) of this name."""
        for above, places in self.ancestors():
            table = self.batch.plan.table_name(above)
            if name in (above, table):
                in_table = self.batch.layout.groups[above].places
                return Link.to_made(table, through(places, in_table))
        return None

    def keys(self, choice: RowChoice, cells: Cells) -> pa.Array:
        link = self.link(choice, cells)
        return self.batch.linked(link, self.batch.key(link.table))

    def link(self, choice: RowChoice, cells: Cells) -> Link:
        """The rows that a reference picks: above, else of the run, else shared ones."""
        above = self._ancestor(choice.table)
        if above is not None:
            return above
        linker = Linker(self.batch.plan, self.batch.layout, self.group, self.making)
        return linker.link(choice, cells)

    def expression(self, sql: str, column_type: str) -> pa.Array:
        return evaluate(self, sql, column_type)

    @property
    def table(self) -> str:
        return self.batch.plan.table_name(self.group)

    @property
    def own_names(self) -> Collection[str]:
        return self.batch.plan.table(self.group).columns.keys() - {self.making}

    @property
    def constraints(self) -> Collection[str]:
        return self.batch.plan.scenario.constraints

    def rows_of(self, table: str, names: Collection[str]) -> pa.Table:
        spec = self.batch.spec.domain.tables.get(table)
        if spec is None:
            raise ValueError(f"there is no table {table}")
        used = [name for name in spec.columns if name in names] or [spec.key_columns[0]]
        return pa.table({name: self.batch.all_rows(table, name) for name in used})


def _taken(column: pa.Array, places: Positions) -> pa.Array:
    return column if places is None else column.take(pa.array(places))
