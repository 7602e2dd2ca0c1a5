"""``atdm audit`` and ``atdm catalog``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atdm.cli.arguments import constraints_of, past_of
from atdm.cli.output import UsageError, table
from atdm.in_dagster import read_run
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import pages, runs
from atdm_resources.catalog.pages import Filters
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import Settings
from atdm_services.audit.report import audit_trail, gist
from atdm_services.extras import server_part
from atdm_services.target import access

if TYPE_CHECKING:
    from atdm.cli.output import Output
    from atdm_resources.catalog.pages import Kind


def audit(
    output: Output, run: str | None, *, html: str | None, summary: bool, since: str | None
) -> int:
    """Print one trail, write it as a page, or print all of it in numbers."""
    if summary == (run is not None):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            "name a run, a request or a label: `atdm audit RUN`; or ask for `atdm audit --summary`",
        )
    if since is not None and not summary:
        raise UsageError(ErrorCode.REQUEST_INVALID, "--since goes with --summary")
    if html is not None and summary:
        raise UsageError(ErrorCode.REQUEST_INVALID, "--html goes with one run, not with --summary")
    settings = Settings.from_environment()
    if run is None:
        return _summary(settings, output, since)
    if html is not None:
        return _page(settings, output, run, html)
    with access.connected(settings, output) as connection, output.working("reading"):
        trail = audit_trail(settings, connection, run, read_run)
    output.emit(trail, lambda: shown_trail(trail))
    return 0


def _summary(settings: Settings, output: Output, since: str | None) -> int:
    from atdm.cli.audit_numbers import shown_summary
    from atdm_resources.catalog import audit_summary

    start = None if since is None else past_of(since, datetime.now(UTC))
    with access.connected(settings, output) as connection, output.working("counting"):
        numbers = audit_summary.summary(connection, start)
    output.emit(numbers, lambda: shown_summary(numbers))
    return 0


def _page(settings: Settings, output: Output, run: str, html: str) -> int:
    """Write the audit page to a file; ``-`` is stdout."""
    with server_part("the audit page"):
        from atdm.web.audit.page import page_of
    from atdm.web.audit.facts import gather

    with access.connected(settings, output) as connection, output.working("reading"):
        facts = gather(settings, connection, run)
    page = page_of(facts).encode()
    if html == "-":
        sys.stdout.buffer.write(page)
        sys.stdout.flush()
        return 0
    path = Path(html).expanduser().absolute()
    _write(path, page)
    output.emit(
        {"subject": facts.subject, "path": str(path), "bytes": len(page)},
        lambda: f"{path}: the audit page of {facts.subject}, {len(page):,} bytes",
    )
    return 0


def serve(output: Output, *, host: str, port: int) -> int:
    """Answer with audit pages until interrupted."""
    from atdm.web.server import AuditServer

    settings = Settings.from_environment()
    with server_part("the audit page"):
        from atdm.web.audit.page import page_of
    from atdm.web.audit.facts import gather

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
    return 0


def _write(path: Path, page: bytes) -> None:
    """Write all of a file or nothing of it."""
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(page)  # a pipe or a device cannot be replaced
            return
        beside = path.with_name(f".{path.name[:100]}.{os.getpid()}")
        try:
            beside.write_bytes(page)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{path} cannot be written: {error.strerror}",
            {
                "path": str(path),
                "hint": "Name a file in a folder that exists and that you may write to.",
            },
        ) from error


def catalog_scenarios(output: Output) -> int:
    """Print what is published in the target."""
    settings = Settings.from_environment()
    with access.connected(settings, output) as connection:
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
    return 0


def catalog_page(
    output: Output, kind: Kind, filters: Filters, limit: int, cursor: str | None
) -> int:
    """Print one page of requests or runs, the latest first, and how to get the next one."""
    settings = Settings.from_environment()
    with access.connected(settings, output) as connection, output.working("reading"):
        page = pages.read(connection, kind, filters, limit=limit, cursor=cursor)
    output.emit(
        {kind: page.rows, "next_cursor": page.next_cursor},
        lambda: (_requests if kind == "requests" else _runs)(page.rows),
    )
    if not output.is_json:
        if page.next_cursor is not None:
            output.note(f"more: the same command with --cursor {page.next_cursor}")
        elif not page.rows:
            output.note(f"no {kind} fit")
    return 0


def filters_of(
    *,
    scenario: str | None,
    status: str | None,
    owner: str | None,
    invoker: str | None,
    since: str | None,
    until: str | None,
    constraint: Sequence[str],
) -> Filters:
    """What the options of ``atdm catalog`` ask for. Raises UsageError."""
    domain, _, name = (scenario or "").rpartition("/")
    now = datetime.now(UTC)
    return Filters(
        domain=domain or None,
        scenario_id=name or None,
        status=status,
        owner=owner,
        invoker=invoker,
        since=None if since is None else past_of(since, now),
        until=None if until is None else past_of(until, now),
        constraints=constraints_of(constraint),
    )


def _requests(found: Sequence[Mapping[str, Any]]) -> Any:
    return table(
        None,
        ("request", "label", "scenario", "status", "runs", "asked by", "at"),
        [
            (
                row["request_id"],
                row["label"] if row["label"] != row["request_id"] else "",
                f"{row['domain']}/{row['scenario_id']}",
                row["status"],
                f"{row['runs']:,}",
                row["invoker"],
                _at(row["created_at"]),
            )
            for row in found
        ],
    )


def _runs(found: Sequence[Mapping[str, Any]]) -> Any:
    return table(
        None,
        ("test run", "scenario", "status", "held by", "leased", "ended, or ends", "asked by"),
        [
            (
                row["test_run_id"],
                f"{row['domain']}/{row['scenario_id']}",
                row["status"],
                row["owner"],
                _at(row["leased_at"]),
                _at(row["ended_at"] or row["expires_at"]),
                row["invoker"],
            )
            for row in found
        ],
    )


def _at(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def shown_trail(trail: Mapping[str, Any]) -> list[Any]:
    """The trail for people: what it is about, the checks, the events in order."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    about = [
        ("scenario", f"{trail['domain']}/{trail['scenario_id']}"),
        ("request", trail["request_id"]),
        ("test run", trail["test_run_id"] or f"all {trail['runs']:,}"),
        ("status", trail["status"]),
        ("asked by", f"{trail['invoker']} through {trail['source']}"),
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
    return table(
        "events",
        ("", "at", "event", "status", "by", "what"),
        [
            (number, event["at"], event["action"], event["status"], event["invoker"], gist(event))
            for number, event in enumerate(events, 1)
        ],
    )
