"""Retires ended requests, removes their files, deletes old runs and outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from atdm_resources.catalog.requests import RequestRef
from atdm_resources.store.files import Store


def retire(conn: psycopg.Connection[Any], gone_for: timedelta, most: int) -> list[str]:
    """Mark requests without ready or leased runs as ``retired``, in one transaction.

    Requests that ended less than ``gone_for`` ago stay: a person may want to look at them. Writes
    the event request_retired. Returns their ids.
    """
    with conn.transaction():
        retired = conn.execute(
            "UPDATE atdm.request AS q SET status = 'retired' WHERE q.request_id IN ("
            " SELECT o.request_id FROM atdm.request AS o"
            " WHERE o.status = 'ready' AND o.partition_removed_at IS NULL"
            " AND o.finished_at < now() - %s"
            " AND NOT EXISTS (SELECT FROM atdm.test_run AS r WHERE r.test_run_id > o.request_id"
            "  AND r.test_run_id <= left(o.request_id, 20) || 'ZZZZZZ'"
            "  AND r.status IN ('ready', 'leased'))"
            " ORDER BY o.finished_at LIMIT %s FOR UPDATE SKIP LOCKED)"
            " RETURNING q.request_id",
            (gone_for, most),
        ).fetchall()
        ids = sorted(request_id for (request_id,) in retired)
        conn.execute(
            "INSERT INTO atdm.audit_event"
            " (action, status, domain, scenario_id, request_id, invoker, source, outputs)"
            " SELECT 'request_retired', 'retired', q.domain, q.scenario_id, q.request_id,"
            " 'agent:atdm-expiry', 'expiry', jsonb_build_object('runs', q.runs)"
            " FROM atdm.request AS q WHERE q.request_id = ANY (%s)",
            (ids,),
        )
    return ids


def over_requests(
    conn: psycopg.Connection[Any], failed_for: timedelta, most: int
) -> list[RequestRef]:
    """Requests whose partition keys and staged files are no longer needed.

    Retired ones, and those that were rejected or rolled back longer than ``failed_for`` ago.
    """
    with conn.cursor(row_factory=class_row(RequestRef)) as cursor:
        return cursor.execute(
            "SELECT request_id, label, domain, scenario_id, dagster_run_id FROM atdm.request"
            " WHERE partition_removed_at IS NULL AND (status = 'retired'"
            "  OR (status IN ('rejected', 'rolled_back') AND finished_at < now() - %s))"
            " ORDER BY finished_at LIMIT %s",
            (failed_for, most),
        ).fetchall()


def forget(conn: psycopg.Connection[Any], store: Store, requests: Sequence[RequestRef]) -> None:
    """Delete the staged files of requests whose partition keys the caller has removed.

    Recorded last: after an interruption the next call repeats it.
    """
    for request in requests:
        store.delete_prefix(request.folder)
    conn.execute(
        "UPDATE atdm.request SET partition_removed_at = clock_timestamp()"
        " WHERE request_id = ANY (%s)",
        ([request.request_id for request in requests],),
    )


def delete_ended_runs(conn: psycopg.Connection[Any], age: timedelta, most: int) -> int:
    """Delete at most ``most`` runs that ended longer ago, of retired requests; returns how many.

    The requests stay as history.
    """
    return conn.execute(
        "DELETE FROM atdm.test_run WHERE test_run_id IN ("
        " SELECT r.test_run_id FROM atdm.request AS q"
        " JOIN atdm.test_run AS r ON r.test_run_id > q.request_id"
        "  AND r.test_run_id <= left(q.request_id, 20) || 'ZZZZZZ'"
        " WHERE q.status = 'retired' AND q.finished_at < now() - %s"
        " AND r.status IN ('cleaned', 'expired') AND r.ended_at < now() - %s LIMIT %s)",
        (age, age, most),
    ).rowcount


def delete_outcomes(conn: psycopg.Connection[Any], age: timedelta, most: int) -> int:
    """Delete at most ``most`` test outcomes that are older; returns how many."""
    return conn.execute(
        "DELETE FROM atdm.test_outcome WHERE outcome_id IN ("
        " SELECT outcome_id FROM atdm.test_outcome WHERE at < now() - %s LIMIT %s)",
        (age, most),
    ).rowcount


def record_retention(conn: psycopg.Connection[Any], deleted: Mapping[str, int]) -> None:
    """Write event retention_applied: how much of what was deleted."""
    conn.execute(
        "INSERT INTO atdm.audit_event (action, invoker, source, outputs)"
        " VALUES ('retention_applied', 'agent:atdm-retention', 'retention', %s)",
        (Jsonb(dict(deleted)),),
    )
