"""``atdm request``: lease ready test runs, or have them made."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from atdm.cli import completion
from atdm.cli.arguments import (
    SOURCE,
    AsOf,
    Constraints,
    Owner,
    Reason,
    Ttl,
    owner_secret,
    parse_constraints,
)
from atdm.cli.leases import lease_text
from atdm.cli.output import Output
from atdm.cli.target import connected
from atdm.in_dagster import make
from atdm_engine.errors import ErrorCode, UsageError
from atdm_resources.settings import Settings
from atdm_services.arguments import parse_length, parse_time

if TYPE_CHECKING:
    from atdm_services.requests.request import LeaseRequest


def request(
    output: Output,
    scenario: Annotated[
        str,
        typer.Argument(help="Name, or domain/name.", autocompletion=completion.scenario_names),
    ],
    constraint: Constraints = None,
    runs: Annotated[int, typer.Option(min=1, help="How many test runs.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same data; default: its own.")
    ] = None,
    as_of: AsOf = None,
    label: Annotated[
        str | None, typer.Option("--id", help="A name for the request; asking again returns it.")
    ] = None,
    playwright: Annotated[
        bool, typer.Option("--playwright", help="Write a JSON fixture file.")
    ] = False,
    pytest: Annotated[bool, typer.Option("--pytest", help="Write a Python fixture file.")] = False,
    no_lease: Annotated[
        bool, typer.Option("--no-lease", help="Make the runs and leave them ready for others.")
    ] = False,
    ttl: Ttl = None,
    owner: Owner = None,
    reason: Reason = None,
    enqueue: Annotated[
        bool, typer.Option("--enqueue", help="Have the daemon make it; lease it by its key.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --enqueue: wait for it and lease it.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(help="With --enqueue: the idempotency key; the same key is one submission."),
    ] = None,
    priority: Annotated[
        int, typer.Option(min=-999, max=999, help="With --enqueue: greater is sooner.")
    ] = 0,
    cleanup: Annotated[
        str | None,
        typer.Option(metavar="after_test|after_suite|leave", help="With --enqueue: who resets it."),
    ] = None,
    timeout: Annotated[str, typer.Option(help="How long --wait waits: 90s, 10m.")] = "10m",
) -> None:
    """Lease a ready test run, or make one when none is ready. Prints the cleanup token once.

    Example: atdm request claim_denial_active_member -c claim_status=denied --ttl 30m
    """
    from atdm_engine.random.run_ids import check_label
    from atdm_services.requests import request as service

    if not enqueue and (wait or key is not None or cleanup is not None or priority):
        raise UsageError(
            ErrorCode.REQUEST_INVALID, "--wait, --key, --priority and --cleanup need --enqueue"
        )
    if enqueue and (no_lease or label is not None or playwright or pytest):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            "with --enqueue the daemon makes the runs: --no-lease, --id, --playwright and --pytest "
            "cannot be given",
        )
    if no_lease and (playwright or pytest):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            "--no-lease leaves the runs for others: there is no token to write into a fixture file",
        )
    settings = Settings.from_environment()
    wanted = service.LeaseRequest(
        scenario,
        constraints=parse_constraints(constraint or []),
        runs=runs,
        seed=seed,
        as_of=None if as_of is None else parse_time(as_of),
        label=None if label is None else check_label(label),
        pooled=no_lease,
        invoker=settings.invoker,
        ttl=None if ttl is None else parse_length(ttl),
        owner=owner,
        owner_secret=owner_secret(),
        reason=reason,
        source=SOURCE,
    )
    service.refuse_language_model(settings)
    if enqueue:
        patience = parse_length(timeout, "timeout")
        _enqueue(output, wanted, key, priority, cleanup, patience if wait else None)
        return
    with connected(output) as (settings, connection):
        answer = service.request_data(settings, output, connection, wanted, make)
        if playwright or pytest:
            service.emit_fixtures(
                settings, connection, answer, playwright=playwright, pytest=pytest, source=SOURCE
            )
    output.emit(answer, lambda: lease_text(answer))


def _enqueue(
    output: Output,
    wanted: LeaseRequest,
    key: str | None,
    priority: int,
    cleanup: str | None,
    patience: timedelta | None,
) -> None:
    """Submit a request to the queue. With patience, wait so long for its runs and lease them."""
    from atdm.cli.queue import submission_text
    from atdm_services.queue import submit

    with connected(output) as (settings, connection):
        submission = submit.submit(
            connection,
            wanted,
            key=key,
            priority=priority,
            cleanup=cleanup,
        )
        if patience is None:
            output.emit(submission, lambda: submission_text(submission))
            return
        key = str(submission["idempotency_key"])
        with output.working(f"waiting for {key}"):
            submission = submit.answered(connection, key, wanted.owner_secret, patience)
        if submit.is_expected_violation(submission):
            output.emit(submission, lambda: submission_text(submission))
            return
        answer = submit.claimed(
            connection, key, wanted.owner_secret, invoker=settings.invoker, source=SOURCE
        )
    output.emit(answer, lambda: lease_text(answer))
