"""The commands ``replay`` and ``coverage``: what they are called and what they accept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atdm.cli.app import app, command


@command(app, "replay")
def replay(
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="The id of a test run, or the request of a single one."),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="ATDM_REPLAY_DATABASE_URL",
            help="Another database; an empty one is set up first. Default: the target itself.",
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What --print-spec wrote, when the target is gone."),
    ] = None,
    print_spec: Annotated[
        bool, typer.Option("--print-spec", help="Print what the run can be made again from.")
    ] = False,
    prove: Annotated[
        bool | None,
        typer.Option(
            "--prove/--no-prove",
            help="Make the whole request in memory and compare its hash; default: up to 100,000 "
            "runs.",
        ),
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option(help="How long the lease holds: 30m, 4h, 1d; default: the scenario's."),
    ] = None,
    owner: Annotated[
        str | None, typer.Option(envvar="ATDM_OWNER", help="Who holds it; default: the invoker.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the audit trail.")] = "",
) -> int | None:
    """Make one test run again, under its old id and with the same rows, or say what changed.

    Refused while its rows are there. The run is leased at once: its cleanup token is printed.

    Example: atdm replay 01K0ABCDEF0123456789000001 --into postgresql://me@localhost/scratch
    """
    from atdm.cli import replay

    return replay.replay(
        context.obj,
        run,
        into=into,
        spec=spec,
        print_spec=print_spec,
        prove=prove,
        ttl=ttl,
        owner=owner,
        reason=reason,
    )


@command(app, "coverage")
def coverage(
    context: typer.Context,
    since: Annotated[
        str | None,
        typer.Option(metavar="7d|DATE", help="Leave out earlier outcomes; default: all kept."),
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Of this test session alone; `last` is the latest one.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write it as one web page.")
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, metavar="PERCENT", help="Exit 1 when fewer requirements are passing."
        ),
    ] = None,
) -> int | None:
    """Show which requirements tests exercise through which scenarios, and which of them hold.

    The last outcome of each test decides.

    Example: atdm coverage --since 7d --html coverage.html --fail-under 80
    """
    from atdm.cli import coverage

    return coverage.coverage(
        context.obj, since=since, session=session, html=html, fail_under=fail_under
    )
