"""Leasing test runs and giving them back.

Belongs here: one function a function of the database, and its errors as AtdmError. Does not belong
here: what they do, which is SQL (``migrations/sql``). Light: psycopg and the standard library
alone, because a lease must take milliseconds as a process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypedDict, TypeVar, cast

import psycopg
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode, nearest_spelling

Result = TypeVar("Result")

_RETRIES = 5
_OVERDUE_AT_ONCE = 1
"""Runs that a lease takes back on its way: one for one, and it waits for the locks of one."""
_log = logging.getLogger("atdm")
_DRAINING_SECONDS = 5


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
    conn: psycopg.Connection[Any],
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
) -> Lease:
    """Lease a ready test run of a pool, in one round trip.

    ``domain`` None means the default domain. ``constraints`` may be texts: they are typed as the
    scenario publishes them. ``ttl`` and ``max_age`` (how old its as_of may be) default to the
    scenario's own.

    Raises:
        AtdmError: NONE_READY; SCENARIO_NOT_FOUND and CONSTRAINT_INVALID with the nearest spelling;
            BUSY while the domain is reset or restored; TARGET_NOT_INITIALISED.
    """
    leased: Lease = _called(
        conn,
        "SELECT atdm.lease(%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            domain,
            scenario,
            Jsonb({name: _json(value) for name, value in (constraints or {}).items()}),
            owner,
            ttl,
            _secret_hash(owner_secret),
            max_age,
            invoker,
            source,
        ),
    )
    _sweep_when_overdue(conn, [leased])
    return leased


def lease_request(
    conn: psycopg.Connection[Any],
    request_id: str,
    *,
    owner: str | None = None,
    ttl: timedelta | None = None,
    owner_secret: str | None = None,
    count: int | None = None,
    invoker: str | None = None,
    source: str | None = None,
) -> list[Lease]:
    """Lease the ready runs of one request, pooled or not, in order; at most ``count`` of them.

    Raises:
        AtdmError: RUN_NOT_FOUND, NONE_READY, BUSY, TARGET_NOT_INITIALISED.
    """
    leased: list[Lease] = _called(
        conn,
        "SELECT atdm.lease_request(%s, %s, %s, %s, %s, %s, %s)",
        (request_id, owner, ttl, _secret_hash(owner_secret), count, invoker, source),
    )
    _sweep_when_overdue(conn, leased)
    return leased


def claim(
    conn: psycopg.Connection[Any],
    idempotency_key: str,
    *,
    secret: str | None = None,
    owner: str | None = None,
    ttl: timedelta | None = None,
    owner_secret: str | None = None,
    invoker: str | None = None,
    source: str | None = None,
) -> list[Lease]:
    """Lease the runs that were made for a submission to the queue; works once.

    ``owner`` and ``ttl`` default to what was submitted.

    Raises:
        AtdmError: RUN_NOT_FOUND for an unknown key and a wrong secret alike; NONE_READY while it
            waits; what it was rejected with; REQUEST_CONFLICT when it is leased already; BUSY.
    """
    leased: list[Lease] = _called(
        conn,
        "SELECT atdm.claim(%s, %s, %s, %s, %s, %s, %s)",
        (idempotency_key, secret, owner, ttl, _secret_hash(owner_secret), invoker, source),
    )
    _sweep_when_overdue(conn, leased)
    return leased


def _sweep_when_overdue(conn: psycopg.Connection[Any], leased: list[Lease]) -> None:
    """Take back leases past their time when a lease's answer says that there are some.

    In a transaction of its own, so that nothing of it can cost the caller the lease; inside a
    transaction of the caller's it is left to the next lease. Without a daemon, this is what makes
    abandoned data disappear.
    """
    told = [cast(dict[str, Any], lease).pop("overdue", False) for lease in leased]
    if any(told) and conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
        try:
            conn.execute("SELECT atdm.expire_due(%s)", (_OVERDUE_AT_ONCE,))
        except psycopg.Error as error:
            # The caller has its lease: raising would lose the token. The next one tries again.
            _log.warning("what is overdue could not be taken back: %s", error)


def record_fixtures(
    conn: psycopg.Connection[Any],
    test_run_id: str,
    token: str,
    fixtures: Mapping[str, str | None],
    *,
    invoker: str | None = None,
    source: str | None = None,
) -> None:
    """Write fixtures_emitted: which fixture files (path by kind) were made for a leased run.

    Raises:
        AtdmError: TOKEN_MISMATCH for a wrong token, an unknown run and one that is not leased.
    """
    _called(
        conn,
        "SELECT atdm.record_fixtures(%s, %s, %s, %s, %s)",
        (test_run_id, token, Jsonb(dict(fixtures)), invoker, source),
    )


def reset_run(
    conn: psycopg.Connection[Any],
    test_run_id: str,
    token: str,
    *,
    invoker: str | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """Delete the rows of a leased run and every row that refers to them.

    Returns ``status`` (cleaned, or already_cleaned the second time), ``test_run_id``, ``deleted``
    (every row that went, by table; tables outside the domain with their schema) and ``adopted``
    (those among them that bore no run's id: what the application had hung on the run).

    Raises:
        AtdmError: TOKEN_MISMATCH for a wrong token and for an unknown run alike; RESET_FAILED with
            the reason, nothing deleted; BUSY when rows stayed locked by somebody else.
    """
    return _reset(
        conn, "SELECT atdm.reset_run(%s, %s, %s, %s)", (test_run_id, token, invoker, source)
    )


def reset_owner(
    conn: psycopg.Connection[Any],
    owner: str,
    secret: str | None = None,
    *,
    invoker: str | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """Give back every run that ``owner`` has leased with ``secret``.

    The owner of the catalog may leave the secret out. Returns ``runs`` (ids), and ``deleted`` and
    ``adopted`` by domain, then table.

    Raises:
        AtdmError: TOKEN_MISMATCH when the owner's leases were made with another secret;
            RESET_FAILED; BUSY.
    """
    return _reset(conn, "SELECT atdm.reset_owner(%s, %s, %s, %s)", (owner, secret, invoker, source))


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

    Waits up to ``timeout`` for those who work in the domain, while nothing new starts there. The
    connection must be in autocommit mode. Returns ``deleted`` and ``adopted`` by table,
    ``cleared_record_count`` (runs) and ``revoked`` (owners and how many leases they lost).

    Raises:
        AtdmError: CONFIRM_REQUIRED; BUSY while runs are leased (naming the owners) unless
            ``revoke_leases``, or when the domain did not become free; RESET_FAILED.
    """
    if not confirm:
        raise AtdmError(
            ErrorCode.CONFIRM_REQUIRED,
            f"this deletes the rows of every test run in domain {domain}: confirm it",
            {"domain": domain},
        )
    values = (domain, revoke_leases, invoker, source)

    def attempt() -> dict[str, Any] | None:
        with conn.transaction():
            row = conn.execute(
                "SELECT pg_try_advisory_xact_lock(atdm.domain_lock_key(%s))", (domain,)
            ).fetchone()
            if row is None or not row[0]:
                return None
            return dict(
                _called(conn, "SELECT atdm.reset_all(%s, %s, %s, %s)", values),
            )

    return alone_in_domain(conn, domain, attempt, timeout)


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


def _reset(conn: psycopg.Connection[Any], query: str, values: tuple[Any, ...]) -> dict[str, Any]:
    """The answer of a reset function, tried again when it lost against another transaction."""
    for remaining in reversed(range(_RETRIES)):
        answer: dict[str, Any] = _called(conn, query, values)
        problem = answer.get("error")
        if problem is None:
            return answer
        deadlocked = problem.get("details", {}).get("sqlstate") in ("40P01", "40001")
        if not (deadlocked and remaining):
            raise AtdmError(
                ErrorCode(problem["code"]), problem["message"], problem.get("details") or {}
            )
        time.sleep(0.02 * (_RETRIES - remaining))
    raise AssertionError("the loop returns or raises")


def _called(conn: psycopg.Connection[Any], query: str, values: tuple[Any, ...]) -> Any:
    row = guarded(lambda: conn.execute(query.encode(), values).fetchone())
    assert row is not None
    return row[0]


def guarded(call: Callable[[], Result]) -> Result:
    """``call``, with errors that the catalog's functions raise as AtdmError.

    Raises:
        AtdmError: what ``atdm.fail`` said; TARGET_NOT_INITIALISED without a catalog or the right.
    """
    try:
        return call()
    except psycopg.errors.InsufficientPrivilege as error:
        raise AtdmError(
            ErrorCode.TARGET_NOT_INITIALISED,
            f"this user may not lease from this database: {error.diag.message_primary}; "
            "its owner grants the role atdm_client",
        ) from error
    except (
        psycopg.errors.UndefinedFunction,
        psycopg.errors.UndefinedTable,
        psycopg.errors.InvalidSchemaName,
    ) as error:
        raise AtdmError(
            ErrorCode.TARGET_NOT_INITIALISED,
            "this database has no ATDM catalog; run atdm init",
            {"reason": error.diag.message_primary},
        ) from error
    except psycopg.Error as error:
        translated = as_atdm_error(error)
        if translated is None:
            raise
        raise translated from error


def as_atdm_error(error: psycopg.Error) -> AtdmError | None:
    """The AtdmError that ``atdm.fail`` raised in the database, None for any other error."""
    if not (error.sqlstate or "").startswith("AT") or not error.diag.message_detail:
        return None
    problem = json.loads(error.diag.message_detail)
    details: dict[str, Any] = problem["details"]
    message = error.diag.message_primary or problem["code"]
    hints = []
    if "scenario" in details and "known" in details:
        details["nearest"] = nearest_spelling(str(details["scenario"]), details["known"])
        hints.append(details["nearest"])
    for item in details.get("problems", ()):
        if "known" in item:
            item["nearest"] = nearest_spelling(item["constraint"], item["known"])
            hints.append(item["nearest"])
    named = [repr(hint) for hint in hints if hint]
    if named:
        message += f"; did you mean {', '.join(named)}?"
    return AtdmError(ErrorCode(problem["code"]), message, details)


def _secret_hash(secret: str | None) -> bytes | None:
    return None if secret is None else hashlib.sha256(secret.encode()).digest()


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date | Decimal):
        return str(value)
    return value
