"""``atdm request --enqueue``, ``queue``, ``claim``, ``suite-started`` and ``suite-finished``.

Belongs here: what the options mean as a submission, waiting for the answer, what is printed. Does
not belong here: the queue (``atdm_resources.queueing``).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atdm import requesting, response, target_access
from atdm.arguments import length_of
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources import leasing, queueing
from atdm_resources.settings import Settings

if TYPE_CHECKING:
    import psycopg

    from atdm.output import Output

SOURCE = "cli"
_POLL_SECONDS = 0.5


def enqueue(
    output: Output,
    wish: requesting.Wish,
    *,
    key: str | None,
    priority: int,
    cleanup: str | None,
    wait: bool,
    timeout: str,
) -> int:
    """Submit a wish; with ``wait``, lease what was made for it and print that."""
    seconds = length_of(timeout).total_seconds()
    settings = Settings.from_environment()
    submission = {
        "idempotency_key": key or f"cli-{secrets.token_hex(12)}",
        "scenario": wish.scenario,
        "constraints": {name: _json(value) for name, value in wish.constraints.items()},
        "runs": wish.runs,
        "priority": priority,
        "seed": wish.seed,
        "as_of": wish.as_of.isoformat() if wish.as_of else None,
        "ttl": f"{wish.ttl.total_seconds()} seconds" if wish.ttl else None,
        "owner": wish.owner or settings.invoker,
        "cleanup_strategy": cleanup,
        "reason": wish.reason,
        "invoker": settings.invoker,
        "source": SOURCE,
        "secret_sha256": _secret_hash(wish.owner_secret),
    }
    with target_access.connected(settings, output) as connection:
        standing = queueing.submit(
            connection, {name: value for name, value in submission.items() if value is not None}
        )
        if not wait:
            output.emit(standing, lambda: shown(standing))
            return 0
        answer = _waited(output, settings, connection, standing, wish.owner_secret, seconds)
    output.emit(answer, lambda: _shown_runs(answer))
    return 0


def _waited(
    output: Output,
    settings: Settings,
    connection: psycopg.Connection[Any],
    standing: Mapping[str, Any],
    secret: str | None,
    seconds: float,
) -> dict[str, Any]:
    """The runs of a submission, leased as soon as it is answered."""
    key = standing["idempotency_key"]
    deadline = time.monotonic() + seconds
    with output.working(f"waiting for {key}"):
        while standing["answer"] is None:
            if time.monotonic() > deadline:
                raise AtdmError(
                    ErrorCode.NONE_READY,
                    f"{key} is {standing['status']} after {seconds:g} s; does the daemon run "
                    f"(atdm up)? Lease it later: atdm claim {key}",
                    {"idempotency_key": key, "status": standing["status"]},
                )
            time.sleep(_POLL_SECONDS)
            standing = queueing.submission_status(connection, key, secret)
        if standing["answer"].get("expected"):
            return dict(standing)
        return _claimed(settings, connection, key, secret)


def claim(output: Output, key: str, *, ttl: str | None, owner: str | None) -> int:
    """Lease what was made for a submission and print it."""
    settings = Settings.from_environment()
    with target_access.connected(settings, output) as connection:
        answer = _claimed(
            settings,
            connection,
            key,
            os.environ.get("ATDM_OWNER_SECRET") or None,
            owner=owner,
            ttl=None if ttl is None else length_of(ttl),
        )
    output.emit(answer, lambda: _shown_runs(answer))
    return 0


def _claimed(
    settings: Settings,
    connection: psycopg.Connection[Any],
    key: str,
    secret: str | None,
    **options: Any,
) -> dict[str, Any]:
    leases = leasing.claim(
        connection,
        key,
        secret=secret,
        owner_secret=secret,
        invoker=settings.invoker,
        source=SOURCE,
        **options,
    )
    runs = [response.leased(lease) for lease in leases]
    return runs[0] if len(runs) == 1 else response.several(runs)


def status(output: Output, key: str) -> int:
    """Print how a submission stands."""
    settings = Settings.from_environment()
    with target_access.connected(settings, output) as connection:
        standing = queueing.submission_status(
            connection, key, os.environ.get("ATDM_OWNER_SECRET") or None
        )
    output.emit(standing, lambda: shown(standing))
    return 0


def suite_started(
    output: Output, build: str, *, baseline: str | None, domain: str | None, revoke_leases: bool
) -> int:
    """Submit that a suite starts."""
    told = {"baseline": baseline, "domain": domain}
    return _suite(
        output,
        build,
        "suite_started",
        {name: value for name, value in told.items() if value is not None}
        | ({"revoke_leases": True} if revoke_leases else {}),
    )


def suite_finished(output: Output, build: str) -> int:
    """Submit that a suite is over."""
    return _suite(output, build, "suite_finished", {})


def _suite(output: Output, build: str, kind: str, told: Mapping[str, Any]) -> int:
    settings = Settings.from_environment()
    with target_access.connected(settings, output) as connection:
        standing = queueing.submit(
            connection,
            {
                "idempotency_key": f"{kind}:{build}",
                "kind": kind,
                "build": build,
                "invoker": settings.invoker,
                "source": SOURCE,
                **told,
            },
        )
    output.emit(standing, lambda: shown(standing))
    return 0


def shown(standing: Mapping[str, Any]) -> str:
    """A submission in lines of text."""
    answer = standing["answer"] or {}
    lines = [f"{standing['idempotency_key']}: {standing['status']}"]
    if standing["request_id"]:
        lines.append(f"request   {standing['request_id']}")
    lines += [f"test run  {run}" for run in answer.get("test_run_ids") or ()]
    if "error" in answer:
        lines.append(f"{answer['error']['code']}: {answer['error']['message']}")
    elif standing["kind"] == "request" and not standing["claimed"] and not answer.get("expected"):
        lines.append(f"lease it  atdm claim {standing['idempotency_key']}")
    return "\n".join(lines)


def _shown_runs(answer: Mapping[str, Any]) -> str:
    from atdm.cli.leases import shown as shown_leases

    return shown_leases(answer) if "kind" not in answer else shown(answer)


def _json(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _secret_hash(secret: str | None) -> str | None:
    return None if secret is None else hashlib.sha256(secret.encode()).hexdigest()
