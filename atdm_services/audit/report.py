"""The audit trail of a run: who requested it, what was made and checked, how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from atdm_engine.errors import AtdmError, ErrorCode

if TYPE_CHECKING:
    import psycopg

    from atdm_resources.settings import Settings

ReadRun: TypeAlias = "Callable[[Settings, str], dict[str, Any]]"
"""Reads what Dagster recorded of a run id. Raises AtdmError, MISSING_EXTRA without Dagster."""

TRAIL_VERSION = 1
_RESET_STATUS = {
    "reset_completed": "cleaned",
    "reset_failed": "failed",
    "reset_started": "started",
    "lease_expired": "expired",
}


def audit_trail(
    settings: Settings, connection: psycopg.Connection[Any], name: str, read_run: ReadRun
) -> dict[str, Any]:
    """The trail of a run id, a request id or a label. Raises AtdmError RUN_NOT_FOUND."""
    from dataclasses import asdict

    from atdm_resources.catalog import requests, runs
    from atdm_resources.catalog.trail import all_events

    request_id, test_run_id = runs.find(connection, name)
    request = asdict(requests.get_request(connection, request_id))
    run = None if test_run_id is None else runs.run(connection, test_run_id)
    events = all_events(connection, request_id, test_run_id)
    return assembled(request, run, events, dagster_record(settings, request, read_run))


def assembled(
    request: Mapping[str, Any],
    run: Mapping[str, Any] | None,
    events: Sequence[Mapping[str, Any]],
    dagster: Mapping[str, Any],
) -> dict[str, Any]:
    """The trail from a request's row, a run's row (None for a whole request) and their events.

    ``events`` are in order of time. ``dagster`` is ``dagster_record``'s answer.
    """
    received = _first(events, "request_received")
    planned = _first(events, "plan_resolved")
    started = events[0]["at"] if events else request["created_at"]
    finished = events[-1]["at"] if events else request["finished_at"]
    return {
        "trail_version": TRAIL_VERSION,
        "request_id": request["request_id"],
        "test_run_id": run["test_run_id"] if run else None,
        "label": request["label"],
        "domain": request["domain"],
        "scenario_id": request["scenario_id"],
        "status": run["status"] if run else request["status"],
        "invoker": request["invoker"],
        "source": request["source"],
        "reason": request["reason"] or None,
        "planner_mode": received.get("inputs", {}).get("planner_mode"),
        "prompt": None,
        "runs": request["runs"],
        "seed": request["seed"],
        "as_of": _text(request["as_of"]),
        "content_hash": request["content_hash"],
        "plan": planned.get("outputs") or None,
        "validator_decisions": validator_decisions(events, dagster.get("checks", ())),
        "records_created": records_created(events, run),
        "fixtures_emitted": fixtures_emitted(events),
        "reset_status": reset_status(events),
        "started_at": _text(started),
        "finished_at": _text(finished),
        "duration_ms": round((finished - started).total_seconds() * 1000, 3) if finished else None,
        "events": [shown_event(event) for event in events],
        "dagster": {key: value for key, value in dagster.items() if key != "checks"},
    }


def validator_decisions(
    events: Iterable[Mapping[str, Any]], checks: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The decision of every validator, of the last time the data was made.

    The catalog has the rules. Dagster's check evaluations add the schema checks and the number of
    judged rows, where they can be read.
    """
    evaluated = [dict(check) for check in checks]
    decisions: list[dict[str, Any]] = []
    for event in events:
        outputs = event["outputs"]
        if event["action"] == "validators_passed":
            decisions = [
                {"validator": name, "decision": "passed"} for name in outputs.get("validators", ())
            ]
        elif event["action"] == "plan_rejected":
            decisions = [
                {"decision": "failed", **failed} for failed in outputs.get("failed_validators", ())
            ]
    if not evaluated:
        return decisions
    said = {decision["validator"]: decision for decision in decisions}
    return [{**said.get(check["validator"], {}), **check} for check in evaluated]


