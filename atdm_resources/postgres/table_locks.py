"""Locking tables exclusively without making everybody wait behind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode

_TRY = "SET LOCAL lock_timeout = '500ms'"
_PAUSE_SECONDS = 0.2


def lock_exclusively(
    conn: psycopg.Connection[Any], relations: Sequence[sql.Identifier], timeout: timedelta
) -> None:
    """Lock tables ACCESS EXCLUSIVE in the transaction of ``conn``.

    Readers and writers of a table queue behind whoever waits for such a lock, so it is waited for
    half a second at a time, with pauses in which they get through.

    Raises:
        AtdmError: BUSY naming the sessions that hold the tables when ``timeout`` has passed.
    """
    if not relations:
        return
    deadline = time.monotonic() + timeout.total_seconds()
    statement = sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(
        sql.SQL(", ONLY ").join(relations)
    )
    while True:
        try:
            with conn.transaction():
                conn.execute(_TRY)
                conn.execute(statement)
            break
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if time.monotonic() >= deadline:
                raise _held(conn, relations, timeout) from None
            time.sleep(_PAUSE_SECONDS)
    # What is still to be locked (a new index's name, for one) nobody else can hold for long.
    conn.execute("SET LOCAL lock_timeout = '30s'")


def _held(
    conn: psycopg.Connection[Any], relations: Sequence[sql.Identifier], timeout: timedelta
) -> AtdmError:
    rows = conn.execute(
        "SELECT DISTINCT a.pid, a.usename::text, a.application_name, a.state, l.mode,"
        " l.relation::regclass::text, now() - a.xact_start, left(a.query, 200)"
        " FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS a USING (pid)"
        " WHERE l.granted AND l.relation = ANY (%s::text[]::regclass[]::oid[])"
        " AND l.pid <> pg_catalog.pg_backend_pid() ORDER BY 1, 6",
        ([relation.as_string(conn) for relation in relations],),
    ).fetchall()
    blockers = [
        {
            "pid": row[0],
            "user": row[1],
            "application": row[2],
            "state": row[3],
            "mode": row[4],
            "table": row[5],
            "since_seconds": row[6].total_seconds() if row[6] is not None else None,
            "query": row[7],
        }
        for row in rows
    ]
    named = "; ".join(
        f"{b['application'] or 'a session'} of {b['user']} (pid {b['pid']}) holds {b['mode']} on "
        f"{b['table']}"
        for b in blockers[:5]
    )
    return AtdmError(
        ErrorCode.BUSY,
        f"the tables are in use after {timeout.total_seconds():g} s: "
        + (named or "whoever held them has just let go"),
        {"blockers": blockers},
    )
