"""Keys, indexes, foreign keys and triggers: taken off tables and made again as they were.

What cannot be made again exactly stays: an index that something depends on (a view that groups by a
primary key), that has a comment, clusters its table or is its replica identity, that belongs to a
partitioned table, or has storage settings. It costs time, never the result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.introspect import ForeignKey

_ENABLED = {
    "O": sql.SQL("ENABLE TRIGGER"),
    "A": sql.SQL("ENABLE ALWAYS TRIGGER"),
    "R": sql.SQL("ENABLE REPLICA TRIGGER"),
}


@dataclass(slots=True)
class Removed:
    """What was taken off, in the order in which it is made again."""

    keys: list[tuple[sql.Identifier, str, str]] = field(default_factory=list)
    indexes: list[tuple[str, str]] = field(default_factory=list)
    references: list[ForeignKey] = field(default_factory=list)
    triggers: list[tuple[sql.Identifier, str, str]] = field(default_factory=list)


def remove(
    conn: psycopg.Connection[Any],
    references: Iterable[ForeignKey],
    oids: Collection[int],
    large: Collection[int],
) -> Removed:
    """Drop ``references``, switch the tables' own triggers off, and drop keys and indexes of the
    ``large`` tables. All tables must be locked exclusively.
    """
    removed = Removed(references=list(references))
    for reference in removed.references:
        _drop_constraint(conn, reference.relation, reference.name)
    for schema, table, name, enabled in conn.execute(_TRIGGERS, (list(oids),)).fetchall():
        relation = sql.Identifier(schema, table)
        conn.execute(
            sql.SQL("ALTER TABLE {} DISABLE TRIGGER {}").format(relation, sql.Identifier(name))
        )
        removed.triggers.append((relation, name, enabled))
    for schema, table, constraint, index, definition in conn.execute(
        _INDEXES, (list(large),)
    ).fetchall():
        if constraint is None:
            conn.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(schema, index)))
            removed.indexes.append((index, definition))
        else:
            relation = sql.Identifier(schema, table)
            _drop_constraint(conn, relation, constraint)
            removed.keys.append((relation, constraint, definition))
    return removed


def make_indexes(conn: psycopg.Connection[Any], removed: Removed) -> None:
    """Make the keys and indexes again. The texts are PostgreSQL's own, quoted by it."""
    for relation, name, definition in removed.keys:
        _add_constraint(conn, relation, name, definition)
    for _, definition in removed.indexes:
        conn.execute(definition.encode())


def make_references(conn: psycopg.Connection[Any], removed: Removed) -> None:
    """Make the foreign keys again, which validates those that were valid, and switch triggers on.

    Raises:
        AtdmError: RESTORE_FAILED naming the foreign key that the rows violate.
    """
    for reference in removed.references:
        try:
            _add_constraint(conn, reference.relation, reference.name, reference.definition)
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
                    sql.Identifier(reference.name),
                    reference.relation,
                    sql.Literal(reference.comment),
                )
            )
    for relation, trigger, enabled in removed.triggers:
        conn.execute(
            sql.SQL("ALTER TABLE {} {} {}").format(
                relation, _ENABLED[enabled], sql.Identifier(trigger)
            )
        )


def _drop_constraint(conn: psycopg.Connection[Any], relation: sql.Identifier, name: str) -> None:
    conn.execute(
        sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(relation, sql.Identifier(name))
    )


def _add_constraint(
    conn: psycopg.Connection[Any], relation: sql.Identifier, name: str, definition: str
) -> None:
    # ``definition`` is PostgreSQL's own text, quoted by it.
    conn.execute(
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
            relation, sql.Identifier(name), sql.SQL(definition)
        )
    )


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
