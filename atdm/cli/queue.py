"""``atdm queue``, ``claim``, ``suite-started`` and ``suite-finished``: requests that the daemon
makes, and the suites that they are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from atdm.cli.arguments import SOURCE, RevokeLeases, owner_secret
from atdm.cli.leases import lease_text
from atdm.cli.output import Output
from atdm.cli.target import connected
from atdm_services.arguments import parse_length

Key = Annotated[str, typer.Argument(metavar="KEY", help="The idempotency key.")]


def queue(output: Output, key: Key) -> None:
    """Show the state of a submission to the queue: keys or errors, never a token.

    Example: atdm queue build-7-denials
    """
    from atdm_resources.catalog import queue as submissions

    with connected(output) as (_, connection):
        submission = submissions.submission_status(connection, key, owner_secret())
    output.emit(submission, lambda: submission_text(submission))


def claim(
    output: Output,
    key: Key,
    ttl: Annotated[
        str | None,
        typer.Option(help="How long the lease holds: 30m, 4h, 1d; default: as submitted."),
    ] = None,
    owner: Annotated[
        str | None, typer.Option(envvar="ATDM_OWNER", help="Who holds it; default: as submitted.")
    ] = None,
) -> None:
    """Lease the test runs that were made for a submission. Prints the cleanup token once.

    Example: atdm claim build-7-denials --ttl 30m
    """
    from atdm_services.queue import submit

    length = None if ttl is None else parse_length(ttl)
    with connected(output) as (settings, connection):
        answer = submit.claimed(
            connection,
            key,
            owner_secret(),
            owner=owner,
            ttl=length,
            invoker=settings.invoker,
            source=SOURCE,
        )
    output.emit(answer, lambda: lease_text(answer))


def suite_started(
    output: Output,
    build: Annotated[str, typer.Argument(metavar="BUILD", help="The build that runs the suite.")],
    baseline: Annotated[
        str | None, typer.Option("--baseline", "-b", help="Restored before anything is made.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Default: the default domain.")] = None,
    revoke_leases: RevokeLeases = False,
) -> None:
    """Tell the queue that a suite starts; its baseline is restored first.

    Example: atdm suite-started build-7 --baseline golden-7
    """
    _submit_suite(
        output,
        "suite_started",
        build,
        baseline=baseline,
        domain=domain,
        revoke_leases=revoke_leases or None,
    )


def suite_finished(
    output: Output,
    build: Annotated[str, typer.Argument(metavar="BUILD", help="The build that ran the suite.")],
) -> None:
    """Tell the queue that a suite is over; what its build holds is given back.

    Example: atdm suite-finished build-7
    """
    _submit_suite(output, "suite_finished", build)


def _submit_suite(output: Output, kind: str, build: str, **options: Any) -> None:
    from atdm_resources.catalog import queue as submissions

    with connected(output) as (settings, connection):
        submission = submissions.submit(
            connection,
            {
                "idempotency_key": f"{kind}:{build}",
                "kind": kind,
                "build": build,
                "invoker": settings.invoker,
                "source": SOURCE,
                **{name: value for name, value in options.items() if value is not None},
            },
        )
    output.emit(submission, lambda: submission_text(submission))


def submission_text(submission: Mapping[str, Any]) -> str:
    """The state of a submission."""
    answer = submission["answer"] or {}
    lines = [f"{submission['idempotency_key']}: {submission['status']}"]
    if submission["request_id"]:
        lines.append(f"request   {submission['request_id']}")
    lines += [f"test run  {run}" for run in answer.get("test_run_ids") or ()]
    if "error" in answer:
        lines.append(f"{answer['error']['code']}: {answer['error']['message']}")
    elif (
        submission["kind"] == "request" and not submission["claimed"] and not answer.get("expected")
    ):
        lines.append(f"lease it  atdm claim {submission['idempotency_key']}")
    return "\n".join(lines)
