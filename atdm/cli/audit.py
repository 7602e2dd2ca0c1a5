"""``atdm audit``, ``audit-verify``, ``audit-seal`` and ``audit-serve``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atdm.cli.output import Output, table, write_file
from atdm.cli.target import connected
from atdm.in_dagster import read_run
from atdm_engine.errors import ErrorCode, UsageError
from atdm_resources.settings import Settings
from atdm_services.arguments import parse_past
from atdm_services.extras import server_part

if TYPE_CHECKING:
    from atdm_resources.catalog.seal import Verdict
    from atdm_services.audit.verify import ExportVerdict


def audit(
    output: Output,
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
) -> None:
    """Print who requested a run, what was made and checked, and that its rows are deleted again.

    Example: atdm audit 01K7ZQ3V5MWXR8ABCDEF000001 --html audit.html
    """
    if summary == (run is not None):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            "name a run, a request or a label: `atdm audit RUN`; or ask for `atdm audit --summary`",
        )
    if since is not None and not summary:
        raise UsageError(ErrorCode.REQUEST_INVALID, "--since goes with --summary")
    if html is not None and summary:
        raise UsageError(ErrorCode.REQUEST_INVALID, "--html goes with one run, not with --summary")
    if run is None:
        _summary(output, since)
    elif html is not None:
        _page(output, run, html)
    else:
        _trail(output, run)


def _trail(output: Output, run: str) -> None:
    from atdm_services.audit.report import audit_trail

    with connected(output) as (settings, connection), output.working("reading"):
        trail = audit_trail(settings, connection, run, read_run)
    output.emit(trail, lambda: trail_parts(trail))


def _summary(output: Output, since: str | None) -> None:
    from atdm_resources.catalog import audit_summary

    start = None if since is None else parse_past(since, datetime.now(UTC))
    with connected(output) as (_, connection), output.working("counting"):
        numbers = audit_summary.summary(connection, start)
    output.emit(numbers, lambda: summary_parts(numbers))


def _page(output: Output, run: str, html: str) -> None:
    """Write the audit page to a file; ``-`` is stdout."""
    with server_part("the audit page"):
        from atdm.web.audit.facts import gather
        from atdm.web.audit.page import page_of

    with connected(output) as (settings, connection), output.working("reading"):
        facts = gather(settings, connection, run)
    page = page_of(facts).encode()
    if html == "-":
        sys.stdout.buffer.write(page)
        sys.stdout.flush()
        return
    path = Path(html).expanduser().absolute()
    write_file(path, page)
    output.emit(
        {"subject": facts.subject, "path": str(path), "bytes": len(page)},
        lambda: f"{path}: the audit page of {facts.subject}, {len(page):,} bytes",
    )


def audit_verify(
    output: Output,
    exports: Annotated[
        bool, typer.Option("--exports", help="Also read every exported file again.")
    ] = False,
) -> int:
    """Compute the seal of the audit trail again; names the first event that does not match.

    With --exports, names every exported file that is missing or was changed as well.

    Exit status 1 when something does not match.

    Example: atdm audit-verify --exports
    """
    from atdm_resources.catalog import seal

    files: ExportVerdict | None = None
    with connected(output) as (settings, connection), output.working("verifying"):
        verdict = seal.verify(connection)
        if exports:
            with server_part("reading exported files"):
                from atdm_resources.store.files import Store
                from atdm_services.audit.verify import verify_exports
                from atdm_services.retention import Retention
            files = verify_exports(
                connection,
                Store(settings.store_url, s3=settings.s3),
                kept_since=datetime.now(UTC) - Retention.from_environment().exports,
            )
    intact = verdict.intact and (files is None or files.intact)
    payload: dict[str, Any] = {**dataclasses.asdict(verdict), "intact": intact}
    if files is not None:
        payload["exports"] = dataclasses.asdict(files)
    output.emit(payload, lambda: "\n".join([*_seal_lines(verdict), *_export_lines(files)]))
    return 0 if intact else 1


def audit_seal(
    output: Output,
    no_export: Annotated[
        bool, typer.Option("--no-export", help="Only seal, write no files.")
    ] = False,
) -> None:
    """Seal the audit trail and export it, as the daemon does; for sessions without one.

    Example: atdm audit-seal
    """
    from atdm_resources.catalog import seal

    with connected(output) as (settings, connection), output.working("sealing"):
        sealed = seal.seal(connection)
        files: list[str] = []
        if not no_export:
            with server_part("exporting the audit trail"):
                from atdm_resources.store.files import Store
                from atdm_services.audit.export import export
            files = export(connection, Store(settings.store_url, s3=settings.s3))
        waiting = seal.unsealed(connection)
    output.emit(
        {"sealed": sealed, "unsealed": waiting, "files": files},
        lambda: "\n".join([f"{sealed:,} events sealed, {waiting:,} not yet", *files]),
    )


def audit_serve(
    output: Output,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0: any free one.")
    ] = 3080,
    host: Annotated[
        str,
        typer.Option(help="Which address; another one than this belongs behind a proxy."),
    ] = "127.0.0.1",
) -> None:
    """Serve audit pages, so that Dagster can link to them (ATDM_AUDIT_URL).

    Example: atdm audit-serve --port 3080
    """
    with server_part("the audit page"):
        from atdm.web.audit.facts import gather
        from atdm.web.audit.page import page_of
    from atdm.web.server import AuditServer
    from atdm_resources.postgres.connection import connect
    from atdm_services.target import access

    settings = Settings.from_environment()
    database = access.database_url(settings, output)

    def page(name: str) -> str:
        with connect(database) as connection:
            return page_of(gather(settings, connection, name))

    with AuditServer(page, host=host, port=port) as server:
        output.emit(
            {"url": server.url},
            lambda: f"audit pages at {server.url}/REQUEST; ATDM_AUDIT_URL={server.url} for links",
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            output.note("stopped")


def _seal_lines(verdict: Verdict) -> list[str]:
    lines = [
        f"{verdict.sealed:,} sealed events match; {verdict.unsealed:,} are not sealed yet",
        f"head {verdict.head}",
    ]
    if verdict.broken is not None:
        broken = verdict.broken
        lines.append(
            f"BROKEN at seal {broken['seal_number']}, event {broken['event_id']}: "
            f"{broken['problem']}"
        )
    return lines


def _export_lines(verdict: ExportVerdict | None) -> list[str]:
    if verdict is None:
        return []
    retired = f"; {verdict.retired:,} are gone by their age" if verdict.retired else ""
    return [
        f"{verdict.files:,} exported files hold {verdict.events:,} events{retired}",
        *(f"BROKEN {found['file']}: {found['problem']}" for found in verdict.problems),
    ]


def trail_parts(trail: Mapping[str, Any]) -> list[Any]:
    """The trail of a request or run: what it is about, the checks, the events in order."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    about = [
        ("scenario", f"{trail['domain']}/{trail['scenario_id']}"),
        ("request", trail["request_id"]),
        ("test run", trail["test_run_id"] or f"all {trail['runs']:,}"),
        ("status", trail["status"]),
        ("requested by", f"{trail['invoker']} through {trail['source']}"),
        ("why", trail["reason"]),
        ("planner", trail["planner_mode"]),
        ("seed, as of", f"{trail['seed']}, {trail['as_of']}"),
        ("content hash", trail["content_hash"]),
        ("reset", trail["reset_status"]),
        ("took", f"{trail['duration_ms']:,.0f} ms" if trail["duration_ms"] is not None else None),
        ("Dagster", trail["dagster"].get("note") or trail["dagster"].get("run_id")),
    ]
    lines = [Text(f"{name:<13} {value}") for name, value in about if value is not None]
    parts: list[Any] = [Panel(Group(*lines), title="audit trail", title_align="left")]
    if trail["validator_decisions"]:
        parts.append(
            table(
                "validators",
                ("validator", "decision", "judged", "message"),
                [
                    (
                        decision["validator"],
                        decision["decision"],
                        decision.get("judged"),
                        decision.get("message"),
                    )
                    for decision in trail["validator_decisions"]
                ],
            )
        )
    if trail["records_created"]:
        parts.append(
            table(
                "records",
                ("table", "key"),
                [
                    (record["table"], record.get("pk") or f"{record['rows']:,} in the request")
                    for record in trail["records_created"]
                ],
            )
        )
    parts.append(event_table(trail["events"]))
    return parts


