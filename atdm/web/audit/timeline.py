"""The timeline of the audit page: durations as bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from atdm.web.audit.facts import Facts
from atdm.web.audit.wording import clock, count, length, text

_LEAST_WIDTH = 0.6
"""Smallest bar in per cent of the chart, so that a millisecond of an hour is visible."""

_PHASES = {
    "plan_resolved": ("Resolved the plan", "plain"),
    "seed_started": ("Waited for the generator", "wait"),
    "validators_passed": ("Generated and checked", "work"),
    "plan_rejected": ("Generated and rejected", "bad"),
    "seed_completed": ("Loaded into PostgreSQL", "work"),
    "seed_failed": ("Given up", "bad"),
}


@dataclass(frozen=True, slots=True)
class Phase:
    """One bar. ``open``: it has not ended yet."""

    what: str
    kind: str
    start: datetime
    end: datetime
    open: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars on one scale."""

    title: str
    total: str
    bars: tuple[Mapping[str, Any], ...]


def charts(facts: Facts) -> list[Chart]:
    """Two scales: making takes milliseconds, a lease hours."""
    made = list(_making(facts))
    living = list(_living(facts))
    return [
        *([_chart("Making the data", made)] if made else []),
        *([_chart(f"Life of the {'run' if facts.run else 'runs'}", living)] if living else []),
    ]


def _making(facts: Facts) -> Iterator[Phase]:
    events = list(facts.making)
    asked = [at for at, event in enumerate(events) if event["action"] == "request_received"]
    # A replayed request is shown with its last making.
    events = events[asked[-1] :] if asked else events
    if not events:
        return
    before: datetime = events[0]["at"]
    queued = facts.queued.get("first_at")
    if queued is not None and len(asked) == 1 and queued < before:
        yield Phase("In the queue", "wait", queued, before)
    for event in events:
        if event["action"] in _PHASES:
            what, kind = _PHASES[event["action"]]
            yield Phase(what, kind, before, max(event["at"], before))
            before = max(event["at"], before)
    if facts.request["status"] == "pending":
        yield Phase("Under way", "work", before, max(facts.read_at, before), open=True)


def _living(facts: Facts) -> Iterator[Phase]:
    totals = {row["action"]: row for row in facts.totals}
    loaded = totals.get("seed_completed")
    if loaded is None:
        return
    made: datetime = loaded["last_at"]
    if facts.run is not None:
        yield from _of_run(facts, made, facts.run)
        return
    out = any(facts.run_counts.get(status) for status in ("ready", "leased"))
    leased, reset = totals.get("leased"), totals.get("reset_started")
    ends = [row["last_at"] for row in (reset, totals.get("reset_completed")) if row]
    if leased is None:
        end = max(ends) if ends and not out else facts.read_at
        yield Phase("Ready, never leased", "wait", made, max(end, made), open=out)
        return
    yield Phase("Until the first lease", "wait", made, max(leased["first_at"], made))
    end = max(ends) if ends and not out else facts.read_at
    start = leased["first_at"]
    what = f"From the first of {count(leased['n'], 'lease')} on"
    yield Phase(what, "lease", start, max(end, start), open=out)
    if reset is not None and totals.get("reset_completed"):
        start, end = reset["first_at"], totals["reset_completed"]["last_at"]
        yield Phase("From the first reset to the last", "back", start, max(end, start))


def _of_run(facts: Facts, made: datetime, run: Mapping[str, Any]) -> Iterator[Phase]:
    ended = run["ended_at"]
    gone = run["status"] in ("cleaned", "expired") and ended is not None
    leased = run["leased_at"]
    end = ended if gone else facts.read_at
    if leased is None or leased < made:
        yield Phase("Ready", "wait", made, max(end, made), open=not gone)
        return
    yield Phase("Ready, waiting to be leased", "wait", made, leased)
    what = f"Leased by {text(run['owner'], 60)}"
    totals = {row["action"]: row for row in facts.totals}
    back = totals.get("reset_started")
    if not gone or back is None or not leased <= back["last_at"] <= ended:
        yield Phase(what, "lease", leased, max(end, leased), open=not gone)
        return
    yield Phase(what, "lease", leased, back["last_at"])
    yield Phase("Taken back", "back", back["last_at"], ended)


def _chart(title: str, phases: list[Phase]) -> Chart:
    start = min(phase.start for phase in phases)
    whole = max(phase.end for phase in phases) - start
    return Chart(title, length(whole), tuple(_bar(phase, start, whole) for phase in phases))


def _bar(phase: Phase, start: datetime, whole: timedelta) -> dict[str, Any]:
    def share(span: timedelta) -> float:
        return 100.0 * (span / whole) if whole else 0.0

    width = max(share(phase.end - phase.start), _LEAST_WIDTH)
    left = min(share(phase.start - start), 100.0 - width)
    return {
        "what": phase.what,
        "kind": phase.kind,
        "left": f"{max(left, 0):.2f}",
        "width": f"{min(width, 100):.2f}",
        "took": length(phase.end - phase.start) + (" so far" if phase.open else ""),
        "from": clock(phase.start),
    }
