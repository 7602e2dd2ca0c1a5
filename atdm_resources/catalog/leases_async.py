"""Leases and resets of test runs over an asyncio connection. Light, as ``leases``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg

from atdm_resources.catalog import lease_calls
from atdm_resources.catalog.lease_calls import Call, Pause, Steps
from atdm_resources.postgres.errors import meaning

__all__ = ["claim", "lease", "lease_request", "reset_owner", "reset_run"]

P = ParamSpec("P")
Result = TypeVar("Result")

_log = logging.getLogger("atdm")


def _awaitable(
    steps: Callable[P, Steps[Result]],
) -> Callable[Concatenate[psycopg.AsyncConnection[Any], P], Coroutine[Any, Any, Result]]:
    """Make ``steps`` a coroutine function of a connection and the arguments of ``steps``."""

    @wraps(steps)
    async def call(
        conn: psycopg.AsyncConnection[Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        going = steps(*args, **kwargs)
        answer = None
        while True:
            try:
                step = going.send(answer)
            except StopIteration as end:
                result: Result = end.value
                return result
            answer = await _done(conn, step)

    return call


async def _done(conn: psycopg.AsyncConnection[Any], step: Call | Pause) -> Any:
    if isinstance(step, Pause):
        await asyncio.sleep(step.seconds)
        return None
    if step.aside and conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        return None
    try:
        row = await (await conn.execute(step.query, step.values)).fetchone()
    except psycopg.Error as error:
        if step.aside:
            # The caller has its lease: raising would lose the token. The next lease tries again.
            _log.warning("an overdue run could not be reset: %s", error)
            return None
        told = meaning(error)
        if told is None:
            raise
        raise told from error
    assert row is not None
    return row[0]


lease = _awaitable(lease_calls.lease)
lease_request = _awaitable(lease_calls.lease_request)
claim = _awaitable(lease_calls.claim)
reset_run = _awaitable(lease_calls.reset_run)
reset_owner = _awaitable(lease_calls.reset_owner)
