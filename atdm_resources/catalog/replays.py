"""Replays of ready requests.

A ready request that was started after it had finished is being replayed (see
``requests.reopen_request``). It keeps its rows and files until the replay replaces them.
"""

from __future__ import annotations

from typing import Any

import psycopg

from atdm_engine.errors import ErrorCode
from atdm_resources.catalog import requests


def end_replay(
    conn: psycopg.Connection[Any], request_id: str, *, message: str, step: str, code: ErrorCode
) -> bool:
    """Record seed_failed for the failed replay of a ready request. Its rows and files stay.

    Returns False and does nothing unless the request is ready and being replayed.
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
