"""The texts of the audit page, in bounded amounts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from atdm.web.audit import answers, timeline
from atdm.web.audit.facts import Facts, Row
from atdm.web.audit.wording import clock, count, length, listed, moment, size, text
from atdm_services.audit.report import fixtures_emitted, gist, records_created, validator_decisions

View = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """The lengths of the lists. ``cut`` halves them for a page with long texts."""

    checks: int = 60
    cases: int = 5
    cases_of: int = 8
    columns: int = 8
    tables: int = 40
    keys: int = 12
    runs: int = 20
    events: int = 40
    constraints: int = 40
    others: int = 10
    outcomes: int = 30
    words: int = 160

    def cut(self) -> Limits:
        """Half of each length, at least one."""
        return Limits(*(max(getattr(self, name) // 2, 1) for name in self.__slots__))


def view_of(facts: Facts, limits: Limits | None = None) -> View:
    """Everything the template needs: texts, numbers as texts, tones."""
    most = limits or Limits()
    checks = _checks(facts)
    request = facts.request
    return {
        "title": f"Audit of {facts.subject}",
        "about": "test run" if facts.run else "request",
        "subject": facts.subject,
        "scenario": f"{request['domain']}/{request['scenario_id']}",
        "description": text((facts.scenario or {}).get("description"), 400).strip(),
        "status": answers.status(facts),
        "answers": answers.answers(facts, checks, most.words),
        "who": _who(facts, most),
        "charts": timeline.charts(facts),
        "constraints": _constraints(facts, most),
        "plan": _plan(facts, most),
        "tables": _tables(facts, most),
        "checks": _shown_checks(checks, most),
        "checks_note": text(facts.dagster.get("note"), most.words),
        "records": _records(facts, most),
        "runs": _runs(facts, most),
        "fixtures": _fixtures(facts, most),
        "outcomes": _outcomes(facts, most),
        "baselines": _domain(facts, most),
        "resets": _resets(facts, most),
        "seal": _seal(facts),
        "events": _events(facts, most),
        "read_at": moment(facts.read_at),
        "database": text(facts.database, 64),
        "version": facts.version,
    }


def rest(shown: int, of: int, what: str) -> str:
    """``and 12 more runs``, or an empty text."""
    return f"and {count(of - shown, f'more {what}')}" if of > shown else ""


def _who(facts: Facts, most: Limits) -> list[tuple[str, str]]:
    request, scenario = facts.request, facts.scenario or {}
    received = next((e for e in facts.making if e["action"] == "request_received"), {})
    again = sum(event["action"] == "request_received" for event in facts.making) - 1
    queued = facts.queued.get("submissions") or 0
    label = request["label"] if request["label"] != request["request_id"] else None
    found: list[tuple[str, Any]] = [
        ("Invoker", request["invoker"]),
        ("Source", request["source"]),
        ("Reason", request["reason"] or "none was given"),
        ("Asked at", moment(request["created_at"])),
        ("Through the queue", count(queued, "submission") if queued else None),
        ("Made again", count(again, "time") if again > 0 else None),
        ("Planner", received.get("inputs", {}).get("planner_mode")),
        ("Requirements", listed(list(scenario.get("linked_requirement_ids") or ()), 20) or "none"),
        ("Tags", listed(list(scenario.get("tags") or ()), 12)),
        ("Test run", facts.run["test_run_id"] if facts.run else None),
        ("Request", request["request_id"]),
        ("Label", label),
        ("Dagster run", request["dagster_run_id"]),
    ]
    return _pairs(found, most.words * 3)


def _pairs(found: Iterable[tuple[str, Any]], words: int) -> list[tuple[str, str]]:
    return [(name, text(value, words)) for name, value in found if value not in (None, "")]


def _constraints(facts: Facts, most: Limits) -> View:
    request = facts.request
    given, effective = request["given"], request["effective"]
    defaults = (facts.scenario or {}).get("defaults") or {}
    names = sorted({*given, *effective}, key=lambda name: (name not in given, name))
    lines = [
        {
            "name": text(name, most.words),
            "given": _value(given[name], most) if name in given else "",
            "asked": name in given,
            "effective": _value(effective.get(name), most),
            "default": _value(defaults[name], most) if name in defaults else "",
        }
        for name in names[: most.constraints]
    ]
    said = (
        f"{count(len(given), 'constraint')} given; the scenario decides the others."
        if given
        else "None was given: the scenario decides all of them."
    )
    return {"lines": lines, "more": rest(len(lines), len(names), "constraint"), "said": said}


def _value(value: Any, most: Limits) -> str:
    return "none" if value is None else text(value, most.words)


def _plan(facts: Facts, most: Limits) -> list[tuple[str, str]]:
    request, scenario = facts.request, facts.scenario or {}
    current = scenario.get("current")
    version = str(request["scenario_version"])
    found: list[tuple[str, Any]] = [
        ("Test runs", f"{request['runs']:,}"),
        ("Seed", f"{request['seed']} ({_whose(request['seed_given'])})"),
        ("As of", f"{moment(request['as_of'])} ({_whose(request['as_of_given'])})"),
        (
            "Scenario version",
            version + (" (superseded since)" if current is False else ""),
        ),
        ("Breaks its rules", "on purpose" if scenario.get("violates") else None),
        ("Content hash", request["content_hash"]),
    ]
    return _pairs(found, most.words)


def _whose(given: bool) -> str:
    return "as asked" if given else "derived from the request"


def _tables(facts: Facts, most: Limits) -> View:
    made = facts.request["tables"]
    planned = [
        str(step.get("generator"))
        for event in facts.making
        if event["action"] == "plan_resolved"
        for step in event["outputs"].get("steps", ())
    ]
    names = list(dict.fromkeys([*planned, *made]))
    lines = [
        {
            "name": text(name, most.words),
            "rows": f"{made[name]['rows']:,}" if name in made else "none",
            "bytes": size(made.get(name, {}).get("bytes")),
            "hash": text(made.get(name, {}).get("content_hash"), 32),
        }
        for name in names[: most.tables]
    ]
    return {"lines": lines, "more": rest(len(lines), len(names), "table")}


def _checks(facts: Facts) -> list[dict[str, Any]]:
    """Every check with its counts, the failed ones first."""
    decisions = validator_decisions(facts.making, facts.dagster.get("checks", ()))
    expected = bool(((facts.request["error"] or {}).get("details") or {}).get("expected"))
    found = []
    for decision in decisions:
        details = decision.get("details")
        details = details if isinstance(details, Mapping) else {}
        failed = decision.get("failed", details.get("failed"))
        broken = decision["decision"] != "passed" or bool(decision.get("expected_violation"))
        found.append(
            {
                "name": decision["validator"],
                "table": decision.get("table") or details.get("table"),
                "judged": decision.get("judged", details.get("judged")),
                "failed": failed if failed is not None or broken else 0,
                "broken": broken,
                "expected": broken and (expected or bool(decision.get("expected_violation"))),
                "vacuous": bool(decision.get("vacuous")),
                "message": decision.get("message"),
                "cases": decision.get("cases") or details.get("cases") or [],
            }
        )
    return sorted(found, key=lambda check: not check["broken"])


def _shown_checks(checks: Sequence[Row], most: Limits) -> View:
    lines = []
    with_cases = 0
    for check in checks[: most.checks]:
        shown = check["broken"] and with_cases < most.cases_of
        with_cases += bool(shown)
        lines.append(
            {
                "name": text(check["name"], most.words),
                "table": text(check["table"], most.words),
                "judged": _number(check["judged"]),
                "failed": _number(check["failed"]),
                "verdict": _verdict(check),
                "message": text(check["message"], most.words) if check["broken"] else "",
                "cases": _cases(check["cases"], most) if shown and check["cases"] else None,
            }
        )
    return {"lines": lines, "more": rest(len(lines), len(checks), "check")}


def _verdict(check: Row) -> tuple[str, str]:
    if check["expected"]:
        return "as declared", "warn"
    if check["broken"]:
        return "failed", "bad"
    return ("vacuous", "plain") if check["vacuous"] else ("passed", "ok")


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "not known"


def _cases(cases: Sequence[Any], most: Limits) -> View:
    records = [case if isinstance(case, Mapping) else {"case": case} for case in cases]
    names = list(dict.fromkeys(name for record in records for name in record))
    return {
        "columns": [text(name, 60) for name in names[: most.columns]],
        "rows": [
            [text(record.get(name), min(most.words, 60)) for name in names[: most.columns]]
            for record in records[: most.cases]
        ],
        "more": rest(min(len(records), most.cases), len(records), "row"),
        "columns_more": rest(min(len(names), most.columns), len(names), "column"),
    }


def _records(facts: Facts, most: Limits) -> View:
    """By table: the number of rows made, their keys, and the number of rows there now."""
    by_table: dict[str, list[str]] = {}
    made: dict[str, int | None] = {}
    for record in records_created(facts.making, facts.run):
        if "pk" in record:
            by_table.setdefault(record["table"], []).append(record["pk"])
        elif facts.run is None:
            made[record["table"]] = record["rows"]
    made |= {name: len(keys) for name, keys in by_table.items()}
    if facts.run is not None and not by_table:
        # The trail of a large request has only counts. Deleted rows were made before.
        made = dict(facts.run.get("deleted") or {})
    names = list(dict.fromkeys([*facts.in_target, *made]))
    lines = []
    for name in names[: most.tables]:
        there = facts.in_target.get(name) or {"rows": None, "keys": []}
        keys = by_table.get(name) or list(there["keys"])
        rows = made.get(name, there["rows"] if there["rows"] else None)
        total = len(keys) if name in by_table else max(len(keys), there["rows"] or 0)
        lines.append(
            {
                "name": text(name, most.words),
                "rows": f"{rows:,}" if rows is not None else "not known",
                "ids": [text(key, most.words) for key in keys[: most.keys]],
                "more": rest(min(len(keys), most.keys), total, "key") if keys else "",
                "there": f"{there['rows']:,}" if there["rows"] is not None else "not counted",
                "gone": there["rows"] == 0,
            }
        )
    return {
        "lines": lines if facts.request["tables"] else [],
        "more": rest(len(lines), len(names), "table"),
        "there": sum(there["rows"] or 0 for there in facts.in_target.values()),
        "counted": all(there["rows"] is not None for there in facts.in_target.values()),
    }


def _runs(facts: Facts, most: Limits) -> View:
    total = sum(facts.run_counts.values())
    lines = [
        {
            "id": run["test_run_id"],
            "status": (run["status"], answers.TONES.get(run["status"], "plain")),
            "owner": text(run["owner"], most.words),
            "leased": moment(run["leased_at"]),
            "ends": moment(run["ended_at"] or run["expires_at"]),
            "held": length(run["ended_at"] - run["leased_at"])
            if run["ended_at"] and run["leased_at"] and run["ended_at"] >= run["leased_at"]
            else "",
        }
        for run in facts.runs[: most.runs]
    ]
    return {
        "lines": lines,
        "counts": [(status, f"{number:,}") for status, number in sorted(facts.run_counts.items())],
        "more": rest(len(lines), total, "test run"),
    }


def _fixtures(facts: Facts, most: Limits) -> View:
    found = fixtures_emitted(facts.fixtures[::-1])
    lines = [
        {
            "kind": text(fixture["kind"], 40),
            "path": text(fixture["path"], most.words * 2),
            "run": fixture["test_run_id"] or "",
        }
        for fixture in found[: most.others]
    ]
    total = next((r["n"] for r in facts.totals if r["action"] == "fixtures_emitted"), 0)
    more = max(total - len(facts.fixtures), 0) + max(len(found) - len(lines), 0)
    return {"lines": lines, "more": f"and {more:,} more" if more else ""}


def _outcomes(facts: Facts, most: Limits) -> View:
    total = sum(facts.outcome_counts.values())
    lines = [
        {
            "test": text(row["nodeid"], most.words * 2),
            "outcome": (text(row["outcome"], 30), answers.TONES.get(row["outcome"], "plain")),
            "at": moment(row["at"]),
            "took": length(timedelta(seconds=row["duration_seconds"])),
            "run": row["test_run_id"] if facts.run is None else "",
            "requirements": listed([text(name, 40) for name in row["requirement_ids"]], 6),
        }
        for row in facts.outcomes[: most.outcomes]
    ]
    return {
        "lines": lines,
        "counts": [(name, f"{number:,}") for name, number in sorted(facts.outcome_counts.items())],
        "more": rest(len(lines), total, "test"),
    }


def _domain(facts: Facts, most: Limits) -> View:
    lines = [
        {
            "at": moment(event["at"]),
            "what": _deed(event),
            "by": text(f"{event['invoker']} through {event['source']}", most.words),
            "reason": text((event["inputs"] or {}).get("reason"), most.words),
            "tone": "bad" if event["status"] == "failed" else "plain",
        }
        for event in facts.domain_events[: most.others]
    ]
    return {"lines": lines, "more": len(facts.domain_events) > len(lines)}


def _deed(event: Row) -> str:
    baseline = text((event["inputs"] or {}).get("baseline_id"), 70)
    match event["action"]:
        case "snapshot_completed":
            return f"Captured as baseline {baseline}"
        case "snapshot_failed":
            return f"Capturing baseline {baseline} failed"
        case "restore_completed":
            return f"Tables brought back to baseline {baseline}"
        case "restore_failed":
            return f"Restoring baseline {baseline} failed"
        case "reset_completed":
            return "All test runs of the domain deleted"
        case _:
            return "Deleting all test runs of the domain failed"


def _resets(facts: Facts, most: Limits) -> list[View]:
    found = []
    for reset in facts.resets[: most.others]:
        done = reset["action"] == "reset_completed"
        words = {"reset_failed": "failed", "reset_rejected": "refused: wrong token"}
        found.append(
            {
                "what": "done" if done else words[reset["action"]],
                "tone": "ok" if done else "bad",
                "by": text(f"{reset['invoker']} through {reset['source']}", most.words),
                "way": text(reset["strategy"], 40),
                "runs": f"{reset['n']:,}",
                "at": moment(reset["last_at"]),
                "deleted": _counts(reset["deleted"], most) if done else "",
                "adopted": _counts(reset["adopted"], most) if done else "",
                "message": text(reset["message"], most.words),
                "shared": bool(reset["shared"]),
            }
        )
    return found


def _counts(counts: Mapping[str, int] | None, most: Limits) -> str:
    found = {name: number for name, number in (counts or {}).items() if number}
    parts = [f"{text(name, 60)} {number:,}" for name, number in sorted(found.items())]
    return f"{sum(found.values()):,} ({listed(parts, most.tables // 2 or 1)})" if found else "0"


def _seal(facts: Facts) -> list[tuple[str, str]]:
    seal = facts.seal
    verified = seal["verified"]
    checked = None
    if verified is not None:
        span = f"{verified['from_seal']:,} to {verified['to_seal']:,}"
        checked = (
            f"computed again for seals {span}: the chain holds"
            if verified["broken"] is None
            else f"BROKEN at seal {verified['broken']:,} (looked at {span})"
        )
    numbers = None
    if seal["first_seal"] is not None:
        first, last = seal["first_seal"], seal["last_seal"]
        numbers = f"{first:,}" if first == last else f"{first:,} to {last:,}"
    return _pairs(
        [
            ("Events sealed", f"{seal['sealed']:,} of {seal['events']:,}"),
            ("Seal numbers", numbers),
            ("Sealed at", moment(seal["sealed_at"]) if seal["sealed_at"] else None),
            ("Hash of the last", seal["hash"]),
            ("Verified", checked),
            ("End of the chain", f"seal {seal['head']:,}" if seal["head"] else "nothing is sealed"),
        ],
        200,
    )


def _events(facts: Facts, most: Limits) -> View:
    total = sum(row["n"] for row in facts.totals)
    first, last = list(facts.first), list(facts.last)
    if len(first) + len(last) > most.events:
        head = max(most.events - len(last), (most.events + 1) // 2)
        tail = most.events - head
        first, last = first[:head], (first[head:] + last)[len(first) - head + len(last) - tail :]
    return {
        "first": [_event(event, most) for event in first],
        "last": [_event(event, most) for event in last],
        "between": total - len(first) - len(last),
        "total": f"{total:,}",
    }


def _event(event: Row, most: Limits) -> View:
    status = text(event["status"], 30)
    return {
        "id": event["event_id"],
        "at": clock(event["at"]),
        "action": text(event["action"], 60),
        "status": (status, answers.TONES.get(status, "plain")),
        "by": text(event["invoker"], most.words),
        "gist": text(gist(event), most.words),
    }
