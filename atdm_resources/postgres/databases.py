"""Databases of a server: made, copied, renamed, closed and dropped.

PostgreSQL makes and drops databases only outside a transaction.
"""

from __future__ import annotations

import time
from typing import Any, Final

import psycopg
from psycopg import sql

_END_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.05


def exists(conn: psycopg.Connection[Any], database: str) -> bool:
    """Whether the server has a database of this name."""
    row = conn.execute("SELECT FROM pg_catalog.pg_database WHERE datname = %s", (database,))
    return row.fetchone() is not None


def create(
    conn: psycopg.Connection[Any], database: str, *, template: str | None = None, comment: str
) -> None:
    """Make a database, a copy of ``template`` if one is given. Raises psycopg.Error."""
    statement = _creation(database)
    if template is not None:
        statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    conn.execute(statement)
    conn.execute(
        sql.SQL("COMMENT ON DATABASE {} IS {}").format(
            sql.Identifier(database), sql.Literal(comment)
        )
    )


def rename(conn: psycopg.Connection[Any], database: str, name: str) -> None:
    """Give a database another name, also in a transaction."""
    conn.execute(
        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
            sql.Identifier(database), sql.Identifier(name)
        )
    )


def close(conn: psycopg.Connection[Any], database: str) -> None:
    """Refuse further connections to a database, so that it can be copied at any time."""
    conn.execute(
        sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(sql.Identifier(database))
    )


def drop(conn: psycopg.Connection[Any], database: str) -> None:
    """Drop a database if it exists, and end the sessions that are connected to it."""
    conn.execute(
        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
    )


def analyze(conn: psycopg.Connection[Any]) -> None:
    """Collect statistics of every table of the connected database."""
    conn.execute("ANALYZE")


def end_creation(conn: psycopg.Connection[Any], database: str) -> bool:
    """End sessions that still make ``database``, up to a minute; False when one is left.

    A server notices that its client was killed only when it has an answer for it: without this the
    database would appear later.
    """
    statement = _creation(database).as_string(conn)
    deadline = time.monotonic() + _END_SECONDS
    while conn.execute(_END_SESSIONS, (statement,)).fetchone() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def _creation(database: str) -> sql.Composed:
    return sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database))


_END_SESSIONS = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE state = 'active' AND pid <> pg_catalog.pg_backend_pid()
  AND pg_catalog.starts_with(query, %s)
"""
