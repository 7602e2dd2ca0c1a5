"""Where the tables in the target differ from the table files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg

from atdm_resources.postgres import introspect
from atdm_resources.postgres.columns import TableColumn


@dataclass
class TableShape:
    """A table to compare: columns, constraints and other indexes by name, each as a text."""

    columns: dict[str, str] = field(default_factory=dict)
    constraints: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)


def shapes(conn: psycopg.Connection[Any], schema: str) -> dict[str, TableShape]:
    """Every table of ``schema`` by name. Definitions do not mention the schema itself."""
    found = {
        name: TableShape({column.name: _described(column) for column in table.columns})
        for name, table in introspect.all_tables(conn, schema).items()
    }
    for one in introspect.definitions(conn, schema):
        if one.table in found:
            shape = found[one.table]
            part = shape.indexes if one.kind == "i" else shape.constraints
            part[one.name] = _without_schema(one.definition, schema)
    return found


def differences(expected: dict[str, TableShape], actual: dict[str, TableShape]) -> Iterator[str]:
    """Every way in which a table of ``actual`` is not what ``expected`` says, in words.

    Tables that are missing as a whole are not drift: they are made. Constraints, indexes and tables
    that the application has added are no drift either; columns are.
    """
    for table, wanted in expected.items():
        found = actual.get(table)
        if found is None:
            continue
        for name, definition in wanted.columns.items():
            if name not in found.columns:
                yield f"{table}.{name}: the column is missing (expected {definition})"
            elif found.columns[name] != definition:
                yield f"{table}.{name}: is {found.columns[name]}, expected {definition}"
        for name in found.columns.keys() - wanted.columns.keys():
            yield f"{table}.{name}: the table file has no such column"
        for noun, wanted_part, found_part in (
            ("constraint", wanted.constraints, found.constraints),
            ("index", wanted.indexes, found.indexes),
        ):
            for name, definition in wanted_part.items():
                if name not in found_part:
                    yield f"{table}: {noun} {name} is missing (expected {definition})"
                elif found_part[name] != definition:
                    yield f"{table}: {noun} {name} is {found_part[name]}, expected {definition}"


def _described(column: TableColumn) -> str:
    return (
        column.type
        + (f' COLLATE "{column.collation}"' if column.collation else "")
        + ("" if column.nullable else " NOT NULL")
        + (" GENERATED" if column.generated else "")
    )


def _without_schema(definition: str, schema: str) -> str:
    quoted = '"' + schema.replace('"', '""') + '"'
    return re.sub(rf"(?<![\w\"])(?:{re.escape(schema)}|{re.escape(quoted)})\.", "", definition)
