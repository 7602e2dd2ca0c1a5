"""What a lease and a reset say to the database, whoever says it."""

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
"""Runs that a lease takes back on its way: one for one, and it waits for the locks of one."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the database to be called; its value is sent back.

    ``aside`` marks one that no caller waits for: it is left out inside the caller's transaction,
    and an error of it is only logged.
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
    """A leased test run. ``token`` gives it back; it is shown this once. Times are ISO 8601."""

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
    yield from _take_back_overdue([leased])
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
    yield from _take_back_overdue(leased)
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
        AtdmError: RUN_NOT_FOUND for an unknown key and a wrong secret alike; NONE_READY while it
            waits; what it was rejected with; REQUEST_CONFLICT when it is leased already; BUSY.
    """
    leased: list[Lease] = yield Call(
        b"SELECT atdm.claim(%s, %s, %s, %s, %s, %s, %s)",
        (idempotency_key, secret, owner, ttl, _secret_hash(owner_secret), invoker, source),
    )
    yield from _take_back_overdue(leased)
    return leased


def record_fixtures(
    test_run_id: str,
    token: str,
    fixtures: Mapping[str, str | None],
    *,
    invoker: str | None = None,
    source: str | None = None,
) -> Steps[None]:
    """Write fixtures_emitted: which fixture files (path by kind) were made for a leased run.

    Raises:
        AtdmError: TOKEN_MISMATCH for a wrong token, an unknown run and one that is not leased.
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
    (every row that went, by table; tables outside the domain with their schema) and ``adopted``
    (those among them that bore no run's id: what the application had hung on the run).

    Raises:
        AtdmError: TOKEN_MISMATCH for a wrong token and for an unknown run alike; RESET_FAILED with
            the reason, nothing deleted; BUSY when rows stayed locked by somebody else.
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
    """Give back every run that ``owner`` has leased with ``secret``.

    The owner of the catalog may leave the secret out. Returns ``runs`` (ids), and ``deleted`` and
    ``adopted`` by domain, then table.

    Raises:
        AtdmError: TOKEN_MISMATCH when the owner's leases were made with another secret;
            RESET_FAILED; BUSY.
    """
    call = Call(b"SELECT atdm.reset_owner(%s, %s, %s, %s)", (owner, secret, invoker, source))
    return (yield from _reset(call))


def _take_back_overdue(leased: list[Lease]) -> Steps[None]:
    """Take back leases past their time when a lease's answer says that there are some.

    In a transaction of its own, so that nothing of it can cost the caller the lease; inside a
    transaction of the caller's it is left to the next lease. Without a daemon, this is what makes
    abandoned data disappear.
    """
    told = [cast(dict[str, Any], lease).pop("overdue", False) for lease in leased]
    if any(told):
        yield Call(b"SELECT atdm.expire_due(%s)", (_OVERDUE_AT_ONCE,), aside=True)


def _reset(call: Call) -> Steps[dict[str, Any]]:
    """The answer of a reset function, tried again when it lost against another transaction."""
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
    """A constraint's value as JSON can hold it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date | Decimal):
        return str(value)
    return value
