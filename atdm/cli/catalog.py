"""``atdm catalog scenarios``, ``requests`` and ``runs``: what the target knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from atdm.cli.arguments import parse_constraints
from atdm.cli.output import Output, table
from atdm.cli.target import connected
from atdm_services.arguments import parse_past

if TYPE_CHECKING:
    from atdm_resources.catalog.pages import Filters, Kind

Scenario = Annotated[str | None, typer.Option(help="Only of this scenario: NAME or DOMAIN/NAME.")]
Invoker = Annotated[
    str | None, typer.Option(help="Only of requests by this invoker, like human:ann.")
]
Since = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="Requested since then: 1d, 30m, or an ISO 8601 time."),
]
Until = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="Requested before then: 1d, 30m, or an ISO 8601 time."),
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


def scenarios(output: Output) -> None:
    """List the published scenarios with their constraints and requirement ids.

    Example: atdm -o json catalog scenarios
    """
    from atdm_resources.catalog import runs

    with connected(output) as (_, connection):
        counts = {
            (row["domain"], row["scenario_id"]): {"ready": row["ready"], "leased": row["leased"]}
            for row in runs.runs_by_scenario(connection)
        }
        found = [
            {**row, **counts[row["domain"], row["scenario_id"]]}
            for row in runs.scenarios(connection)
        ]
    output.emit(
        found,
        lambda: table(
            None,
            ("scenario", "what", "requirements", "ready", "leased"),
            [
                (
                    f"{row['domain']}/{row['scenario_id']}",
                    row["description"].strip(),
                    ", ".join(row["linked_requirement_ids"]),
                    row["ready"],
                    row["leased"],
                )
                for row in found
            ],
        ),
    )


def requests(
    output: Output,
    scenario: Scenario = None,
    status: Annotated[
        Literal["pending", "ready", "rejected", "rolled_back", "retired"] | None,
        typer.Option(help="Only with this status."),
    ] = None,
    invoker: Invoker = None,
    since: Since = None,
    until: Until = None,
    constraint: Constraint = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """List requests, the latest first, page by page.

    Example: atdm catalog requests --status rejected --since 1d
    """
    filters = _filters(scenario, status, None, invoker, since, until, constraint)
    _page(output, "requests", filters, limit, cursor, _request_table)


def runs(
    output: Output,
    scenario: Scenario = None,
    status: Annotated[
        Literal["ready", "leased", "cleaned", "expired"] | None,
        typer.Option(help="Only with this status."),
    ] = None,
    owner: Annotated[
        str | None, typer.Option(help="Only those that this owner holds or held.")
    ] = None,
    invoker: Invoker = None,
    since: Since = None,
    until: Until = None,
    constraint: Constraint = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """List test runs, those of the latest request first, page by page.

    Example: atdm catalog runs --status leased --owner ci-4711 -c claim_status=denied
    """
    filters = _filters(scenario, status, owner, invoker, since, until, constraint)
    _page(output, "runs", filters, limit, cursor, _run_table)


def _filters(
    scenario: str | None,
    status: str | None,
    owner: str | None,
    invoker: str | None,
    since: str | None,
    until: str | None,
    constraint: Sequence[str] | None,
) -> Filters:
    """Raises UsageError."""
    from atdm_resources.catalog.pages import Filters

    domain, _, name = (scenario or "").rpartition("/")
    now = datetime.now(UTC)
    return Filters(
        domain=domain or None,
        scenario_id=name or None,
        status=status,
        owner=owner,
        invoker=invoker,
        since=None if since is None else parse_past(since, now),
        until=None if until is None else parse_past(until, now),
        constraints=parse_constraints(constraint or []),
    )


def _page(
    output: Output,
    kind: Kind,
    filters: Filters,
    limit: int,
    cursor: str | None,
    rendered: Callable[[Sequence[Mapping[str, Any]]], Any],
) -> None:
    """Print a page of requests or runs, the latest first, and how to get the next one."""
    from atdm_resources.catalog import pages

    with connected(output) as (_, connection), output.working("reading"):
        page = pages.read(connection, kind, filters, limit=limit, cursor=cursor)
    output.emit(
        {kind: page.rows, "next_cursor": page.next_cursor},
        lambda: rendered(page.rows),
    )
    if not output.is_json:
        if page.next_cursor is not None:
            output.note(f"more: the same command with --cursor {page.next_cursor}")
        elif not page.rows:
            output.note(f"no {kind} fit")


def _request_table(found: Sequence[Mapping[str, Any]]) -> Any:
    return table(
        None,
        ("request", "label", "scenario", "status", "runs", "requested by", "at"),
        [
            (
                row["request_id"],
                row["label"] if row["label"] != row["request_id"] else "",
                f"{row['domain']}/{row['scenario_id']}",
                row["status"],
                f"{row['runs']:,}",
                row["invoker"],
                _time(row["created_at"]),
            )
            for row in found
        ],
    )


def _run_table(found: Sequence[Mapping[str, Any]]) -> Any:
    return table(
        None,
        ("test run", "scenario", "status", "held by", "leased", "ended, or ends", "requested by"),
        [
            (
                row["test_run_id"],
                f"{row['domain']}/{row['scenario_id']}",
                row["status"],
                row["owner"],
                _time(row["leased_at"]),
                _time(row["ended_at"] or row["expires_at"]),
                row["invoker"],
            )
            for row in found
        ],
    )


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"
