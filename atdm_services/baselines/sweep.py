"""Captures, restores and removals that a dead process left unfinished: ended and recorded."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import baselines
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres.locks import RequestLock, try_lock
from atdm_resources.store.files import Store
from atdm_services.baselines import removal
from atdm_services.baselines.manifest import BaselineFiles, read_manifest


@contextmanager
def recorded_restore(
    conn: psycopg.Connection[Any], url: str, domain: str, baseline_id: str | None, actor: Actor
) -> Iterator[Actor]:
    """Record ``restore_started`` and hold the restore's lock; yields the actor of its events.

    The lock shows that the process is alive. When it dies before its last event, the next sweep
    writes that event.
    """
    known = replace(actor, attempt=secrets.token_hex(8))
    with RequestLock(url, None, baselines.restore_lock(known.attempt)):
        baselines.add_baseline_event(conn, "restore_started", domain, baseline_id, known)
        yield known


def sweep(conn: psycopg.Connection[Any], store: Store, domain: str) -> list[str]:
    """End what dead processes left of a domain's baselines; returns the ids of ended captures.

    Restores get their last event, removals are finished. A capture whose manifest is in the store
    is complete; the files of others are deleted.
    """
    _end_restores(conn, domain)
    for files, actor in removal.unfinished(store, domain):
        removal.remove(store, files, actor)
        if actor is not None:
            baselines.set_deleted(conn, domain, files.baseline_id, actor)
        removal.finish(store, files)
    ended = []
    for capture in baselines.unfinished_captures(conn, domain, store.url):
        files = BaselineFiles(domain, str(capture.baseline_id))
        with conn.transaction():
            if try_lock(conn, baselines.capture_lock(domain, files.baseline_id)) and _end_capture(
                conn, store, files, capture.actor
            ):
                ended.append(files.baseline_id)
    return ended


def _end_restores(conn: psycopg.Connection[Any], domain: str) -> None:
    """One whose transaction has committed has its ``restore_completed`` in it."""
    for restore in baselines.unfinished_restores(conn, domain):
        attempt = restore.actor.attempt
        with conn.transaction():
            if not try_lock(conn, baselines.restore_lock(attempt)):
                continue
            if baselines.restore_has_ended(conn, attempt):
                continue
            baselines.add_baseline_event(
                conn,
                "restore_failed",
                domain,
                restore.baseline_id,
                restore.actor,
                status="failed",
                outputs={"reason": "process_gone", "message": "the process that restored is gone"},
            )


def _end_capture(
    conn: psycopg.Connection[Any], store: Store, files: BaselineFiles, actor: Actor
) -> bool:
    complete = store.exists(files.manifest)
    if not baselines.end_capture(conn, files.domain, files.baseline_id, complete=complete):
        return False
    outputs: dict[str, Any] = {"message": "the process that captured it is gone"}
    if complete:
        outputs |= _completed(conn, store, files)
    else:
        store.delete_prefix(files.folder)
    baselines.add_baseline_event(
        conn,
        "snapshot_completed" if complete else "snapshot_failed",
        files.domain,
        files.baseline_id,
        actor,
        status="ok" if complete else "failed",
        outputs=outputs,
    )
    return True


def _completed(conn: psycopg.Connection[Any], store: Store, files: BaselineFiles) -> dict[str, Any]:
    """Record what a published baseline holds and delete files that its manifest does not name.

    One that cannot be read stays as it is, for ``baseline-verify`` to report.
    """
    try:
        manifest = read_manifest(store, files.domain, files.baseline_id)
    except AtdmError as error:
        if error.code is not ErrorCode.BASELINE_INVALID:
            raise
        return {"problem": error.message}
    baselines.set_complete(conn, manifest.catalog_row(store.url))
    kept = {files.manifest, *(files.full(file) for file in manifest.files)}
    for path in store.files(files.folder):
        if path not in kept:
            store.delete_prefix(path)
    return {"manifest": manifest.summary()}
