"""Locks in the target that show which Dagster runs are being executed (ADR 0085)."""

from __future__ import annotations

from typing import Any

import psycopg

from atdm_resources.postgres.locks import RequestLock, try_lock


def run_lock(url: str, dagster_run_id: str) -> RequestLock:
    """The lock of a run; the process that executes the run holds it."""
    return RequestLock(url, None, _name(dagster_run_id))


def is_held(conn: psycopg.Connection[Any], dagster_run_id: str) -> bool:
    """Whether a living process holds the lock of a run. ``conn`` is in autocommit mode."""
    with conn.transaction():
        return not try_lock(conn, _name(dagster_run_id))


def place(conn: psycopg.Connection[Any]) -> str:
    """An identifier of the target: locks of another target prove nothing about this one's runs."""
    row = conn.execute(
        "SELECT database_name || '@' || extract(epoch FROM marked_at)::bigint FROM atdm.target"
    ).fetchone()
    assert row is not None
    return str(row[0])


def _name(dagster_run_id: str) -> str:
    return f"dagster run {dagster_run_id}"
