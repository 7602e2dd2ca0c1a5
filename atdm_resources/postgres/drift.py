"""Where the tables in the target differ from the table files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg


@dataclass
class TableShape:
    """One table as PostgreSQL tells it: columns, constraints and indexes by name."""

    columns: dict[str, str] = field(default_factory=dict)
    constraints: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)


def shapes(conn: psycopg.Connection[Any], schema: str) -> dict[str, TableShape]:
    """Every table of ``schema`` by name. Definitions do not mention the schema itself."""
    found: dict[str, TableShape] = {}
    for (table,) in conn.execute(_TABLES, (schema,)):
        found[table] = TableShape()
    for query, part in (
        (_COLUMNS, "columns"),
        (_CONSTRAINTS, "constraints"),
        (_INDEXES, "indexes"),
    ):
        for table, name, definition in conn.execute(query, (schema,)):
            getattr(found[table], part)[name] = _without_schema(definition, schema)
    return found


def differences(expected: dict[str, TableShape], actual: dict[str, TableShape]) -> Iterator[str]:
    """Every way in which a table of ``actual`` is not what ``expected`` says, in words.

    Tables that are missing as a whole are not drift: they are made. What the application has added
    beside (constraints, indexes, tables) is its own business, except for columns.
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


def _without_schema(definition: str, schema: str) -> str:
    quoted = '"' + schema.replace('"', '""') + '"'
    return re.sub(rf"(?<![\w\"])(?:{re.escape(schema)}|{re.escape(quoted)})\.", "", definition)


_TABLES = """
SELECT c.relname::text FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p') ORDER BY 1
"""
_COLUMNS = """
SELECT c.relname::text, a.attname::text,
       pg_catalog.format_type(a.atttypid, a.atttypmod)
       || CASE WHEN l.collname IS NOT NULL AND a.attcollation <> t.typcollation
               THEN ' COLLATE "' || l.collname || '"' ELSE '' END
       || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
       || CASE WHEN a.attgenerated <> '' THEN ' GENERATED' ELSE '' END
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
"""
_CONSTRAINTS = """
SELECT c.relname::text, k.conname::text,
       pg_catalog.pg_get_constraintdef(k.oid)
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND k.contype IN ('p', 'u', 'c', 'f')
ORDER BY c.relname, k.conname
"""
_INDEXES = """
SELECT c.relname::text, i.relname::text, pg_catalog.pg_get_indexdef(x.indexrelid)
FROM pg_catalog.pg_index AS x
JOIN pg_catalog.pg_class AS c ON c.oid = x.indrelid
JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p')
ORDER BY c.relname, i.relname
"""
