"""Taking keys, indexes, references and triggers off tables, and putting them back as they were.

What cannot be put back exactly stays where it is: an index that something depends on (a view that
groups by a primary key), that bears a comment, clusters its table or is its replica identity, that
belongs to a partitioned table, or has storage settings. It costs time, never the result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode

_ENABLED = {
    "O": sql.SQL("ENABLE TRIGGER"),
    "A": sql.SQL("ENABLE ALWAYS TRIGGER"),
    "R": sql.SQL("ENABLE REPLICA TRIGGER"),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key from ``schema.table``; ``outside`` when that is no table of the domain."""

    schema: str
    table: str
    name: str
    definition: str
    comment: str | None
    outside: bool

    @property
    def relation(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)

    def __str__(self) -> str:
        return f"{self.schema}.{self.table} ({self.name})"


@dataclass(slots=True)
class Dismantled:
    """What was taken off, in the order in which it comes back."""

    keys: list[tuple[sql.Identifier, str, str]] = field(default_factory=list)
    indexes: list[tuple[str, str]] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    triggers: list[tuple[sql.Identifier, str, str]] = field(default_factory=list)


def references(
    conn: psycopg.Connection[Any], schema: str, oids: Collection[int]
) -> list[Reference]:
    """Every foreign key that leaves or enters these tables or what they are partitions of."""
    rows = conn.execute(_REFERENCES, {"schema": schema, "oids": list(oids)}).fetchall()
    return [Reference(*row) for row in rows]


def dismantle(
    conn: psycopg.Connection[Any],
    found: Iterable[Reference],
    oids: Collection[int],
    large: Collection[int],
) -> Dismantled:
    """Drop the references, switch the tables' own triggers off, and drop the keys and indexes of
    the ``large`` tables. All tables must be locked exclusively.
    """
    taken = Dismantled(references=list(found))
    for reference in taken.references:
        conn.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                reference.relation, sql.Identifier(reference.name)
            )
        )
    for schema, table, name, enabled in conn.execute(_TRIGGERS, (list(oids),)).fetchall():
        relation = sql.Identifier(schema, table)
        conn.execute(
            sql.SQL("ALTER TABLE {} DISABLE TRIGGER {}").format(relation, sql.Identifier(name))
        )
        taken.triggers.append((relation, name, enabled))
    for schema, table, constraint, index, definition in conn.execute(
        _INDEXES, (list(large),)
    ).fetchall():
        relation = sql.Identifier(schema, table)
        if constraint is None:
            conn.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(schema, index)))
            taken.indexes.append((index, definition))
        else:
            conn.execute(
                sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                    relation, sql.Identifier(constraint)
                )
            )
            taken.keys.append((relation, constraint, definition))
    return taken


def put_back_indexes(conn: psycopg.Connection[Any], taken: Dismantled) -> None:
    """Make the keys and indexes again. The texts are PostgreSQL's own, quoted by it."""
    for relation, name, definition in taken.keys:
        conn.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
                relation, sql.Identifier(name), sql.SQL(definition)
            )
        )
    for _, definition in taken.indexes:
        conn.execute(definition.encode())


def put_back_references(conn: psycopg.Connection[Any], taken: Dismantled) -> None:
    """Make the foreign keys again, which validates those that were valid, and switch triggers on.

    Raises:
        AtdmError: RESTORE_FAILED naming the reference that the rows do not fulfil.
    """
    for reference in taken.references:
        name = sql.Identifier(reference.name)
        try:
            conn.execute(
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
                    reference.relation, name, sql.SQL(reference.definition)
                )
            )
        except psycopg.errors.ForeignKeyViolation as error:
            whose = "rows from outside refer" if reference.outside else "rows refer"
            raise AtdmError(
                ErrorCode.RESTORE_FAILED,
                f"{reference}: {whose} to what the baseline does not have: "
                f"{error.diag.message_detail or error.diag.message_primary}",
                {
                    "reference": str(reference),
                    "outside": reference.outside,
                    "detail": error.diag.message_detail,
                },
            ) from error
        if reference.comment is not None:
            conn.execute(
                sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(
                    name, reference.relation, sql.Literal(reference.comment)
                )
            )
    for relation, trigger, enabled in taken.triggers:
        conn.execute(
            sql.SQL("ALTER TABLE {} {} {}").format(
                relation, _ENABLED[enabled], sql.Identifier(trigger)
            )
        )


_REFERENCES = """
WITH RECURSIVE ours AS (
    SELECT o.oid FROM pg_catalog.unnest(%(oids)s::bigint[]::oid[]) AS o (oid)
    UNION
    SELECT i.inhparent FROM ours JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = ours.oid
    JOIN pg_catalog.pg_class AS p ON p.oid = i.inhparent AND p.relkind = 'p')
SELECT n.nspname::text, c.relname::text, k.conname::text, pg_catalog.pg_get_constraintdef(k.oid),
       pg_catalog.obj_description(k.oid, 'pg_constraint'),
       n.nspname <> %(schema)s OR NOT k.conrelid = ANY (ARRAY(SELECT oid FROM ours))
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0
  AND (k.conrelid IN (SELECT oid FROM ours) OR k.confrelid IN (SELECT oid FROM ours))
ORDER BY 1, 2, 3
"""
_TRIGGERS = """
SELECT n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled::text
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE t.tgrelid = ANY (%s::bigint[]::oid[]) AND NOT t.tgisinternal AND t.tgenabled <> 'D'
ORDER BY 1, 2, 3
"""
_INDEXES = """
SELECT n.nspname::text, c.relname::text, k.conname::text, i.relname::text,
       CASE WHEN k.oid IS NULL THEN pg_catalog.pg_get_indexdef(i.oid)
            ELSE pg_catalog.pg_get_constraintdef(k.oid) END
FROM pg_catalog.pg_index AS x
JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_class AS c ON c.oid = x.indrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_constraint AS k
    ON k.conindid = i.oid AND k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x')
WHERE x.indrelid = ANY (%s::bigint[]::oid[])
  AND x.indisvalid AND NOT x.indisclustered AND NOT x.indisreplident
  AND NOT i.relispartition AND NOT c.relispartition
  AND i.reltablespace = 0 AND i.reloptions IS NULL
  AND NOT (x.indisprimary AND c.relreplident = 'd' AND EXISTS (
      SELECT FROM pg_catalog.pg_publication_rel AS p WHERE p.prrelid = c.oid))
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_description AS d
                  WHERE d.objoid IN (i.oid, k.oid))
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                  WHERE a.attrelid = i.oid AND a.attstattarget > 0)
  AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_depend AS d
      WHERE (d.refclassid, d.refobjid) IN (
                ('pg_catalog.pg_class'::regclass::oid, i.oid),
                ('pg_catalog.pg_constraint'::regclass::oid, k.oid))
        AND d.deptype <> 'i'
        AND NOT (d.classid = 'pg_catalog.pg_constraint'::regclass AND EXISTS (
            SELECT FROM pg_catalog.pg_constraint AS f WHERE f.oid = d.objid AND f.contype = 'f')))
ORDER BY 1, 2, x.indisprimary DESC, 4
"""
