"""What makes a table file consistent with itself and with the other tables of its domain."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import duckdb

from atdm_engine.arrow import duck
from atdm_engine.arrow.types import column_kind, parse_value
from atdm_engine.bundle.clause_context import clause_problems
from atdm_engine.bundle.domain_tables import DomainTables
from atdm_engine.bundle.model_errors import describe
from atdm_engine.bundle.spec_file import ParsedFile
from atdm_engine.errors import Problem
from atdm_engine.generators.base import walk
from atdm_engine.patterns.pattern import parse_pattern
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_engine.spec.table import ColumnSpec, TableSpec
from atdm_engine.values.scalars import scalar_text

_ORDERED = {"smallint", "integer", "bigint", "double", "numeric", "date", "timestamptz"}


def check_table(
    name: str, domain: DomainTables, connection: duckdb.DuckDBPyConnection
) -> list[Problem]:
    """Everything that is wrong with a table file, given the other tables of the domain."""
    loaded = domain.tables[name]
    problems: list[Problem] = []
    for column, spec in loaded.model.columns.items():
        problems.extend(_ColumnChecker(loaded, domain, name, column, spec).check())
    problems.extend(_check_keys(loaded))
    problems.extend(_check_constraints(loaded))
    problems.extend(_check_order(loaded))
    for check, condition in loaded.model.checks.items():
        message = row_condition_problem(connection, name, condition)
        if message:
            allowed = f"an SQL condition over one row of {name}: {message}"
            problems.append(loaded.problem(("checks", check), describe(condition), allowed))
    return problems


def row_condition_problem(
    connection: duckdb.DuckDBPyConnection, table: str, condition: str
) -> str | None:
    """Why ``condition`` is no row check of ``table``, or None when it is one."""
    try:
        inspected = duck.inspect_expression(condition)
        if inspected.tables or inspected.aggregates:
            return "it sees one row only: no subqueries, aggregates or windows"
        found = duck.condition_type(connection, table, condition)
    except duck.SqlProblem as error:
        return error.message
    except duckdb.Error as error:
        return duck.first_line(error)
    return None if found == "BOOLEAN" else f"it gives {found}, not true or false"


def _check_keys(loaded: ParsedFile[TableSpec]) -> Iterator[Problem]:
    spec, columns = loaded.model, loaded.model.columns
    if RUN_COLUMN in spec.columns:
        allowed = "other names: ATDM adds this column itself"
        yield loaded.problem(("columns", RUN_COLUMN), RUN_COLUMN, allowed)
    for column in spec.key_columns:
        if column not in spec.columns:
            yield loaded.unknown(("key",), column, "a column of the table", columns)
        elif spec.columns[column].nullable:
            yield loaded.problem(
                ("columns", column, "nullable"), "true", f"false: {column} is in the key"
            )
    for position, group in enumerate(spec.unique):
        for column in group:
            if column not in spec.columns:
                path = ("unique", position)
                yield loaded.unknown(path, column, "a column of the table", columns)


def _check_constraints(loaded: ParsedFile[TableSpec]) -> Iterator[Problem]:
    columns = loaded.model.columns
    for name, constraint in loaded.model.constraints.items():
        path = ("constraints", name)
        if constraint.sets is None:
            if constraint.type is None:
                allowed = "sets (a column of the table) or type"
                yield loaded.problem(path, "neither sets nor type", allowed)
        elif constraint.sets not in columns:
            where = (*path, "sets")
            yield loaded.unknown(where, constraint.sets, "a column of the table", columns)
        elif constraint.sets in loaded.model.key_columns:
            yield loaded.problem(
                (*path, "sets"), repr(constraint.sets), "a column that is not in the key"
            )


def _check_order(loaded: ParsedFile[TableSpec]) -> Iterator[Problem]:
    """Columns that are made from each other must not form a circle."""
    columns = loaded.model.columns
    needs = {
        name: [
            used
            for generator in walk(column.generate)
            for used in generator.own_columns()
            if used in columns
        ]
        for name, column in columns.items()
    }
    for circle in _circles(needs):
        text = " -> ".join([*circle, circle[0]])
        yield loaded.problem(
            ("columns", circle[0], "generate"), text, "columns that are not made from each other"
        )


def _circles(needs: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Circles of a graph as the names along them, until breaking them leaves none."""
    remaining = {name: set(others) for name, others in needs.items()}
    found: list[list[str]] = []
    while True:
        try:
            TopologicalSorter(remaining).prepare()
        except CycleError as error:
            # graphlib walks from a predecessor to what needs it and repeats the first at the end.
            circle = list(reversed(error.args[1]))[:-1]
            start = circle.index(min(circle))
            circle = circle[start:] + circle[:start]
            found.append(circle)
            remaining[circle[0]].discard(circle[1 % len(circle)])
            continue
        return found


