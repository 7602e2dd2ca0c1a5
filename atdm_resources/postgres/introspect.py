"""The tables of a domain's schema as PostgreSQL describes them: what a baseline copies.

Everything is discovered; nothing is assumed from the specification files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.columns import Definition, SequenceState, TableColumn


@dataclass(slots=True)
class LiveTable:
    """A table that holds rows itself. ``bytes`` and ``about_rows`` are estimates."""

    schema: str
    name: str
    oid: int
    bytes: int
    about_rows: int
    partition_of: str | None
    columns: list[TableColumn] = field(default_factory=list)
    key: tuple[str, ...] = ()

    @property
    def relation(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    @property
    def stored_columns(self) -> tuple[TableColumn, ...]:
        return tuple(column for column in self.columns if not column.generated)


def live_tables(conn: psycopg.Connection[Any], schema: str) -> dict[str, LiveTable]:
    """Every table of ``schema`` that holds rows, by name, in foreign-key order.

    Partitioned tables are there as their partitions. Tables of extensions are left out.

    Raises:
        AtdmError: SNAPSHOT_FAILED when a partition of a table lies in another schema.
    """
    astray = conn.execute(_PARTITIONS_ELSEWHERE, (schema,)).fetchall()
    if astray:
        named = ", ".join(f"{partition} (of {root})" for partition, root in astray)
        raise AtdmError(
            ErrorCode.SNAPSHOT_FAILED,
            f"partitions of tables in schema {schema} lie in another schema: {named}",
            {"schema": schema, "partitions": [list(row) for row in astray]},
        )
    found = {row[0]: LiveTable(schema, *row) for row in conn.execute(_TABLES, (schema,)).fetchall()}
    for row in conn.execute(_COLUMNS, (schema,)).fetchall():
        table = found.get(row[0])
        if table is not None:
            table.columns.append(
                TableColumn(
                    name=row[1],
                    type=row[2],
                    nullable=row[3],
                    collation=row[4],
                    identity=row[5],
                    generated=row[6],
                    expression=row[7],
                )
            )
    for name, columns in conn.execute(_KEYS, (schema,)).fetchall():
        if name in found:
            found[name].key = tuple(columns)
    return {name: found[name] for name in _ordered(conn, schema, list(found))}


def definitions(conn: psycopg.Connection[Any], schema: str) -> tuple[Definition, ...]:
    """Every constraint and index of the schema's tables, as text."""
    return tuple(
        Definition(table=row[0], name=row[1], kind=row[2], definition=row[3])
        for row in conn.execute(_DEFINITIONS, (schema, schema)).fetchall()
    )


def sequences(conn: psycopg.Connection[Any], schema: str) -> tuple[SequenceState, ...]:
    """Where the sequences stand that are in the schema, or that a column's default there uses."""
    states = []
    for sequence_schema, name, oid in conn.execute(_SEQUENCES, (schema, schema)).fetchall():
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(
            sql.Identifier(sequence_schema, name)
        )
        row = conn.execute(query).fetchone()
        assert row is not None, oid
        states.append(
            SequenceState(
                schema_name=sequence_schema,
                name=name,
                last_value=row[0],
                is_called=row[1],
                shared=sequence_schema != schema,
            )
        )
    return tuple(states)


def _ordered(conn: psycopg.Connection[Any], schema: str, names: Sequence[str]) -> list[str]:
    """Referred-to tables before those that refer to them; what is in a cycle goes by name."""
    waits: dict[str, set[str]] = {name: set() for name in names}
    for table, other in conn.execute(_REFERENCES_INSIDE, (schema, schema)).fetchall():
        if table in waits and other in waits and table != other:
            waits[table].add(other)
    ordered: list[str] = []
    while waits:
        free = sorted(name for name, needed in waits.items() if not needed)
        for name in free or [min(waits)]:
            ordered.append(name)
            del waits[name]
        for needed in waits.values():
            needed.difference_update(ordered)
    return ordered


_PARTITIONS_ELSEWHERE = """
SELECT c.oid::regclass::text, p.oid::regclass::text
FROM pg_catalog.pg_inherits AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
JOIN pg_catalog.pg_class AS p ON p.oid = i.inhparent AND p.relkind = 'p'
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.relnamespace
WHERE n.nspname = %s AND c.relnamespace <> p.relnamespace ORDER BY 1
"""
_TABLES = """
SELECT c.relname::text, c.oid::bigint, pg_catalog.pg_table_size(c.oid)::bigint,
       greatest(c.reltuples, 0)::bigint,
       (SELECT p.relname::text FROM pg_catalog.pg_inherits AS i
        JOIN pg_catalog.pg_class AS p ON p.oid = i.inhparent
        WHERE i.inhrelid = c.oid AND c.relispartition)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'r'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                  WHERE d.classid = 'pg_catalog.pg_class'::regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
"""
_COLUMNS = """
SELECT c.relname::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
       NOT a.attnotnull OR EXISTS (
           SELECT FROM pg_catalog.pg_constraint AS k
           WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND NOT k.convalidated
             AND k.conkey = ARRAY[a.attnum]),
       CASE WHEN l.collname IS NOT NULL AND a.attcollation <> t.typcollation
            THEN l.collname::text END,
       CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' ELSE '' END,
       CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' ELSE '' END,
       pg_catalog.pg_get_expr(d.adbin, d.adrelid)
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE n.nspname = %s AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
"""
_KEYS = """
SELECT c.relname::text,
       (SELECT array_agg(a.attname::text ORDER BY u.place)
        FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = u.number)
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND k.contype = 'p'
"""
_REFERENCES_INSIDE = """
SELECT c.relname::text, p.relname::text
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace
JOIN pg_catalog.pg_class AS p ON p.oid = k.confrelid
JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
WHERE k.contype = 'f' AND cn.nspname = %s AND pn.nspname = %s
"""
_DEFINITIONS = """
SELECT c.relname::text, k.conname::text, k.contype::text, pg_catalog.pg_get_constraintdef(k.oid)
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND k.contype IN ('p', 'u', 'c', 'f', 'x')
UNION ALL
SELECT c.relname::text, i.relname::text, 'i', pg_catalog.pg_get_indexdef(x.indexrelid)
FROM pg_catalog.pg_index AS x
JOIN pg_catalog.pg_class AS c ON c.oid = x.indrelid
JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.conindid = x.indexrelid
                  AND k.contype IN ('p', 'u', 'x'))
ORDER BY 1, 3, 2
"""
_SEQUENCES = """
SELECT n.nspname::text, s.relname::text, s.oid::bigint
FROM pg_catalog.pg_class AS s
JOIN pg_catalog.pg_namespace AS n ON n.oid = s.relnamespace
WHERE s.relkind = 'S' AND (n.nspname = %s OR EXISTS (
    SELECT FROM pg_catalog.pg_depend AS d
    JOIN pg_catalog.pg_attrdef AS e ON e.oid = d.objid
    JOIN pg_catalog.pg_class AS c ON c.oid = e.adrelid
    JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace
    WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass
      AND d.refclassid = 'pg_catalog.pg_class'::regclass
      AND d.refobjid = s.oid AND cn.nspname = %s))
ORDER BY 1, 2
"""
