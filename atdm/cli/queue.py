"""``atdm request --enqueue``, ``queue``, ``claim``, ``suite-started`` and ``suite-finished``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atdm.cli.arguments import length_of
from atdm_resources.catalog import queue as queueing
from atdm_resources.settings import Settings
from atdm_services.queue import submit
from atdm_services.requests import request
from atdm_services.target import access

if TYPE_CHECKING:
    import psycopg

    from atdm.cli.output import Output

SOURCE = "cli"


def enqueue(
    output: Output,
    wish: request.LeaseRequest,
    *,
    key: str | None,
    priority: int,
    cleanup: str | None,
    wait: bool,
    timeout: str,
) -> int:
    """Submit a wish; with ``wait``, lease what was made for it and print that."""
    patience = length_of(timeout)
    settings = Settings.from_environment()
    with access.connected(settings, output) as connection:
        standing = submit.submit(
            connection,
            wish,
            invoker=settings.invoker,
            key=key,
            priority=priority,
            cleanup=cleanup,
        )
        if not wait:
            output.emit(standing, lambda: shown(standing))
            return 0
        key = str(standing["idempotency_key"])
        with output.working(f"waiting for {key}"):
            standing = submit.answered(connection, key, wish.owner_secret, patience)
        answer = (
            dict(standing)
            if submit.is_expected_violation(standing)
            else _claimed(settings, connection, key, wish.owner_secret)
        )
    output.emit(answer, lambda: _shown_runs(answer))
    return 0


def claim(output: Output, key: str, *, ttl: str | None, owner: str | None) -> int:
    """Lease what was made for a submission and print it."""
    settings = Settings.from_environment()
    with access.connected(settings, output) as connection:
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
    return submit.claimed(
        connection, key, secret, invoker=settings.invoker, source=SOURCE, **options
    )


def status(output: Output, key: str) -> int:
    """Print how a submission stands."""
    settings = Settings.from_environment()
    with access.connected(settings, output) as connection:
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
    with access.connected(settings, output) as connection:
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
