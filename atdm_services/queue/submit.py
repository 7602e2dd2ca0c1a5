"""Requests through the queue: submit, wait for the answer, lease.

Light: psycopg alone.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases as leasing
from atdm_resources.catalog import queue as queueing
from atdm_services.leases import answer

if TYPE_CHECKING:
    import psycopg

    from atdm_services.requests.request import LeaseRequest

_POLL_SECONDS = 0.5


def submit(
    connection: psycopg.Connection[Any],
    request: LeaseRequest,
    *,
    key: str | None = None,
    priority: int = 0,
    cleanup: str | None = None,
) -> dict[str, Any]:
    """Submit a request; returns its status. The same ``key`` twice is one submission.

    Raises:
        AtdmError: REQUEST_INVALID; REQUEST_CONFLICT if the key was submitted with another request.
    """
    submission = {
        "idempotency_key": key or f"{request.source}-{secrets.token_hex(12)}",
        "scenario": request.scenario,
        "constraints": {name: _json(value) for name, value in request.constraints.items()},
        "runs": request.runs,
        "priority": priority,
        "seed": request.seed,
        "as_of": request.as_of.isoformat() if request.as_of else None,
        "ttl": f"{request.ttl.total_seconds()} seconds" if request.ttl else None,
        "owner": request.owner or request.invoker,
        "cleanup_strategy": cleanup,
        "reason": request.reason,
        "invoker": request.invoker,
        "source": request.source,
        "secret_sha256": _secret_hash(request.owner_secret),
    }
    return queueing.submit(
        connection, {name: value for name, value in submission.items() if value is not None}
    )


def answered(
    connection: psycopg.Connection[Any], key: str, secret: str | None, wait: timedelta
) -> dict[str, Any]:
    """The status of a submission, after it is answered.

    Raises:
        AtdmError: NONE_READY if that takes longer than ``wait``; RUN_NOT_FOUND for an unknown key
            and for a wrong secret.
    """
    deadline = time.monotonic() + wait.total_seconds()
    while True:
        standing = queueing.submission_status(connection, key, secret)
        if standing["answer"] is not None:
            return standing
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise AtdmError(
                ErrorCode.NONE_READY,
                f"{key} is {standing['status']} after {wait.total_seconds():g} s; does the daemon "
                f"run (atdm up)? Lease it later: atdm claim {key}",
                {"idempotency_key": key, "status": standing["status"]},
            )
        time.sleep(min(_POLL_SECONDS, remaining))


def claimed(
    connection: psycopg.Connection[Any],
    key: str,
    secret: str | None,
    *,
    owner: str | None = None,
    ttl: timedelta | None = None,
    invoker: str,
    source: str,
) -> dict[str, Any]:
    """Lease the runs of a submission; answers like a request.

    Raises:
        AtdmError: RUN_NOT_FOUND; NONE_READY while it waits; the error it was rejected with;
            REQUEST_CONFLICT if the runs are leased already; BUSY.
    """
    leases = leasing.claim(
        connection,
        key,
        secret=secret,
        owner_secret=secret,
        owner=owner,
        ttl=ttl,
        invoker=invoker,
        source=source,
    )
    runs = [answer.leased(lease) for lease in leases]
    return runs[0] if len(runs) == 1 else answer.several(runs)


def is_expected_violation(standing: Mapping[str, Any]) -> bool:
    """Whether the scenario breaks rules on purpose, so that there are no runs to lease."""
    return bool((standing["answer"] or {}).get("expected"))


def _json(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _secret_hash(secret: str | None) -> str | None:
    return None if secret is None else hashlib.sha256(secret.encode()).hexdigest()
