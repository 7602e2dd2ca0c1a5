"""Baselines that the target knows: rows of ``atdm.baseline``, and their audit events.

A row has status ``capturing``, ``complete``, ``failed`` or ``deleted``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError
from atdm_resources.catalog.events import Actor, add_event


@dataclass(frozen=True, slots=True)
class BaselineRow:
    """A complete baseline as the catalog keeps it. ``invoker`` and ``source`` made it."""

    domain: str
    baseline_id: str
    kind: str
    store_url: str
    invoker: str
    source: str
    reason: str
    rows: int
    bytes: int
    content_hash: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A capture or a restore that has not ended. ``attempt`` is a restore's."""

    baseline_id: str | None
    actor: Actor


def capture_lock(domain: str, baseline_id: str) -> str:
    """The name of the lock on a baseline that is being captured."""
    return f"baseline {domain}/{baseline_id}"


def restore_lock(attempt: str | None) -> str:
    """The name of the lock on a restore that is under way."""
    return f"restore {attempt}"


def add_baseline_event(
    conn: psycopg.Connection[Any],
    action: str,
    domain: str,
    baseline_id: str | None,
    actor: Actor,
    *,
    status: str = "ok",
    outputs: Mapping[str, Any] | None = None,
) -> None:
    """Write one audit event about a baseline."""
    inputs = {"baseline_id": baseline_id, "reason": actor.reason}
    if actor.attempt is not None:
        inputs["attempt"] = actor.attempt
    add_event(conn, action, domain, actor, status=status, inputs=inputs, outputs=outputs)


def begin_capture(
    conn: psycopg.Connection[Any], domain: str, baseline_id: str, store_url: str, actor: Actor
) -> None:
    """Record that a capture begins; replaces the row of an earlier attempt under this id."""
    with conn.transaction():
        conn.execute(
            "INSERT INTO atdm.baseline"
            " (domain, baseline_id, kind, status, store_url, invoker, source, reason)"
            " VALUES (%s, %s, 'captured', 'capturing', %s, %s, %s, %s)"
            " ON CONFLICT (domain, baseline_id) DO UPDATE SET"
            " kind = 'captured', status = 'capturing', store_url = excluded.store_url,"
            " invoker = excluded.invoker, source = excluded.source, reason = excluded.reason,"
            " started_at = clock_timestamp(), finished_at = NULL, error = NULL",
            (domain, baseline_id, store_url, actor.invoker, actor.source, actor.reason),
        )
        add_baseline_event(conn, "snapshot_started", domain, baseline_id, actor)


def fail_capture(
    conn: psycopg.Connection[Any], domain: str, baseline_id: str, actor: Actor, error: AtdmError
) -> None:
    """Record that a capture failed and nothing was published."""
    with conn.transaction():
        conn.execute(
            "UPDATE atdm.baseline SET status = 'failed', finished_at = clock_timestamp(),"
            " error = %s WHERE domain = %s AND baseline_id = %s AND status = 'capturing'",
            (Jsonb(error.envelope()["error"]), domain, baseline_id),
        )
        add_baseline_event(
            conn,
            "snapshot_failed",
            domain,
            baseline_id,
            actor,
            status="failed",
            outputs={"code": str(error.code), "message": error.message},
        )


def set_complete(conn: psycopg.Connection[Any], row: BaselineRow) -> None:
    """Record a baseline whose manifest is in the store."""
    conn.execute(
        "INSERT INTO atdm.baseline AS b (domain, baseline_id, kind, status, store_url, invoker,"
        " source, reason, finished_at, rows, bytes, content_hash)"
        " VALUES (%s, %s, %s, 'complete', %s, %s, %s, %s, clock_timestamp(), %s, %s, %s)"
        " ON CONFLICT (domain, baseline_id) DO UPDATE SET status = 'complete',"
        " kind = excluded.kind, store_url = excluded.store_url, rows = excluded.rows,"
        " bytes = excluded.bytes, content_hash = excluded.content_hash, error = NULL,"
        " finished_at = coalesce(b.finished_at, excluded.finished_at)",
        (
            row.domain,
            row.baseline_id,
            row.kind,
            row.store_url,
            row.invoker,
            row.source,
            row.reason,
            row.rows,
            row.bytes,
            row.content_hash,
        ),
    )


def publish(
    conn: psycopg.Connection[Any],
    row: BaselineRow,
    actor: Actor,
    summary: Mapping[str, Any],
    action: str = "snapshot_completed",
) -> None:
    """Record a published baseline, with an event that holds the manifest's summary."""
    with conn.transaction():
        set_complete(conn, row)
        add_baseline_event(
            conn, action, row.domain, row.baseline_id, actor, outputs={"manifest": summary}
        )


