"""Read-only transactions that see one state of the database, also on several connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg import sql

from atdm_resources.postgres.connection import connect


@contextmanager
def reading(url: str, application_name: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in a read-only transaction that sees one state, from its first query on."""
    with closing(connect(url, autocommit=False, application_name=application_name)) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.read_only = True
        yield conn


def export(conn: psycopg.Connection[Any]) -> str:
    """The name of the state that ``conn`` sees, for ``adopt`` while its transaction is open."""
    row = conn.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    return str(row[0])


def adopt(conn: psycopg.Connection[Any], snapshot: str) -> None:
    """See the state of another transaction. Before the first query of this one."""
    conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
