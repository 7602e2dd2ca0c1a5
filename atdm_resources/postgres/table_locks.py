"""Locks on tables, taken so that other sessions do not wait behind them for long."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode

Found = TypeVar("Found")

_TRY = "SET LOCAL lock_timeout = '500ms'"
_PAUSE_SECONDS = 0.2


def lock_for_reading(
    conn: psycopg.Connection[Any], relations: Sequence[sql.Identifier], *, wait: bool = True
) -> None:
    """Lock tables ACCESS SHARE, so that they are not dropped or changed meanwhile.

    Raises psycopg.errors.LockNotAvailable without ``wait`` when another session is in the way.
    """
    conn.execute(_lock(relations, "ACCESS SHARE", "" if wait else " NOWAIT"))


def lock_exclusively(
    conn: psycopg.Connection[Any],
    relations: Sequence[sql.Identifier],
    timeout: timedelta,
    look: Callable[[], tuple[Found, Sequence[sql.Identifier]]],
) -> Found:
    """Lock tables ACCESS EXCLUSIVE in the transaction of ``conn``.

    ``look`` is called once they are locked: its first value is returned, its second names further
    tables to lock. Readers and writers of a table queue behind a session that waits for such a
    lock, so the locks are waited for half a second at a time, with pauses in which others get
    through.

    Raises:
        AtdmError: BUSY naming the sessions that hold the tables when ``timeout`` has passed;
            what ``look`` raises.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    more: Sequence[sql.Identifier] = ()
    while True:
        try:
            with conn.transaction():
                conn.execute(_TRY)
                conn.execute(_lock(relations, "ACCESS EXCLUSIVE"))
                found, more = look()
                if more:
                    conn.execute(_lock(more, "ACCESS EXCLUSIVE"))
            break
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if time.monotonic() >= deadline:
                raise _held(conn, [*relations, *more], timeout) from None
            time.sleep(_PAUSE_SECONDS)
    # Other sessions hold what is still to be locked (the name of a new index, say) only briefly.
    conn.execute("SET LOCAL lock_timeout = '30s'")
    return found


def _lock(relations: Sequence[sql.Identifier], mode: str, option: str = "") -> sql.Composed:
    return sql.SQL("LOCK TABLE ONLY {} IN {} MODE{}").format(
        sql.SQL(", ONLY ").join(relations), sql.SQL(mode), sql.SQL(option)
    )


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
        + (named or "the session that held them has just let go"),
        {"blockers": blockers},
    )
