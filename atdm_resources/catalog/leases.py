"""Leases and resets of test runs over a blocking connection.

Light: psycopg and the standard library alone, because a lease must take milliseconds as a process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import lease_calls
from atdm_resources.catalog.domain_lock import alone_in_domain
from atdm_resources.catalog.lease_calls import Call, Lease, Pause, Steps
from atdm_resources.postgres.errors import guarded

__all__ = [
    "Lease",
    "claim",
    "lease",
    "lease_request",
    "record_fixtures",
    "reset_all",
    "reset_owner",
    "reset_run",
]

P = ParamSpec("P")
Result = TypeVar("Result")

_log = logging.getLogger("atdm")


def _blocking(
    steps: Callable[P, Steps[Result]],
) -> Callable[Concatenate[psycopg.Connection[Any], P], Result]:
    """Make ``steps`` a function of a connection and the arguments of ``steps``."""

    @wraps(steps)
    def call(conn: psycopg.Connection[Any], /, *args: P.args, **kwargs: P.kwargs) -> Result:
        going = steps(*args, **kwargs)
        answer = None
        while True:
            try:
                step = going.send(answer)
            except StopIteration as end:
                result: Result = end.value
                return result
            answer = _done(conn, step)

    return call


def _done(conn: psycopg.Connection[Any], step: Call | Pause) -> Any:
    if isinstance(step, Pause):
        time.sleep(step.seconds)
        return None
    if not step.aside:
        return _called(conn, step.query, step.values)
    if conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
        try:
            conn.execute(step.query, step.values)
        except psycopg.Error as error:
            # The caller has its lease: raising would lose the token. The next lease tries again.
            _log.warning("an overdue run could not be reset: %s", error)
    return None


lease = _blocking(lease_calls.lease)
lease_request = _blocking(lease_calls.lease_request)
claim = _blocking(lease_calls.claim)
record_fixtures = _blocking(lease_calls.record_fixtures)
reset_run = _blocking(lease_calls.reset_run)
reset_owner = _blocking(lease_calls.reset_owner)


def reset_all(
    conn: psycopg.Connection[Any],
    domain: str,
    *,
    confirm: bool,
    revoke_leases: bool = False,
    invoker: str | None = None,
    source: str | None = None,
    timeout: timedelta = timedelta(seconds=60),
) -> dict[str, Any]:
    """Delete every row of every test run of ``domain``; shared rows stay. For the catalog's owner.

    Waits up to ``timeout`` for other work in the domain; new work does not start meanwhile. The
    connection must be in autocommit mode. Returns ``deleted`` and ``adopted`` by table,
    ``cleared_record_count`` (runs) and ``revoked`` (owners and the number of leases they lost).

    Raises:
        AtdmError: CONFIRM_REQUIRED; BUSY while runs are leased (naming the owners) unless
            ``revoke_leases``, or if the domain did not become free in time; RESET_FAILED.
    """
    if not confirm:
        raise AtdmError(
            ErrorCode.CONFIRM_REQUIRED,
            f"this deletes the rows of every test run in domain {domain}: confirm it",
            {"domain": domain},
        )
    values = (domain, revoke_leases, invoker, source)

    def reset() -> dict[str, Any]:
        return dict(_called(conn, b"SELECT atdm.reset_all(%s, %s, %s, %s)", values))

    return alone_in_domain(conn, domain, reset, timeout)


def _called(conn: psycopg.Connection[Any], query: bytes, values: tuple[Any, ...]) -> Any:
    row = guarded(lambda: conn.execute(query, values).fetchone())
    assert row is not None
    return row[0]
