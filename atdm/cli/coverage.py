"""``atdm coverage``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from atdm.cli.output import Output, table, write_file, write_line
from atdm.cli.target import connected
from atdm_services.arguments import parse_past
from atdm_services.extras import server_part


def coverage(
    output: Output,
    since: Annotated[
        str | None,
        typer.Option(metavar="7d|DATE", help="Leave out earlier outcomes; default: all kept."),
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Only of this test session; `last` is the latest one.")
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
) -> int:
    """Show which requirements tests exercise through which scenarios, and which of them hold.

    The last outcome of each test decides.

    Example: atdm coverage --since 7d --html coverage.html --fail-under 80
    """
    from atdm_services.coverage import report

    start = None if since is None else parse_past(since, datetime.now(UTC))
    with connected(output) as (_, connection), output.working("reading"):
        found = report.coverage(connection, since=start, session=session)
    lacking = None if fail_under is None else report.shortfall(found, fail_under)
    if fail_under is not None:
        found["fail_under"] = {"asked_for": fail_under, "held": lacking is None}
    if html is not None:
        with server_part("writing the page"):
            from atdm.web.coverage.page import page_of
        write_file(html, page_of(found).encode())
        output.note(f"the page is {html}")
    output.emit(found, lambda: coverage_parts(found))
    if lacking is not None:
        # Not a note, which --quiet would drop: it is why the command fails.
        write_line(sys.stderr, lacking)
        return 1
    return 0


def coverage_parts(found: Mapping[str, Any]) -> list[Any]:
    """Requirements, failing and flaky tests, requirements without scenario, scenarios without
    requirement, and the sum.
    """
    from rich.text import Text

    from atdm_services.coverage import report

    parts: list[Any] = [
        table(
            None,
            ("requirement", "standing", "tests", "through"),
            [
                (
                    one["requirement_id"],
                    report.words(one["standing"]),
                    report.counts(one["scenarios"]),
                    _through(one["scenarios"]),
                )
                for one in found["requirements"]
            ],
        )
    ]
    failing = [test for test in found["tests"] if test["outcome"] in ("failed", "error")]
    parts += _tests("failing tests", failing)
    parts += _tests("flaky tests", [test for test in found["tests"] if test["flaky"]])
    for title, names in (
        ("no scenario names any more", [o["requirement_id"] for o in found["formerly_linked"]]),
        ("scenarios without requirement", found["scenarios_without_requirement"]),
    ):
        if names:
            parts.append(Text(f"{title}: {', '.join(names)}"))
    parts.append(Text(report.headline(found["summary"])))
    return parts


def _through(cells: Sequence[Mapping[str, Any]]) -> str:
    """The scenarios that tests used, then how many no test used."""
    from atdm_services.coverage import report

    lines = [
        f"{cell['scenario']}: {report.counts([cell])}" for cell in cells if report.counts([cell])
    ]
    untouched = len(cells) - len(lines)
    if untouched:
        noun = "scenario" if untouched == 1 else "scenarios"
        lines.append(f"{untouched} {noun} without a test")
    return "\n".join(lines)


def _tests(title: str, tests: Sequence[Mapping[str, Any]]) -> list[Any]:
    if not tests:
        return []
    return [
        table(
            title,
            ("test", "scenario", "last", "passed", "failed", "test run"),
            [
                (
                    test["nodeid"],
                    test["scenario"],
                    f"{test['outcome']} {test['at'][:19]}",
                    test["passed"],
                    test["failed"],
                    test["test_run_id"],
                )
                for test in tests
            ],
        )
    ]
