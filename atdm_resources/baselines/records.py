"""What the target records of its baselines: rows of ``atdm.baseline`` and audit events.

Belongs here: every write to that table, with the event that belongs to it in the same transaction
(requirement A-AUD-09). Does not belong here: the runs and requests that a baseline contains
(``contained_runs``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError
from atdm_resources.baselines.manifest import BaselineFiles, Manifest
from atdm_resources.catalog import plain
from atdm_resources.store import Store


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does it, through what, and why."""

    invoker: str
    source: str
    reason: str = ""


def lock_name(domain: str, baseline_id: str) -> str:
    """What the lock on a baseline that is being captured is called."""
    return f"baseline {domain}/{baseline_id}"


def snapshot_started(
    conn: psycopg.Connection[Any], store: Store, domain: str, baseline_id: str, actor: Actor
) -> None:
    """The capture begins. An earlier attempt under this id that failed is forgotten."""
    with conn.transaction():
        conn.execute(
            "INSERT INTO atdm.baseline"
            " (domain, baseline_id, kind, status, store_url, invoker, source, reason)"
            " VALUES (%s, %s, 'captured', 'capturing', %s, %s, %s, %s)"
            " ON CONFLICT (domain, baseline_id) DO UPDATE SET"
            " kind = 'captured', status = 'capturing', store_url = excluded.store_url,"
            " invoker = excluded.invoker, source = excluded.source, reason = excluded.reason,"
            " started_at = clock_timestamp(), finished_at = NULL, error = NULL",
            (domain, baseline_id, store.url, actor.invoker, actor.source, actor.reason),
        )
        add_event(conn, "snapshot_started", domain, baseline_id, actor)


def published(
    conn: psycopg.Connection[Any],
    store: Store,
    manifest: Manifest,
    actor: Actor,
    action: str = "snapshot_completed",
) -> None:
    """The manifest is in the store."""
    with conn.transaction():
        _known(conn, store, manifest)
        add_event(
            conn,
            action,
            manifest.domain,
            manifest.baseline_id,
            actor,
            outputs={"manifest": summary(manifest)},
        )


def snapshot_failed(
    conn: psycopg.Connection[Any], domain: str, baseline_id: str, actor: Actor, error: AtdmError
) -> None:
    """Nothing was published."""
    with conn.transaction():
        conn.execute(
            "UPDATE atdm.baseline SET status = 'failed', finished_at = clock_timestamp(),"
            " error = %s WHERE domain = %s AND baseline_id = %s AND status = 'capturing'",
            (Jsonb(error.envelope()["error"]), domain, baseline_id),
        )
        add_event(
            conn,
            "snapshot_failed",
            domain,
            baseline_id,
            actor,
            status="failed",
            outputs={"code": str(error.code), "message": error.message},
        )


def restored(conn: psycopg.Connection[Any], store: Store, manifest: Manifest, actor: Actor) -> None:
    """Note, in the restoring transaction, what the target now holds."""
    _known(conn, store, manifest)
    conn.execute(
        "UPDATE atdm.baseline SET restored_at = clock_timestamp(), restored_by = %s"
        " WHERE domain = %s AND baseline_id = %s",
        (actor.invoker, manifest.domain, manifest.baseline_id),
    )


def deleted(conn: psycopg.Connection[Any], domain: str, baseline_id: str, actor: Actor) -> None:
    """The baseline is gone from the store."""
    with conn.transaction():
        conn.execute(
            "UPDATE atdm.baseline SET status = 'deleted', finished_at = clock_timestamp()"
            " WHERE domain = %s AND baseline_id = %s",
            (domain, baseline_id),
        )
        add_event(conn, "baseline_deleted", domain, baseline_id, actor)


def sweep_captures(conn: psycopg.Connection[Any], store: Store, domain: str) -> list[str]:
    """Captures whose process is gone: mark them failed, delete their files; returns their ids.

    One whose manifest made it into the store is complete, whatever became of its process.
    """
    pending = conn.execute(
        "SELECT baseline_id, invoker, source FROM atdm.baseline"
        " WHERE domain = %s AND status = 'capturing' AND store_url = %s ORDER BY started_at",
        (domain, store.url),
    ).fetchall()
    gone = []
    for baseline_id, invoker, source in pending:
        files = BaselineFiles(domain, baseline_id)
        with conn.transaction():
            row = conn.execute(
                "SELECT pg_try_advisory_xact_lock(atdm.request_lock_key(%s))",
                (lock_name(domain, baseline_id),),
            ).fetchone()
            if row is None or not row[0]:
                continue
            made = store.exists(files.manifest)
            changed = conn.execute(
                "UPDATE atdm.baseline SET status = %s, finished_at = clock_timestamp()"
                " WHERE domain = %s AND baseline_id = %s AND status = 'capturing'",
                ("complete" if made else "failed", domain, baseline_id),
            ).rowcount
            if not changed:
                continue
            if not made:
                store.delete_prefix(files.folder)
            add_event(
                conn,
                "snapshot_completed" if made else "snapshot_failed",
                domain,
                baseline_id,
                Actor(invoker, source),
                status="ok" if made else "failed",
                outputs={"message": "the process that captured it is gone"},
            )
            gone.append(baseline_id)
    return gone


def add_event(
    conn: psycopg.Connection[Any],
    action: str,
    domain: str,
    baseline_id: str | None,
    actor: Actor,
    *,
    status: str = "ok",
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
) -> None:
    """Write one audit event about a baseline."""
    conn.execute(
        "INSERT INTO atdm.audit_event (action, status, domain, invoker, source, inputs, outputs)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (
            action,
            status,
            domain,
            actor.invoker,
            actor.source,
            Jsonb(plain({"baseline_id": baseline_id, "reason": actor.reason, **(inputs or {})})),
            Jsonb(plain(outputs or {})),
        ),
    )


def summary(manifest: Manifest) -> dict[str, Any]:
    """A manifest in a few lines: what events and listings show of it."""
    return {
        "baseline_id": manifest.baseline_id,
        "domain": manifest.domain,
        "kind": manifest.kind,
        "captured_at": manifest.captured_at.isoformat(),
        "captured_by": manifest.captured_by,
        "reason": manifest.reason,
        "format_version": manifest.format_version,
        "engine_version": manifest.engine_version,
        "postgres_version": manifest.postgres_version,
        "tables": {table.name: table.rows for table in manifest.tables},
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "runs": dict(manifest.runs.counts),
        "content_hash": manifest.content_hash,
    }


def _known(conn: psycopg.Connection[Any], store: Store, manifest: Manifest) -> None:
    conn.execute(
        "INSERT INTO atdm.baseline AS b (domain, baseline_id, kind, status, store_url, invoker,"
        " source, reason, finished_at, rows, bytes, content_hash)"
        " VALUES (%s, %s, %s, 'complete', %s, %s, %s, %s, clock_timestamp(), %s, %s, %s)"
        " ON CONFLICT (domain, baseline_id) DO UPDATE SET status = 'complete',"
        " kind = excluded.kind, store_url = excluded.store_url, rows = excluded.rows,"
        " bytes = excluded.bytes, content_hash = excluded.content_hash, error = NULL,"
        " finished_at = coalesce(b.finished_at, excluded.finished_at)",
        (
            manifest.domain,
            manifest.baseline_id,
            manifest.kind,
            store.url,
            manifest.captured_by,
            manifest.source,
            manifest.reason,
            manifest.rows,
            manifest.bytes,
            manifest.content_hash,
        ),
    )
