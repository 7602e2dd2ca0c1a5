"""Requests that are ready and are made again: how that is known, and how it ends badly.

A ready request that was started after it had finished is being made again (see
``catalog.reopen_request``). It keeps its rows and its files until its replay replaces them.
"""

from __future__ import annotations

from typing import Any

import psycopg

from atdm_engine.errors import ErrorCode
from atdm_resources.catalog import requests


def end_replay(
    conn: psycopg.Connection[Any], request_id: str, *, message: str, step: str, code: ErrorCode
) -> bool:
    """A replay of a ready request has failed: seed_failed. Its rows and its files stay.

    Does nothing and returns False unless the request is ready and being made again.
    """
    with conn.transaction():
        ended = conn.execute(
            "UPDATE atdm.request SET finished_at = clock_timestamp()"
            " WHERE request_id = %s AND status = 'ready' AND started_at > finished_at",
            (request_id,),
        )
        if not ended.rowcount:
            return False
        record = requests.get_request(conn, request_id)
        requests.add_event(
            conn,
            "seed_failed",
            record,
            status=record.status,
            outputs={"step": step, "downstream_status": str(code), "message": message},
        )
    return True
