"""Requests whose process is gone: found, rolled back, their files deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from atdm_engine.errors import ErrorCode
from atdm_resources.catalog import replays, requests
from atdm_resources.store.files import Store

REASON = "the process that worked on it is gone"


@dataclass(frozen=True, slots=True)
class Reconciled:
    """A request that was rolled back because nobody was working on it any more."""

    request_id: str
    label: str
    domain: str
    scenario_id: str
    dagster_run_id: str | None


def reconcile(
    conn: psycopg.Connection[Any],
    store: Store | None = None,
    *,
    dagster_run_ids: Sequence[str] | None = None,
    reason: str = REASON,
) -> list[Reconciled]:
    """Roll back every pending request whose lock is free (see ``request_lock``).

    Status rolled_back, audit event seed_failed with ``reason``; its staged files are deleted when
    ``store`` is given. A ready request that was being made again stays ready, with its rows and its
    files; the event is the same. ``dagster_run_ids`` limits it to the requests of these runs. Rows
    of theirs never were visible: they were in a transaction that died with its process. ``conn``
    must be in autocommit mode. Safe when several callers do it at once.
    """
    pending = conn.execute(
        "SELECT request_id, label, domain, scenario_id, dagster_run_id FROM atdm.request"
        " WHERE (status = 'pending' OR status = 'ready' AND partition_removed_at IS NULL"
        "  AND started_at > finished_at) AND (%s::text[] IS NULL OR dagster_run_id = ANY (%s))"
        " ORDER BY created_at",
        (dagster_run_ids, dagster_run_ids),
    ).fetchall()
    found = []
    for row in pending:
        dead = Reconciled(*row)
        with conn.transaction():
            free = conn.execute(
                "SELECT pg_try_advisory_xact_lock(atdm.request_lock_key(%s))", (dead.request_id,)
            ).fetchone()
            if free is None or not free[0]:
                continue
            folder = requests.request_folder(dead.domain, dead.scenario_id, dead.request_id)
            if requests.rollback_request(conn, dead.request_id, message=reason, step="reconcile"):
                if store is not None:
                    store.delete_prefix(folder)
            elif replays.end_replay(
                conn,
                dead.request_id,
                message=reason,
                step="reconcile",
                code=ErrorCode.SEED_FAILED,
            ):
                if store is not None:
                    store.sweep(folder)
            else:
                continue
        found.append(dead)
    return found
