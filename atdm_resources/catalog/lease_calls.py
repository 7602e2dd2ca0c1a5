"""The calls of leases and resets, as generators for blocking and asyncio connections (ADR 0067)."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypedDict, TypeVar, cast

from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode

_RETRIES = 5
_OVERDUE_AT_ONCE = 1
"""Overdue runs that one lease resets: it waits for the locks of one run at most."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the database to call; its value is sent into the generator.

    ``aside`` marks a call that the caller does not need: it is skipped inside the caller's
    transaction, and its errors are only logged.
    """

    query: bytes
    values: tuple[Any, ...]
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """A time to wait, in seconds, before the next step."""

    seconds: float


T = TypeVar("T")
Steps = Generator[Call | Pause, Any, T]


class Lease(TypedDict):
    """A leased test run. ``token`` resets it and is returned only here. Times are ISO 8601."""

    test_run_id: str
    request_id: str
    domain: str
    scenario_id: str
    token: str
    data: dict[str, Any]
    owner: str
    expires_at: str
    seed: int
    as_of: str


def lease(
    domain: str | None,
    scenario: str,
    constraints: Mapping[str, Any] | None = None,
    *,
    owner: str | None = None,
    ttl: timedelta | None = None,
    owner_secret: str | None = None,
    max_age: timedelta | None = None,
    invoker: str | None = None,
    source: str | None = None,
) -> Steps[Lease]:
    """Lease a ready test run of a pool, in one round trip.

    ``domain`` None means the default domain. ``constraints`` may be texts: they are typed as the
    scenario publishes them. ``ttl`` and ``max_age`` (how old its as_of may be) default to the
    scenario's own.

    Raises:
        AtdmError: NONE_READY; SCENARIO_NOT_FOUND and CONSTRAINT_INVALID with the nearest spelling;
            BUSY while the domain is reset or restored; TARGET_NOT_INITIALISED.
    """
    leased: Lease = yield Call(
        b"SELECT atdm.lease(%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            domain,
            scenario,
            Jsonb({name: json_value(value) for name, value in (constraints or {}).items()}),
            owner,
            ttl,
            _secret_hash(owner_secret),
            max_age,
            invoker,
            source,
        ),
    )
    yield from _reset_overdue([leased])
    return leased


def lease_request(
    request_id: str,
    *,
    owner: str | None = None,
    ttl: timedelta | None = None,
    owner_secret: str | None = None,
    count: int | None = None,
    invoker: str | None = None,
    source: str | None = None,
) -> Steps[list[Lease]]:
    """Lease the ready runs of one request, pooled or not, in order; at most ``count`` of them.

    Raises:
        AtdmError: RUN_NOT_FOUND, NONE_READY, BUSY, TARGET_NOT_INITIALISED.
    """
    leased: list[Lease] = yield Call(
        b"SELECT atdm.lease_request(%s, %s, %s, %s, %s, %s, %s)",
        (request_id, owner, ttl, _secret_hash(owner_secret), count, invoker, source),
    )
    yield from _reset_overdue(leased)
    return leased


def claim(
    idempotency_key: str,
    *,
    secret: str | None = None,
    owner: str | None = None,
    ttl: timedelta | None = None,
    owner_secret: str | None = None,
    invoker: str | None = None,
    source: str | None = None,
) -> Steps[list[Lease]]:
    """Lease the runs that were made for a submission to the queue; works once.

    ``owner`` and ``ttl`` default to what was submitted.

    Raises:
        AtdmError: RUN_NOT_FOUND for an unknown key and for a wrong secret; NONE_READY while the
            submission waits; the error it was rejected with; REQUEST_CONFLICT if its runs are
            leased already; BUSY.
    """
    leased: list[Lease] = yield Call(
        b"SELECT atdm.claim(%s, %s, %s, %s, %s, %s, %s)",
        (idempotency_key, secret, owner, ttl, _secret_hash(owner_secret), invoker, source),
    )
    yield from _reset_overdue(leased)
    return leased


def record_fixtures(
    test_run_id: str,
    token: str,
    fixtures: Mapping[str, str | None],
    *,
    invoker: str | None = None,
    source: str | None = None,
) -> Steps[None]:
    """Record the event fixtures_emitted: the fixture files (path by kind) of a leased run.

    Raises:
        AtdmError: TOKEN_MISMATCH for a wrong token, an unknown run and a run that is not leased.
    """
    yield Call(
        b"SELECT atdm.record_fixtures(%s, %s, %s, %s, %s)",
        (test_run_id, token, Jsonb(dict(fixtures)), invoker, source),
    )


def reset_run(
    test_run_id: str,
    token: str,
    *,
    invoker: str | None = None,
    source: str | None = None,
) -> Steps[dict[str, Any]]:
    """Delete the rows of a leased run and every row that refers to them.

    Returns ``status`` (cleaned, or already_cleaned the second time), ``test_run_id``, ``deleted``
    (rows by table; tables outside the domain with their schema) and ``adopted`` (those among them
    without a run's id: rows of the application that referred to the run).

    Raises:
        AtdmError: TOKEN_MISMATCH for a wrong token and for an unknown run; RESET_FAILED with the
            reason, nothing is deleted; BUSY if another transaction kept rows locked.
    """
    call = Call(b"SELECT atdm.reset_run(%s, %s, %s, %s)", (test_run_id, token, invoker, source))
    return (yield from _reset(call))


def reset_owner(
    owner: str,
    secret: str | None = None,
    *,
    invoker: str | None = None,
    source: str | None = None,
) -> Steps[dict[str, Any]]:
    """Reset every run that ``owner`` has leased with ``secret``.

    The owner of the catalog may leave the secret out. Returns ``runs`` (ids), and ``deleted`` and
    ``adopted`` by domain, then table.

    Raises:
        AtdmError: TOKEN_MISMATCH if the leases were made with another secret;
            RESET_FAILED; BUSY.
    """
    call = Call(b"SELECT atdm.reset_owner(%s, %s, %s, %s)", (owner, secret, invoker, source))
    return (yield from _reset(call))


def _reset_overdue(leased: list[Lease]) -> Steps[None]:
    """Reset overdue leases if the answer of a lease says that there are some.

    In a separate transaction, so that its failure cannot cost the caller the lease; inside a
    transaction of the caller it is left to the next lease. Without a daemon, this is what removes
    abandoned data.
    """
    overdue = [cast(dict[str, Any], lease).pop("overdue", False) for lease in leased]
    if any(overdue):
        yield Call(b"SELECT atdm.expire_due(%s)", (_OVERDUE_AT_ONCE,), aside=True)


def _reset(call: Call) -> Steps[dict[str, Any]]:
    """The answer of a reset function, repeated after a deadlock or a serialization failure."""
    for remaining in reversed(range(_RETRIES)):
        answer: dict[str, Any] = yield call
        problem = answer.get("error")
        if problem is None:
            return answer
        deadlocked = problem.get("details", {}).get("sqlstate") in ("40P01", "40001")
        if not (deadlocked and remaining):
            raise AtdmError(
                ErrorCode(problem["code"]), problem["message"], problem.get("details") or {}
            )
        yield Pause(0.02 * (_RETRIES - remaining))
    raise AssertionError("the loop returns or raises")


def _secret_hash(secret: str | None) -> bytes | None:
    return None if secret is None else hashlib.sha256(secret.encode()).digest()


def json_value(value: Any) -> Any:
    """The value of a constraint as a JSON value."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date | Decimal):
        return str(value)
    return value
