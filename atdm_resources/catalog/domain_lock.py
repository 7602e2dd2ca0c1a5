"""Exclusive work in a domain, while newcomers are kept out."""

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
    """Call ``attempt`` until it returns something, keeping newcomers out of ``domain``.

    ``attempt`` tries the exclusive lock in a transaction of its own: waiting for it inside
    PostgreSQL would make every lease wait behind. The mark that keeps newcomers out expires by
    itself, so that a dead process blocks nobody.

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
                    f"others still work in domain {domain} after {timeout.total_seconds():g} s",
                    {"domain": domain},
                )
            time.sleep(0.05)
    finally:
        if not conn.closed:
            conn.execute(
                "UPDATE atdm.domain SET draining_until = NULL WHERE domain = %s", (domain,)
            )
