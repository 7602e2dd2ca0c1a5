"""What PostgreSQL says of a schema: tables, columns, keys, references, definitions.

Everything is discovered; nothing is assumed from the specification files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.columns import Definition, TableColumn


@dataclass(slots=True)
class LiveTable:
    """A table of the database. ``bytes`` and ``about_rows`` are estimates.

    ``partitioned``: its rows are in its partitions. ``key``: the columns of the primary key.
    """

    schema: str
    name: str
    oid: int
    partitioned: bool
    bytes: int
    about_rows: int
    partition_of: str | None
    columns: list[TableColumn] = field(default_factory=list)
    key: tuple[str, ...] = ()

    @property
    def relation(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key from ``schema.table`` to ``parent_schema.parent_table``.

    ``types`` are those of ``columns``. ``outside``: the referring table is none of those asked for.
    ``inherited``: a partition has it from its parent, or it leads to a partition.
    """

    name: str
    schema: str
    table: str
    oid: int
    columns: list[str]
    types: list[str]
    parent_schema: str
    parent_table: str
    parent_oid: int
    parent_columns: list[str]
    definition: str
    comment: str | None
    outside: bool
    inherited: bool

    @property
    def relation(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)

    @property
    def parent(self) -> sql.Identifier:
        return sql.Identifier(self.parent_schema, self.parent_table)

    def __str__(self) -> str:
        return f"{self.schema}.{self.table} ({self.name})"


def all_tables(conn: psycopg.Connection[Any], schema: str) -> dict[str, LiveTable]:
    """Every table of ``schema`` by name, without those of extensions."""
    found = {row[0]: LiveTable(schema, *row) for row in conn.execute(_TABLES, (schema,)).fetchall()}
    for table, *column in conn.execute(_COLUMNS, (schema,)).fetchall():
        if table in found:
            values = dict(zip(_COLUMN_FIELDS, column, strict=True))
            found[table].columns.append(TableColumn.model_validate(values))
    for table, columns in conn.execute(_KEYS, (schema,)).fetchall():
        if table in found:
            found[table].key = tuple(columns)
    return found


def live_tables(conn: psycopg.Connection[Any], schema: str) -> dict[str, LiveTable]:
    """Every table of ``schema`` that holds rows itself, by name: partitions, not their parents.

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
    tables = all_tables(conn, schema)
    return {name: table for name, table in tables.items() if not table.partitioned}


def foreign_keys(conn: psycopg.Connection[Any], oids: Collection[int]) -> list[ForeignKey]:
    """Every foreign key from or to these tables or the tables that they are partitions of."""
    rows = conn.execute(_FOREIGN_KEYS, {"oids": list(oids)}).fetchall()
    return [ForeignKey(*row) for row in rows]


def in_load_order(
    tables: Mapping[str, LiveTable], keys: Iterable[ForeignKey]
) -> dict[str, LiveTable]:
    """Referred-to tables before those that refer to them; what is in a cycle goes by name."""
    names = {table.oid: name for name, table in tables.items()}
    waits: dict[str, set[str]] = {name: set() for name in tables}
    for key in keys:
        if key.oid in names and key.parent_oid in names and key.oid != key.parent_oid:
            waits[names[key.oid]].add(names[key.parent_oid])
    ordered: dict[str, LiveTable] = {}
    while waits:
        free = sorted(name for name, needed in waits.items() if not needed)
        for name in free or [min(waits)]:
            ordered[name] = tables[name]
            del waits[name]
        for needed in waits.values():
            needed.difference_update(ordered)
    return ordered


def definitions(conn: psycopg.Connection[Any], schema: str) -> tuple[Definition, ...]:
    """Every constraint of the schema's tables, and every index that belongs to none, as text."""
    return tuple(
        Definition(table=row[0], name=row[1], kind=row[2], definition=row[3])
        for row in conn.execute(_DEFINITIONS, (schema, schema)).fetchall()
    )


_PARTITIONS_ELSEWHERE = """
SELECT c.oid::regclass::text, p.oid::regclass::text
FROM pg_catalog.pg_inherits AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
JOIN pg_catalog.pg_class AS p ON p.oid = i.inhparent AND p.relkind = 'p'
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.relnamespace
WHERE n.nspname = %s AND c.relnamespace <> p.relnamespace ORDER BY 1
"""
_TABLES = """
SELECT c.relname::text, c.oid::bigint, c.relkind = 'p', pg_catalog.pg_table_size(c.oid)::bigint,
       greatest(c.reltuples, 0)::bigint,
       (SELECT p.relname::text FROM pg_catalog.pg_inherits AS i
        JOIN pg_catalog.pg_class AS p ON p.oid = i.inhparent
        WHERE i.inhrelid = c.oid AND c.relispartition)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                  WHERE d.classid = 'pg_catalog.pg_class'::regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""
_COLUMN_FIELDS = (
    "name",
    "type",
    "nullable",
    "collation",
    "identity",
    "generated",
    "expression",
)
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
WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
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
# Partitions bring the foreign keys of their parents, which are dropped and made as one.
_FOREIGN_KEYS = """
WITH RECURSIVE ours AS (
    SELECT o.oid FROM pg_catalog.unnest(%(oids)s::bigint[]::oid[]) AS o (oid)
    UNION
    SELECT i.inhparent FROM ours JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = ours.oid
    JOIN pg_catalog.pg_class AS p ON p.oid = i.inhparent AND p.relkind = 'p')
SELECT k.conname::text, n.nspname::text, c.relname::text, c.oid::bigint, a.names, a.types,
       pn.nspname::text, p.relname::text, p.oid::bigint, b.names,
       pg_catalog.pg_get_constraintdef(k.oid), pg_catalog.obj_description(k.oid, 'pg_constraint'),
       NOT k.conrelid = ANY (ARRAY(SELECT oid FROM ours)), k.conparentid <> 0
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class AS p ON p.oid = k.confrelid
JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
CROSS JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY u.place) AS names,
           array_agg(a.atttypid::regtype::text ORDER BY u.place) AS types
    FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (number, place)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.number) AS a
CROSS JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY u.place) AS names
    FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS u (number, place)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = u.number) AS b
WHERE k.contype = 'f'
  AND (k.conrelid IN (SELECT oid FROM ours) OR k.confrelid IN (SELECT oid FROM ours))
ORDER BY 2, 3, 1
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