def event_table(events: Sequence[Mapping[str, Any]]) -> Any:
    """Events in order, one line each."""
    from atdm_services.audit.report import gist

    return table(
        "events",
        ("", "at", "event", "status", "by", "what"),
        [
            (number, event["at"], event["action"], event["status"], event["invoker"], gist(event))
            for number, event in enumerate(events, 1)
        ],
    )


def summary_parts(numbers: Mapping[str, Any]) -> list[Any]:
    """The whole trail in numbers, a table for each kind of act that happened."""
    from rich.panel import Panel

    durations = [
        (name, f"{row['n']:,}", _length(row["p50_ms"]), _length(row["p95_ms"]))
        for name, row in numbers["durations"].items()
        if row["n"]
    ]
    parts: list[Any] = [Panel(_summary_text(numbers), title="audit summary", title_align="left")]
    for title, columns, rows in (
        (
            "requests",
            ("scenario", "status", "requests", "runs"),
            _cells(numbers["requests"], "scenario", "status", "requests", "runs"),
        ),
        (
            "resets by kind",
            ("kind", "runs", "rows deleted", "of these the application's"),
            _cells(numbers["resets"], "way", "runs", "deleted_rows", "adopted_rows"),
        ),
        (
            "rejections by check",
            ("check", "requests", "as declared"),
            _cells(numbers["rejections"], "check", "requests", "as_declared"),
        ),
        (
            "requests by invoker",
            ("invoker", "requests", "runs"),
            _cells(numbers["invokers"], "invoker", "requests", "runs"),
        ),
        (
            "leases by invoker",
            ("invoker", "leases"),
            _cells(numbers["leases"], "invoker", "leases"),
        ),
        ("durations", ("what", "times", "p50", "p95"), durations),
        (
            "baselines",
            ("event", "times"),
            [(name, f"{count:,}") for name, count in numbers["baselines"].items()],
        ),
    ):
        if rows:
            parts.append(table(title, columns, rows))
    return parts