def records_created(
    events: Iterable[Mapping[str, Any]], run: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Table and primary key of the rows of a run, or of all runs of a request.

    The event of a large request has counts instead of keys: then the entries have ``rows``, counted
    over all its runs.
    """
    created: list[Mapping[str, Any]] = []
    for event in events:
        told = list(event["outputs"].get("records_created", ()))
        if event["action"] == "seed_completed" or (event["action"] == "replayed" and run):
            created = told
        elif event["action"] == "replayed":
            created += [record for record in told if record not in created]
    records = []
    for record in created:
        if "primary_key" not in record:
            records.append({"table": record["kind"], "rows": record["count"], "of": "request"})
        elif run is None or run["test_run_id"] in record["primary_key"]:
            # Every key contains the id of its run.
            records.append({"table": record["kind"], "pk": record["primary_key"]})
    return records


def fixtures_emitted(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The fixture files that were written, oldest first."""
    return [
        {"kind": kind, "path": path, "test_run_id": event["test_run_id"]}
        for event in events
        if event["action"] == "fixtures_emitted"
        for kind, path in sorted((event["outputs"].get("fixtures") or {}).items())
        if path is not None
    ]


def reset_status(events: Iterable[Mapping[str, Any]]) -> str | None:
    """The result of the latest reset, or None. A refused token is no reset."""
    status = None
    for event in events:
        status = _RESET_STATUS.get(event["action"], status)
    return status


def shown_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as JSON."""
    return {
        "event_id": event["event_id"],
        "at": _text(event["at"]),
        "action": event["action"],
        "status": event["status"],
        "test_run_id": event["test_run_id"],
        "invoker": event["invoker"],
        "source": event["source"],
        "inputs": event["inputs"],
        "tools_called": event["tools_called"],
        "outputs": event["outputs"],
        "schema_version": event["schema_version"],
    }


def dagster_record(
    settings: Settings, request: Mapping[str, Any], read_run: ReadRun
) -> dict[str, Any]:
    """Dagster's record of the run that made a request, or a note why it is missing.

    Keys: run_id, status, started_at, finished_at, materialisations, checks; or note.
    """
    run_id = request["dagster_run_id"]
    if not run_id:
        return {"note": "no Dagster run made this request"}
    try:
        return read_run(settings, run_id)
    except AtdmError as error:
        if error.code is ErrorCode.MISSING_EXTRA:
            note = "Dagster is not installed here: its record is not shown"
        else:
            note = f"Dagster's record cannot be read: {error.message}"
        return {"run_id": run_id, "note": note}


def gist(event: Mapping[str, Any]) -> str:
    """The essential value of an event, as text."""
    outputs, inputs = event["outputs"], event["inputs"]
    match event["action"]:
        case "request_received":
            given = inputs.get("constraints") or {}
            return ", ".join(f"{key}={value}" for key, value in given.items()) or "defaults"
        case "plan_resolved":
            return (
                f"{len(outputs.get('steps', ()))} steps, {len(outputs.get('validators', ()))} rules"
            )
        case "validators_passed":
            return f"{len(outputs.get('validators', ()))} rules"
        case "plan_rejected":
            return ", ".join(str(f.get("validator")) for f in outputs.get("failed_validators", ()))
        case "leased":
            return f"to {inputs.get('owner')} until {outputs.get('expires_at')}"
        case "fixtures_emitted":
            return ", ".join(str(p) for p in (outputs.get("fixtures") or {}).values() if p)
        case "reset_completed":
            counts = outputs.get("deleted_counts") or {}
            adopted = outputs.get("adopted") or {}
            said = f"{sum(counts.values())} rows"
            return said + (f", {sum(adopted.values())} of the application's" if adopted else "")
        case "replayed":
            return f"{len(outputs.get('records_created', ()))} records from {inputs.get('from')}"
        case "lease_expired":
            return f"of {inputs.get('owner')}, at {inputs.get('expires_at')}"
        case "reset_requested":
            return str(inputs.get("reason", ""))
        case "seed_failed" | "reset_failed":
            return str(outputs.get("message", ""))
        case _:
            return ""


def _first(events: Iterable[Mapping[str, Any]], action: str) -> Mapping[str, Any]:
    return next((event for event in events if event["action"] == action), {})


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
