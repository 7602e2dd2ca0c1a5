"""Positions of sequences: read, compared and set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql

from atdm_resources.postgres.columns import SequenceState


def sequences(conn: psycopg.Connection[Any], schema: str) -> tuple[SequenceState, ...]:
    """Sequences in the schema, and those of other schemas that a default in it uses."""
    states = []
    for sequence_schema, name in conn.execute(_SEQUENCES, (schema, schema)).fetchall():
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(
            sql.Identifier(sequence_schema, name)
        )
        row = conn.execute(query).fetchone()
        assert row is not None
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


def missing(conn: psycopg.Connection[Any], states: Iterable[SequenceState]) -> list[str]:
    """The names of those sequences that the database does not have."""
    return [
        f"{state.schema_name}.{state.name}"
        for state in states
        if conn.execute(_EXISTS, (state.schema_name, state.name)).fetchone() is None
    ]


def set_positions(conn: psycopg.Connection[Any], states: Iterable[SequenceState]) -> None:
    """Set sequences, in the transaction of ``conn``; shared ones only move onwards."""
    for state in states:
        name = sql.Identifier(state.schema_name, state.name)
        if state.shared and not _is_behind(conn, name, state.last_value):
            continue
        # RESTART gives the sequence new storage, which a rollback throws away together with
        # what setval writes into it; setval alone would survive the rollback.
        conn.execute(sql.SQL("ALTER SEQUENCE {} RESTART").format(name))
        conn.execute(
            "SELECT setval(%s::regclass, %s, %s)",
            (name.as_string(conn), state.last_value, state.is_called),
        )


def _is_behind(conn: psycopg.Connection[Any], name: sql.Identifier, last: int) -> bool:
    """Whether a sequence has to move on to get past the baseline's rows."""
    row = conn.execute(
        sql.SQL(
            "SELECT CASE WHEN s.seqincrement > 0 THEN q.last_value < {last}"
            " ELSE q.last_value > {last} END FROM {name} AS q, pg_catalog.pg_sequence AS s"
            " WHERE s.seqrelid = {text}::regclass"
        ).format(last=sql.Literal(last), name=name, text=sql.Literal(name.as_string(conn)))
    ).fetchone()
    return bool(row and row[0])


_EXISTS = """
SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND n.nspname = %s AND c.relname = %s
"""
_SEQUENCES = """
SELECT n.nspname::text, s.relname::text
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