def _cells(rows: Sequence[Mapping[str, Any]], *names: str) -> list[tuple[str, ...]]:
    """The values of some columns as text; numbers with separators."""
    return [
        tuple(row[name] if isinstance(row[name], str) else f"{row[name]:,}" for name in names)
        for row in rows
    ]


def _summary_text(numbers: Mapping[str, Any]) -> str:
    from atdm.web.audit.wording import count, moment

    runs = numbers["runs"]
    now = ", ".join(f"{n:,} {status}" for status, n in runs["now"].items()) or "none"
    refused = numbers["resets_refused"]
    return "\n".join(
        (
            f"{'since':<10} {moment(numbers['since']) if numbers['since'] else 'the beginning'}",
            f"{'runs':<10} {runs['made']:,} made, {runs['leased']:,} leased, "
            f"{runs['taken_back']:,} taken back, {runs['expired']:,} of these expired",
            f"{'now':<10} {now}",
            f"{'resets':<10} {numbers['resets_failed']:,} failed, {refused:,} refused",
            f"{'trail':<10} {count(numbers['events'], 'event')}; in all {numbers['sealed']:,} "
            f"sealed, {numbers['unsealed']:,} not sealed yet",
        )
    )


def _length(milliseconds: float | None) -> str:
    from atdm.web.audit.wording import length

    return "" if milliseconds is None else length(timedelta(milliseconds=milliseconds))
