"""Retires ended requests and removes their files and partition keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from atdm_resources.catalog.requests import request_folder
from atdm_resources.store.files import Store


@dataclass(frozen=True, slots=True)
class OverRequest:
    """A request whose partition key and staged files may go. ``label`` is its partition key."""

    request_id: str
    label: str
    domain: str
    scenario_id: str


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
) -> list[OverRequest]:
    """Requests whose partition keys are no longer needed.

    Retired ones, and those that were rejected or rolled back longer than ``failed_for`` ago.
    """
    rows = conn.execute(
        "SELECT request_id, label, domain, scenario_id FROM atdm.request"
        " WHERE partition_removed_at IS NULL AND (status = 'retired'"
        "  OR (status IN ('rejected', 'rolled_back') AND finished_at < now() - %s))"
        " ORDER BY finished_at LIMIT %s",
        (failed_for, most),
    ).fetchall()
    return [OverRequest(*row) for row in rows]


def forget(conn: psycopg.Connection[Any], store: Store, requests: Sequence[OverRequest]) -> None:
    """Delete the staged files of requests whose partition keys the caller has removed.

    Recorded last: after an interruption the next call repeats it.
    """
    for request in requests:
        store.delete_prefix(request_folder(request.domain, request.scenario_id, request.request_id))
    conn.execute(
        "UPDATE atdm.request SET partition_removed_at = clock_timestamp()"
        " WHERE request_id = ANY (%s)",
        ([request.request_id for request in requests],),
    )
