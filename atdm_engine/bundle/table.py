"""The checks of a table file, by itself and against the other tables of its domain."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb

from atdm_engine.arrow import duck
from atdm_engine.arrow.types import ColumnKind, column_kind, parse_value
from atdm_engine.bundle.clause_context import clause_problems
from atdm_engine.bundle.domain_tables import DomainTables, circles
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
) -> Iterator[Problem]:
    """Everything that is wrong with a table file, given the other tables of the domain."""
    loaded = domain.tables[name]
    for column, spec in loaded.model.columns.items():
        yield from _check_column(spec, name, domain, loaded.at("columns", column))
    yield from _check_keys(loaded)
    yield from _check_constraints(loaded)
    yield from _check_order(loaded)
    for check, condition in loaded.model.checks.items():
        message = _row_condition_problem(connection, name, condition)
        if message:
            allowed = f"an SQL condition over one row of {name}: {message}"
            yield loaded.problem(("checks", check), describe(condition), allowed)


def _row_condition_problem(
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
    for circle in circles(needs):
        text = " -> ".join([*circle, circle[0]])
        yield loaded.problem(
            ("columns", circle[0], "generate"), text, "columns that are not made from each other"
        )


def _check_column(
    spec: ColumnSpec, table: str, domain: DomainTables, part: ParsedFile[TableSpec]
) -> Iterator[Problem]:
    try:
        kind = column_kind(spec.type)
    except ValueError as error:
        yield part.problem(("type",), repr(spec.type), str(error))
        return
    yield from _check_bounds(spec, kind, part)
    yield from _check_text(spec, kind, part)
    yield from _check_reference(spec, table, domain, part)
    if spec.generate is not None:
        clause = part.at("generate")
        yield from clause_problems(spec.generate, domain, table, spec, clause.problem)
    elif not (spec.references or spec.values or spec.nullable):
        allowed = "generate, references, values or nullable: how a cell is made"
        yield part.problem((), "no generate", allowed)


def _check_bounds(
    spec: ColumnSpec, kind: ColumnKind, part: ParsedFile[TableSpec]
) -> Iterator[Problem]:
    for position, value in enumerate(spec.values or ()):
        try:
            parse_value(spec.type, value)
        except ValueError as error:
            yield part.problem(("values", position), repr(value), str(error))
    if spec.values and (kind.array or kind.base == "jsonb"):
        yield part.problem(("values",), describe(spec.values), f"none for a {spec.type}")
    bounds = []
    for name, bound in (("min", spec.min), ("max", spec.max)):
        if bound is None:
            continue
        if kind.base not in _ORDERED or kind.array:
            yield part.problem((name,), scalar_text(bound), f"none for a {spec.type}")
            continue
        try:
            bounds.append(parse_value(spec.type, bound))
        except ValueError as error:
            yield part.problem((name,), repr(scalar_text(bound)), str(error))
    if len(bounds) == 2 and bounds[0] > bounds[1]:
        yield part.problem(("min",), scalar_text(bounds[0]), f"at most max, {bounds[1]}")


def _check_text(
    spec: ColumnSpec, kind: ColumnKind, part: ParsedFile[TableSpec]
) -> Iterator[Problem]:
    for name in ("min_length", "max_length", "pattern", "luhn"):
        if getattr(spec, name) is not None and (kind.base != "text" or kind.array):
            yield part.problem((name,), str(getattr(spec, name)), "this for text columns only")
    if spec.max_length is not None and (spec.min_length or 0) > spec.max_length:
        found = str(spec.min_length)
        yield part.problem(("min_length",), found, f"at most max_length, {spec.max_length}")
    if spec.pattern is not None:
        try:
            parse_pattern(spec.pattern)
        except ValueError as error:
            yield part.problem(("pattern",), repr(spec.pattern), str(error))


def _check_reference(
    spec: ColumnSpec, table: str, domain: DomainTables, part: ParsedFile[TableSpec]
) -> Iterator[Problem]:
    target = spec.references
    if target is None:
        return
    path = ("references",)
    if target not in domain.known:
        yield part.unknown(path, target, "a table", sorted(domain.known))
        return
    if target == table and not spec.nullable:
        allowed = "nullable: true beside it: the first row has no row to refer to"
        yield part.problem(path, repr(target), allowed)
    parent = domain.spec(target)
    if parent is None:
        return
    if len(parent.key_columns) != 1:
        yield part.problem(path, repr(target), "a table whose key is one column")
        return
    key = parent.columns.get(parent.key_columns[0])
    if key is not None and key.type != spec.type:
        found = f"{spec.type} referring to {target}.{parent.key_columns[0]}"
        yield part.problem(("type",), found, f"{key.type}, the type of that key")
