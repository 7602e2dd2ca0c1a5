"""What ``atdm audit`` and ``atdm catalog`` are called and accept."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from atdm.cli.app import app, catalog, command

Scenario = Annotated[str | None, typer.Option(help="Of this scenario alone: NAME or DOMAIN/NAME.")]
Invoker = Annotated[str | None, typer.Option(help="That this invoker asked for: human:ann.")]
Since = Annotated[
    str | None, typer.Option(metavar="WHEN", help="Asked since then: 1d, 30m, or an ISO 8601 time.")
]
Until = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="Asked before then: 1d, 30m, or an ISO 8601 time."),
]
Constraint = Annotated[
    list[str] | None,
    typer.Option(
        "-c",
        "--constraint",
        metavar="KEY=VALUE",
        help="With this effective constraint; may be given several times.",
    ),
]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")]
Cursor = Annotated[
    str | None,
    typer.Option(help="next_cursor of the page before, with the same filters: the page after it."),
]


@command(app, "audit")
def audit(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run id, a request id or a label.")
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(
            "--html", metavar="FILE", help="Write one self-contained page; - is standard output."
        ),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="The whole trail in numbers instead of one run.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help="With --summary: since 1d, 30m ago, or an ISO 8601 time."
        ),
    ] = None,
) -> int | None:
    """Print who asked for a run, what was made and checked, and that it is gone again.

    Example: atdm audit 01K7ZQ3V5MWXR8ABCDEF000001 --html audit.html
    """
    from atdm.cli import audit

    return audit.audit(context.obj, run, html=html, summary=summary, since=since)


@command(app, "audit-serve")
def audit_serve(
    context: typer.Context,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0: any free one.")
    ] = 3080,
    host: Annotated[
        str,
        typer.Option(help="Which address; another one than this belongs behind a proxy."),
    ] = "127.0.0.1",
) -> int | None:
    """Serve audit pages, so that Dagster can link to them (ATDM_AUDIT_URL).

    Example: atdm audit-serve --port 3080
    """
    from atdm.cli import audit

    return audit.serve(context.obj, host=host, port=port)


@command(catalog, "scenarios")
def catalog_scenarios(context: typer.Context) -> int | None:
    """List the published scenarios with their constraints and requirement ids.

    Example: atdm -o json catalog scenarios
    """
    from atdm.cli import audit

    return audit.catalog_scenarios(context.obj)


@command(catalog, "requests")
def catalog_requests(
    context: typer.Context,
    scenario: Scenario = None,
    status: Annotated[
        Literal["pending", "ready", "rejected", "rolled_back", "retired"] | None,
        typer.Option(help="With this status alone."),
    ] = None,
    invoker: Invoker = None,
    since: Since = None,
    until: Until = None,
    constraint: Constraint = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> int | None:
    """List requests, the latest first, page by page.

    Example: atdm catalog requests --status rejected --since 1d
    """
    from atdm.cli import audit

    filters = audit.filters_of(
        scenario=scenario,
        status=status,
        owner=None,
        invoker=invoker,
        since=since,
        until=until,
        constraint=constraint or [],
    )
    return audit.catalog_page(context.obj, "requests", filters, limit, cursor)


@command(catalog, "runs")
def catalog_runs(
    context: typer.Context,
    scenario: Scenario = None,
    status: Annotated[
        Literal["ready", "leased", "cleaned", "expired"] | None,
        typer.Option(help="With this status alone."),
    ] = None,
    owner: Annotated[str | None, typer.Option(help="That this owner holds or held.")] = None,
    invoker: Invoker = None,
    since: Since = None,
    until: Until = None,
    constraint: Constraint = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> int | None:
    """List test runs, those of the latest request first, page by page.

    Example: atdm catalog runs --status leased --owner ci-4711 -c claim_status=denied
    """
    from atdm.cli import audit

    filters = audit.filters_of(
        scenario=scenario,
        status=status,
        owner=owner,
        invoker=invoker,
        since=since,
        until=until,
        constraint=constraint or [],
    )
    return audit.catalog_page(context.obj, "runs", filters, limit, cursor)
