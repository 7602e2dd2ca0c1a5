"""What the target records of its baselines: rows of ``atdm.baseline`` and audit events."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.values.scalars import json_value
from atdm_resources.postgres.locks import RequestLock
from atdm_resources.store.files import Store
from atdm_services.baselines import removal
from atdm_services.baselines.manifest import BaselineFiles, Manifest, read_manifest


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does it, through what, and why. ``attempt`` ties the events of one restore together."""

    invoker: str
    source: str
    reason: str = ""
    attempt: str | None = None


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


@contextmanager
def restore_under_way(
    conn: psycopg.Connection[Any], url: str, domain: str, baseline_id: str | None, actor: Actor
) -> Iterator[Actor]:
    """A restore begins: restore_started. Yields the actor of its further events.

    While the block runs a lock tells others that it is alive; a restore whose process died before
    it could write its last event gets that event from the next one.
    """
    known = replace(actor, attempt=secrets.token_hex(8))
    with RequestLock(url, None, _restore_lock(known.attempt)):
        add_event(conn, "restore_started", domain, baseline_id, known)
        yield known


def sweep_restores(conn: psycopg.Connection[Any], domain: str) -> int:
    """Restores whose process is gone: restore_failed for each, nothing was changed; how many.

    One whose transaction had committed has its restore_completed in it.
    """
    begun = conn.execute(
        "SELECT b.inputs ->> 'attempt', b.inputs ->> 'baseline_id', b.invoker, b.source"
        " FROM atdm.audit_event AS b WHERE b.request_id IS NULL AND b.action = 'restore_started'"
        " AND b.domain = %s AND b.inputs ? 'attempt' AND NOT EXISTS ("
        "  SELECT FROM atdm.audit_event AS e WHERE e.request_id IS NULL"
        "  AND e.action IN ('restore_completed', 'restore_failed')"
        "  AND e.inputs ->> 'attempt' = b.inputs ->> 'attempt') ORDER BY b.event_id",
        (domain,),
    ).fetchall()
    swept = 0
    for attempt, baseline_id, invoker, source in begun:
        with conn.transaction():
            row = conn.execute(
                "SELECT pg_try_advisory_xact_lock(atdm.request_lock_key(%s)), NOT EXISTS ("
                " SELECT FROM atdm.audit_event WHERE request_id IS NULL"
                " AND action IN ('restore_completed', 'restore_failed')"
                " AND inputs ->> 'attempt' = %s)",
                (_restore_lock(attempt), attempt),
            ).fetchone()
            if row is None or not all(row):
                continue
            add_event(
                conn,
                "restore_failed",
                domain,
                baseline_id,
                Actor(invoker, source, attempt=attempt),
                status="failed",
                outputs={"reason": "process_gone", "message": "the process that restored is gone"},
            )
            swept += 1
    return swept


def _restore_lock(attempt: str | None) -> str:
    return f"restore {attempt}"


def deleted(conn: psycopg.Connection[Any], domain: str, baseline_id: str, actor: Actor) -> None:
    """The baseline is gone from the store. Nothing more to say of one that is known to be gone."""
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
        add_event(conn, "baseline_deleted", domain, baseline_id, actor)


def sweep_captures(conn: psycopg.Connection[Any], store: Store, domain: str) -> list[str]:
    """Captures whose process is gone: mark them failed, delete their files; returns their ids.

    One whose manifest made it into the store is complete, whatever became of its process. Restores
    whose process is gone get their last event, and removals that were cut short are finished.
    """
    sweep_restores(conn, domain)
    for files, said in removal.cut_short(store, domain):
        removal.remove(store, files, said)
        if "invoker" in said:
            who = Actor(said["invoker"], said.get("source", "sweep"), said.get("reason", ""))
            deleted(conn, domain, files.baseline_id, who)
        removal.finish(store, files)
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
            told: dict[str, Any] = {"message": "the process that captured it is gone"}
            if made:
                told |= _taken_over(conn, store, files)
            else:
                store.delete_prefix(files.folder)
            add_event(
                conn,
                "snapshot_completed" if made else "snapshot_failed",
                domain,
                baseline_id,
                Actor(invoker, source),
                status="ok" if made else "failed",
                outputs=told,
            )
            gone.append(baseline_id)
    return gone


def _taken_over(
    conn: psycopg.Connection[Any], store: Store, files: BaselineFiles
) -> dict[str, Any]:
    """Do for a baseline what its process did not come to: note what it is, delete what it is not.

    One that cannot be read stays as it is, for ``baseline-verify`` to tell.
    """
    try:
        manifest = read_manifest(store, files.domain, files.baseline_id)
    except AtdmError as error:
        if error.code is not ErrorCode.BASELINE_INVALID:
            raise
        return {"problem": error.message}
    _known(conn, store, manifest)
    kept = {files.manifest, *(files.full(file) for file in manifest.files)}
    for path in store.files(files.folder):
        if path not in kept:
            store.delete_prefix(path)
    return {"manifest": summary(manifest)}


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
            Jsonb(json_value({**_said(baseline_id, actor), **(inputs or {})})),
            Jsonb(json_value(outputs or {})),
        ),
    )


def _said(baseline_id: str | None, actor: Actor) -> dict[str, Any]:
    said = {"baseline_id": baseline_id, "reason": actor.reason}
    return said if actor.attempt is None else {**said, "attempt": actor.attempt}


def is_known(conn: psycopg.Connection[Any], manifest: Manifest) -> bool:
    """Whether the target has this very baseline on record as complete."""
    row = conn.execute(
        "SELECT FROM atdm.baseline WHERE domain = %s AND baseline_id = %s"
        " AND status = 'complete' AND content_hash = %s",
        (manifest.domain, manifest.baseline_id, manifest.content_hash),
    ).fetchone()
    return row is not None


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
