"""A schema with every kind of column and dependency that a baseline must survive."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

SCHEMA = "zoo"

_ENDLESS_INTERVALS_SINCE = 170000
_OWN = f"CREATE SCHEMA {SCHEMA};\nINSERT INTO atdm.domain (domain) VALUES ('{SCHEMA}');\n"
_FILE = Path(__file__).with_name("baseline_zoo.sql")


def make_zoo(conn: psycopg.Connection[Any], schema: str = SCHEMA) -> None:
    """Make the schema, as domain ``zoo`` of an initialised target.

    With another ``schema``: the same tables in a domain that is there, as the application's own.
    """
    with_xml = conn.execute(
        "SELECT setting FROM pg_config WHERE name = 'CONFIGURE' AND setting LIKE '%%libxml%%'"
    ).fetchone()
    text = _FILE.read_text(encoding="utf-8")
    if not with_xml:
        text = text.replace("x xml", "x text")
    if conn.info.server_version < _ENDLESS_INTERVALS_SINCE:
        text = re.sub(r"/\*endless\*/'-?infinity'", "'-9999 years 11 mons'", text)
    if schema != SCHEMA:
        text = text.replace(_OWN, "").replace(f"{SCHEMA}.", f"{schema}.")
    conn.execute(text.encode())


def state(conn: psycopg.Connection[Any], schema: str = SCHEMA) -> dict[str, Any]:
    """Everything of a schema: rows in binary form, sequences, and every definition."""
    found: dict[str, Any] = {}
    tables = conn.execute(
        "SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = %s::regnamespace"
        " AND c.relkind = 'r' ORDER BY 1",
        (f'"{schema}"',),
    ).fetchall()
    for (table,) in tables:
        relation = sql.Identifier(schema, table)
        statement = sql.SQL("COPY (SELECT * FROM ONLY {}) TO STDOUT (FORMAT binary)").format(
            relation
        )
        with conn.cursor().copy(statement) as copy:
            rows = [bytes(part) for part in copy]
        found[f"rows {table}"] = sorted(rows[1:-1])
    for (name,) in conn.execute(
        "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relkind = 'S'"
        " AND c.relnamespace = %s::regnamespace ORDER BY 1",
        (f'"{schema}"',),
    ).fetchall():
        # The name is quoted by PostgreSQL.
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.SQL(name))
        found[f"sequence {name}"] = conn.execute(query).fetchone()
    found["definitions"] = conn.execute(_DEFINITIONS, {"schema": f'"{schema}"'}).fetchall()
    return found


_DEFINITIONS = """
SELECT 'constraint', k.conrelid::regclass::text, k.conname, pg_get_constraintdef(k.oid),
       k.convalidated::text, obj_description(k.oid, 'pg_constraint')
FROM pg_constraint AS k WHERE k.connamespace = %(schema)s::regnamespace
   OR k.confrelid IN (SELECT oid FROM pg_class WHERE relnamespace = %(schema)s::regnamespace)
UNION ALL
SELECT 'index', i.indrelid::regclass::text, i.indexrelid::regclass::text,
       pg_get_indexdef(i.indexrelid), i.indisvalid::text, obj_description(i.indexrelid, 'pg_class')
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid
WHERE c.relnamespace = %(schema)s::regnamespace
UNION ALL
SELECT 'trigger', t.tgrelid::regclass::text, t.tgname, pg_get_triggerdef(t.oid), t.tgenabled::text,
       NULL
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE c.relnamespace = %(schema)s::regnamespace AND NOT t.tgisinternal
UNION ALL
SELECT 'view', c.relname, NULL, pg_get_viewdef(c.oid), NULL, NULL
FROM pg_class AS c WHERE c.relkind = 'v' AND c.relnamespace = %(schema)s::regnamespace
UNION ALL
SELECT 'internal triggers', c.relname, NULL, count(*)::text, NULL, NULL
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE c.relnamespace = %(schema)s::regnamespace AND t.tgisinternal GROUP BY c.relname
ORDER BY 1, 2, 3, 4
"""
