"""Asking through the queue: submitting a wish, waiting for its answer, leasing what was made.

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
    wish: LeaseRequest,
    *,
    invoker: str,
    key: str | None = None,
    priority: int = 0,
    cleanup: str | None = None,
) -> dict[str, Any]:
    """Submit a wish; how it stands. The same ``key`` twice is one submission.

    Raises:
        AtdmError: REQUEST_INVALID; REQUEST_CONFLICT when the key was submitted with another wish.
    """
    submission = {
        "idempotency_key": key or f"{wish.source}-{secrets.token_hex(12)}",
        "scenario": wish.scenario,
        "constraints": {name: _json(value) for name, value in wish.constraints.items()},
        "runs": wish.runs,
        "priority": priority,
        "seed": wish.seed,
        "as_of": wish.as_of.isoformat() if wish.as_of else None,
        "ttl": f"{wish.ttl.total_seconds()} seconds" if wish.ttl else None,
        "owner": wish.owner or invoker,
        "cleanup_strategy": cleanup,
        "reason": wish.reason,
        "invoker": invoker,
        "source": wish.source,
        "secret_sha256": _secret_hash(wish.owner_secret),
    }
    return queueing.submit(
        connection, {name: value for name, value in submission.items() if value is not None}
    )


def answered(
    connection: psycopg.Connection[Any], key: str, secret: str | None, wait: timedelta
) -> dict[str, Any]:
    """How a submission stands once it is answered.

    Raises:
        AtdmError: NONE_READY when that takes longer than ``wait``; RUN_NOT_FOUND for an unknown key
            and a wrong secret alike.
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
    """Lease what was made for a submission; the answer of a request that leased it.

    Raises:
        AtdmError: RUN_NOT_FOUND; NONE_READY while it waits; what it was rejected with;
            REQUEST_CONFLICT when it is leased already; BUSY.
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
    """Whether a submission was answered by data that is meant to break rules: nothing to lease."""
    return bool((standing["answer"] or {}).get("expected"))


def _json(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _secret_hash(secret: str | None) -> str | None:
    return None if secret is None else hashlib.sha256(secret.encode()).hexdigest()
