"""Rolling requests back: by the process that makes them, or after its death."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg

from atdm_engine.errors import ErrorCode
from atdm_resources.catalog import requests
from atdm_resources.catalog.requests import RequestRecord, RequestRef
from atdm_resources.store.files import Store

ORPHANED: Final = "the process that worked on it is gone"


def roll_back(
    conn: psycopg.Connection[Any],
    store: Store,
    request: RequestRef | RequestRecord,
    *,
    message: str,
    step: str,
    code: ErrorCode = ErrorCode.SEED_FAILED,
    details: Mapping[str, Any] | None = None,
) -> bool:
    """End a request that is being made: event seed_failed, its staged files are deleted.

    A pending request ends as rolled_back. A ready one with a replay under way stays ready, with its
    rows and files. Returns False, and changes nothing, for any other.
    """
    if requests.rollback_request(
        conn, request.request_id, message=message, step=step, code=code, details=details
    ):
        store.delete_prefix(request.folder)
    elif requests.end_replay(conn, request.request_id, message=message, step=step, code=code):
        store.sweep(request.folder)
    else:
        return False
    return True


def roll_back_orphans(
    conn: psycopg.Connection[Any],
    store: Store,
    *,
    dagster_run_ids: Sequence[str] | None = None,
    reason: str = ORPHANED,
) -> list[RequestRef]:
    """Roll back every request whose process is gone: it is being made and its lock is free.

    Its rows never were visible: they were in a transaction that died with the process.
    ``dagster_run_ids`` limits the search to requests of these runs. ``conn`` must be in autocommit
    mode. Several callers may do this at once.
    """
    found = []
    for request in requests.pending_requests(conn, dagster_run_ids):
        with conn.transaction():
            if requests.lock_if_free(conn, request.request_id) and roll_back(
                conn, store, request, message=reason, step="reconcile"
            ):
                found.append(request)
    return found
