"""``atdm coverage``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atdm.cli.output import UsageError, table, write_line
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.settings import Settings
from atdm_services.coverage import report as coverages
from atdm_services.target import access

if TYPE_CHECKING:
    from atdm.cli.output import Output


def coverage(
    output: Output,
    *,
    since: str | None,
    session: str | None,
    html: Path | None,
    fail_under: float | None,
) -> int:
    """Print the coverage, write the page; exit status 1 when it falls short."""
    start = None if since is None else start_of(since)
    settings = Settings.from_environment()
    with access.connected(settings, output) as connection, output.working("reading"):
        found = coverages.coverage(connection, since=start, session=session)
    lacking = None if fail_under is None else coverages.shortfall(found, fail_under)
    if fail_under is not None:
        found["fail_under"] = {"asked_for": fail_under, "held": lacking is None}
    if html is not None:
        write_page(html, found)
        output.note(f"the page is {html}")
    output.emit(found, lambda: shown(found))
    if lacking is not None:
        # Not a note: it is why the command fails, so that --quiet does not keep it back.
        write_line(sys.stderr, lacking)
        return 1
    return 0


def write_page(path: Path, found: Mapping[str, Any]) -> None:
    """Write the page of a coverage. Raises AtdmError REQUEST_INVALID, MISSING_EXTRA."""
    from atdm_services.extras import server_part

    with server_part("writing the page"):
        from atdm.web.coverage.page import page_of
    try:
        path.write_text(page_of(found), encoding="utf-8")
    except OSError as error:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"the page cannot be written: {error}",
            {"file": str(path), "hint": "Name a file in a folder that exists and is writable."},
        ) from error


def start_of(text: str) -> datetime | timedelta:
    """``7d``, or an ISO 8601 date or time."""
    from atdm.cli.arguments import moment_of
    from atdm_engine.values.times import duration

    try:
        return duration(text)
    except ValueError:
        pass
    try:
        return moment_of(text)
    except AtdmError as error:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"--since {text}: write a length of time like 7d, or a date like 2026-01-31",
            {"found": text},
        ) from error


def shown(found: Mapping[str, Any]) -> list[Any]:
    """The coverage for people: requirements, failing and flaky tests, what is named by nobody."""
    from rich.text import Text

    parts: list[Any] = [
        table(
            None,
            ("requirement", "standing", "tests", "through"),
            [
                (
                    one["requirement_id"],
                    coverages.words(one["standing"]),
                    coverages.counts(one["scenarios"]),
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
    parts.append(Text(coverages.headline(found["summary"])))
    return parts


def _through(cells: Sequence[Mapping[str, Any]]) -> str:
    """The scenarios that tests used, then how many none did."""
    lines = [
        f"{cell['scenario']}: {coverages.counts([cell])}"
        for cell in cells
        if coverages.counts([cell])
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