def insert_order(domain: DomainTables) -> tuple[list[str], list[Problem]]:
    """The tables so that what a table refers to comes before it; by name where that is open.

    A circle of references between tables is a problem; a reference to the same table is not.
    """
    needs: dict[str, list[str]] = {
        name: sorted((set(loaded.model.foreign_keys.values()) & domain.tables.keys()) - {name})
        for name, loaded in sorted(domain.tables.items())
    }
    problems = []
    for circle in _circles(needs):
        loaded = domain.tables[circle[0]]
        following = circle[1] if len(circle) > 1 else circle[0]
        column = next(c for c, s in loaded.model.columns.items() if s.references == following)
        problems.append(
            loaded.problem(
                ("columns", column, "references"),
                "a circle: " + " -> ".join([*circle, circle[0]]),
                "references without a circle, so that there is an order of insertion",
            )
        )
    if problems:
        return list(needs), problems
    sorter = TopologicalSorter(needs)
    sorter.prepare()
    order: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, name)
        order.append(heapq.heappop(ready))
        sorter.done(order[-1])
    return order, problems


@dataclass
class _ColumnChecker:
    loaded: ParsedFile[TableSpec]
    domain: DomainTables
    table: str
    column: str
    spec: ColumnSpec

    def problem(
        self, path: Sequence[object], found: str, allowed: str, known: Sequence[str] = ()
    ) -> Problem:
        return self.loaded.problem(("columns", self.column, *path), found, allowed, known)

    def _clause_problem(
        self, path: Sequence[object], found: str, allowed: str, known: Sequence[str] = ()
    ) -> Problem:
        return self.problem(("generate", *path), found, allowed, known)

    def check(self) -> list[Problem]:
        try:
            kind = column_kind(self.spec.type)
        except ValueError as error:
            return [self.problem(("type",), repr(self.spec.type), str(error))]
        problems = list(self._check_bounds(kind.base, kind.array))
        problems += self._check_reference()
        spec = self.spec
        if spec.generate is not None:
            problems += clause_problems(
                spec.generate, self.domain, self.table, spec, self._clause_problem
            )
        elif not (spec.references or spec.values or spec.nullable):
            allowed = "generate, references, values or nullable: how a cell is made"
            problems.append(self.problem((), "no generate", allowed))
        return problems

    def _check_bounds(self, base: str, array: bool) -> Iterator[Problem]:
        spec = self.spec
        for position, value in enumerate(spec.values or ()):
            try:
                parse_value(spec.type, value)
            except ValueError as error:
                yield self.problem(("values", position), repr(value), str(error))
        bounds = []
        for name, bound in (("min", spec.min), ("max", spec.max)):
            if bound is None:
                continue
            if base not in _ORDERED or array:
                yield self.problem((name,), scalar_text(bound), f"none for a {spec.type}")
                continue
            try:
                bounds.append(parse_value(spec.type, bound))
            except ValueError as error:
                yield self.problem((name,), repr(scalar_text(bound)), str(error))
        if len(bounds) == 2 and bounds[0] > bounds[1]:
            yield self.problem(("min",), scalar_text(bounds[0]), f"at most max, {bounds[1]}")
        if (spec.min_length or 0) > (spec.max_length if spec.max_length is not None else 1 << 60):
            found = str(spec.min_length)
            yield self.problem(("min_length",), found, f"at most max_length, {spec.max_length}")
        for name in ("min_length", "max_length", "pattern", "luhn"):
            if getattr(spec, name) is not None and (base != "text" or array):
                yield self.problem((name,), str(getattr(spec, name)), "this for text columns only")
        if spec.values and (array or base == "jsonb"):
            yield self.problem(("values",), describe(spec.values), f"none for a {spec.type}")
        if spec.pattern is not None:
            try:
                parse_pattern(spec.pattern)
            except ValueError as error:
                yield self.problem(("pattern",), repr(spec.pattern), str(error))

    def _check_reference(self) -> Iterator[Problem]:
        target = self.spec.references
        if target is None:
            return
        path = ("references",)
        if target not in self.domain.known:
            where = ("columns", self.column, *path)
            yield self.loaded.unknown(where, target, "a table", sorted(self.domain.known))
            return
        if target == self.table and not self.spec.nullable:
            allowed = "nullable: true beside it: the first row has no row to refer to"
            yield self.problem(path, repr(target), allowed)
        parent = self.domain.spec(target)
        if parent is None:
            return
        if len(parent.key_columns) != 1:
            yield self.problem(path, repr(target), "a table whose key is one column")
            return
        key = parent.columns.get(parent.key_columns[0])
        if key is not None and key.type != self.spec.type:
            found = f"{self.spec.type} referring to {target}.{parent.key_columns[0]}"
            yield self.problem(("type",), found, f"{key.type}, the type of that key")
