"""Outcomes of tests that used data, recorded in the target in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

BATCH = 200


@dataclass
class Outcomes:
    """Outcomes of one process. ``send`` records a batch; if it raises, the batch is lost."""

    session_id: str
    send: Callable[[Sequence[dict[str, Any]]], object]
    _reports: dict[str, list[pytest.TestReport]] = field(default_factory=dict)
    _waiting: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, report: pytest.TestReport, runs: Sequence[Mapping[str, Any]]) -> None:
        """Add a phase of a test. Its last phase makes its outcomes, one for each run.

        ``runs``: test_run_id of each; for a run in a clone scenario and seed as well.
        """
        reports = self._reports.setdefault(report.nodeid, [])
        reports.append(report)
        if report.when != "teardown":
            return
        del self._reports[report.nodeid]
        moment = datetime.now(UTC).isoformat()
        self._waiting += [
            {
                **run,
                "nodeid": report.nodeid[:2000],
                "outcome": _outcome(reports),
                "duration_seconds": round(sum(one.duration for one in reports), 6),
                "session": self.session_id,
                "at": moment,
            }
            for run in {run["test_run_id"]: run for run in runs}.values()
        ]
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Send the waiting outcomes. A failed batch is reported as a problem; no test fails."""
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        try:
            self.send(batch)
        except Exception as error:
            self.problems.append(f"{len(batch)} outcomes of tests are not recorded: {error}")


def _outcome(reports: Sequence[pytest.TestReport]) -> str:
    by_phase = {report.when: report for report in reports}
    if any(report.failed for phase, report in by_phase.items() if phase != "call"):
        return "error"
    call = by_phase.get("call")
    return call.outcome if call is not None else "skipped"