def is_complete(
    conn: psycopg.Connection[Any], domain: str, baseline_id: str, content_hash: str
) -> bool:
    """Whether a baseline of this content is recorded as complete."""
    row = conn.execute(
        "SELECT FROM atdm.baseline WHERE domain = %s AND baseline_id = %s"
        " AND status = 'complete' AND content_hash = %s",
        (domain, baseline_id, content_hash),
    ).fetchone()
    return row is not None


def set_restored(conn: psycopg.Connection[Any], row: BaselineRow, invoker: str) -> None:
    """Record, in the restoring transaction, that the target holds a baseline's rows."""
    set_complete(conn, row)
    conn.execute(
        "UPDATE atdm.baseline SET restored_at = clock_timestamp(), restored_by = %s"
        " WHERE domain = %s AND baseline_id = %s",
        (invoker, row.domain, row.baseline_id),
    )


def set_deleted(conn: psycopg.Connection[Any], domain: str, baseline_id: str, actor: Actor) -> None:
    """Record that a baseline is gone from the store; does nothing when that is recorded."""
    with conn.transaction():
        row = conn.execute(
            "SELECT status FROM atdm.baseline WHERE domain = %s AND baseline_id = %s FOR UPDATE",
            (domain, baseline_id),
        ).fetchone()
        if row is not None and row[0] == "deleted":
            return
        conn.execute(
            "UPDATE atdm.baseline SET status = 'deleted', finished_at = clock_timestamp()"
            " WHERE domain = %s AND baseline_id = %s",
            (domain, baseline_id),
        )
        add_baseline_event(conn, "baseline_deleted", domain, baseline_id, actor)


def unfinished_captures(
    conn: psycopg.Connection[Any], domain: str, store_url: str
) -> list[Unfinished]:
    """Captures into this store that have not ended, the oldest first."""
    rows = conn.execute(
        "SELECT baseline_id, invoker, source FROM atdm.baseline"
        " WHERE domain = %s AND status = 'capturing' AND store_url = %s ORDER BY started_at",
        (domain, store_url),
    ).fetchall()
    return [
        Unfinished(baseline_id, Actor(invoker, source)) for baseline_id, invoker, source in rows
    ]


def end_capture(
    conn: psycopg.Connection[Any], domain: str, baseline_id: str, *, complete: bool
) -> bool:
    """End a capture whose process is gone; False when it has ended meanwhile."""
    done = conn.execute(
        "UPDATE atdm.baseline SET status = %s, finished_at = clock_timestamp()"
        " WHERE domain = %s AND baseline_id = %s AND status = 'capturing'",
        ("complete" if complete else "failed", domain, baseline_id),
    )
    return done.rowcount == 1


def unfinished_restores(conn: psycopg.Connection[Any], domain: str) -> list[Unfinished]:
    """Restores with a start event and no end event, the oldest first."""
    rows = conn.execute(
        "SELECT b.inputs ->> 'attempt', b.inputs ->> 'baseline_id', b.invoker, b.source"
        " FROM atdm.audit_event AS b WHERE b.request_id IS NULL AND b.action = 'restore_started'"
        " AND b.domain = %s AND b.inputs ? 'attempt' AND NOT EXISTS ("
        "  SELECT FROM atdm.audit_event AS e WHERE e.request_id IS NULL"
        "  AND e.action IN ('restore_completed', 'restore_failed')"
        "  AND e.inputs ->> 'attempt' = b.inputs ->> 'attempt') ORDER BY b.event_id",
        (domain,),
    ).fetchall()
    return [
        Unfinished(baseline_id, Actor(invoker, source, attempt=attempt))
        for attempt, baseline_id, invoker, source in rows
    ]


def restore_has_ended(conn: psycopg.Connection[Any], attempt: str | None) -> bool:
    """Whether a restore has its end event."""
    row = conn.execute(
        "SELECT FROM atdm.audit_event WHERE request_id IS NULL"
        " AND action IN ('restore_completed', 'restore_failed') AND inputs ->> 'attempt' = %s"
        " LIMIT 1",
        (attempt,),
    ).fetchone()
    return row is not None


def database_and_next_number(conn: psycopg.Connection[Any], domain: str) -> tuple[str, int]:
    """The target's database, and the first unique number that no row of the domain has."""
    row = conn.execute(
        "SELECT current_database(), next_number FROM atdm.domain WHERE domain = %s", (domain,)
    ).fetchone()
    assert row is not None
    return row[0], row[1]
