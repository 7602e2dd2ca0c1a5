"""Exclusive work in a domain; new work waits meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.errors import guarded
from atdm_resources.postgres.locks import try_domain_lock

Result = TypeVar("Result")

_DRAINING_SECONDS = 5


def alone_in_domain(
    conn: psycopg.Connection[Any],
    domain: str,
    work: Callable[[], Result],
    timeout: timedelta,
) -> Result:
    """Call ``work`` once, in a transaction that holds the exclusive lock on ``domain``.

    The lock is polled: a wait for it inside PostgreSQL would block every lease. New work does not
    start meanwhile; the mark that blocks it expires by itself, so a dead process blocks no other.

    Raises:
        AtdmError: BUSY when ``timeout`` has passed; whatever ``work`` raises.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    try:
        while True:
            guarded(
                lambda: conn.execute(
                    "UPDATE atdm.domain SET draining_until = clock_timestamp() + %s"
                    " WHERE domain = %s",
                    (timedelta(seconds=_DRAINING_SECONDS), domain),
                )
            )
            with conn.transaction():
                if try_domain_lock(conn, domain):
                    return work()
            if time.monotonic() > deadline:
                raise AtdmError(
                    ErrorCode.BUSY,
                    f"other processes still work in domain {domain} after "
                    f"{timeout.total_seconds():g} s",
                    {"domain": domain},
                )
            time.sleep(0.05)
    finally:
        if not conn.closed:
            conn.execute(
                "UPDATE atdm.domain SET draining_until = NULL WHERE domain = %s", (domain,)
            )
