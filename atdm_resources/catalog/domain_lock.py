"""Exclusive work in a domain; new work waits meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.errors import guarded

Result = TypeVar("Result")

_DRAINING_SECONDS = 5


def alone_in_domain(
    conn: psycopg.Connection[Any],
    domain: str,
    attempt: Callable[[], Result | None],
    timeout: timedelta,
) -> Result:
    """Call ``attempt`` until it returns a value; new work does not start in ``domain`` meanwhile.

    ``attempt`` tries the exclusive lock in a separate transaction: a wait for it inside PostgreSQL
    would block every lease. The mark that blocks new work expires by itself, so a dead process
    blocks no other.

    Raises:
        AtdmError: BUSY when ``timeout`` has passed; whatever ``attempt`` raises.
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
            result = attempt()
            if result is not None:
                return result
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
