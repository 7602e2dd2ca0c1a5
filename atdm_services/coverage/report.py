"""Requirement coverage: read from the target, as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from atdm_resources.catalog import outcome_histories, runs
from atdm_resources.postgres.owner_rights import catalog_needed
from atdm_services.coverage.matrix import (
    Coverage,
    History,
    Published,
    RequirementCoverage,
    Standing,
    coverage_of,
)

if TYPE_CHECKING:
    import psycopg

COVERAGE_VERSION = 1
_LISTED = 20


def coverage(
    connection: psycopg.Connection[Any],
    *,
    since: datetime | timedelta | None = None,
    session: str | None = None,
) -> dict[str, Any]:
    """The coverage as JSON; see docs/coverage.md.

    ``since`` excludes earlier outcomes (a length of time: before now), ``session`` those of other
    sessions (``last`` is the latest session).

    Raises AtdmError: REQUEST_INVALID for a session without outcomes; TARGET_NOT_INITIALISED.
    """
    start = datetime.now(UTC) - since if isinstance(since, timedelta) else since
    with catalog_needed(connection, "coverage"):
        published = [
            Published(
                f"{row['domain']}/{row['scenario_id']}",
                row["description"].strip(),
                tuple(row["linked_requirement_ids"]),
            )
            for row in runs.scenarios(connection)
        ]
    histories = [
        History(**{**row, "requirement_ids": tuple(row["requirement_ids"])})
        for row in outcome_histories.histories(connection, since=start, session=session)
    ]
    return as_json(
        coverage_of(published, histories),
        database=connection.info.dbname,
        since=start,
        session=session,
    )


def as_json(
    found: Coverage, *, database: str, since: datetime | None, session: str | None
) -> dict[str, Any]:
    """A coverage with its filters."""
    return {
        "coverage_version": COVERAGE_VERSION,
        "database": database,
        "since": None if since is None else since.isoformat(),
        "session": session,
        "summary": {
            "requirements": len(found.linked),
            "exercised": found.exercised,
            "passing": found.count(Standing.PASSING),
            "failing": found.count(Standing.FAILING),
            "never_exercised": found.count(Standing.NEVER),
            "percent_exercised": found.percent(found.exercised),
            "percent_passing": found.percent(found.count(Standing.PASSING)),
            "tests": len({test.nodeid for test in found.tests}),
            "flaky": len({test.nodeid for test in found.flaky}),
        },
        "requirements": [_requirement(one) for one in found.linked],
        "formerly_linked": [_requirement(one) for one in found.formerly_linked],
        "scenarios": [
            {
                "scenario": one.key,
                "description": one.description,
                "published": one.published,
                "requirement_ids": list(one.requirement_ids),
                "standing": str(one.standing),
                "tests": len(one.tests),
            }
            for one in found.scenarios
        ],
        "scenarios_without_requirement": [one.key for one in found.without_requirement],
        "tests": [_test(test) for test in found.tests],
    }


def _requirement(found: RequirementCoverage) -> dict[str, Any]:
    return {
        "requirement_id": found.requirement_id,
        "standing": str(found.standing),
        "scenarios": [
            {
                "scenario": cell.scenario,
                "linked": cell.linked,
                "standing": str(cell.standing),
                "passing": cell.passing,
                "failing": cell.failing,
                "skipped": cell.skipped,
            }
            for cell in found.cells
        ],
        "tests": list(dict.fromkeys(test.nodeid for test in found.tests)),
    }


def _test(test: History) -> dict[str, Any]:
    return {
        "nodeid": test.nodeid,
        "scenario": test.scenario,
        "requirement_ids": list(test.requirement_ids),
        "outcome": test.outcome,
        "at": test.at.isoformat(),
        "session": test.session,
        "test_run_id": test.test_run_id,
        "passed": test.passed,
        "failed": test.failed,
        "skipped": test.skipped,
        "flaky": test.flaky,
    }


def shortfall(found: Mapping[str, Any], percent: float) -> str | None:
    """The message if fewer than ``percent`` of the requirements are passing, or None."""
    summary = found["summary"]
    reached = summary["percent_passing"]
    if reached is None:
        return f"no published scenario names a requirement; {percent:g} % are asked for"
    if reached >= percent:
        return None
    lacking = [
        one["requirement_id"]
        for one in found["requirements"]
        if one["standing"] != str(Standing.PASSING)
    ]
    shown = ", ".join(lacking[:_LISTED]) + (", ..." if lacking[_LISTED:] else "")
    return f"{reached:g} % of the requirements are passing, {percent:g} % are asked for: {shown}"


def headline(summary: Mapping[str, Any]) -> str:
    """The coverage in one sentence."""
    if not summary["requirements"]:
        return "no published scenario names a requirement (linked_requirement_ids)"
    return (
        f"{summary['exercised']} of {summary['requirements']} requirements exercised"
        f" ({summary['percent_exercised']:g} %): {summary['passing']} passing"
        f" ({summary['percent_passing']:g} %), {summary['failing']} failing; "
        f"{summary['never_exercised']} never exercised; "
        f"{summary['tests']} tests, {summary['flaky']} flaky"
    )


def words(standing: str) -> str:
    """A standing as text."""
    return standing.replace("_", " ")


def counts(cells: Iterable[Mapping[str, Any]]) -> str:
    """The numbers of passing, failing and skipped tests, without zeros."""
    found = list(cells)
    totals = {kind: sum(cell[kind] for cell in found) for kind in ("passing", "failing", "skipped")}
    return ", ".join(f"{total} {kind}" for kind, total in totals.items() if total)
