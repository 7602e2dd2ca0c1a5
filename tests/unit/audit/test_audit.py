"""Putting a trail together (requirements A-AUD-10, A-AUD-16)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from atdm.cli.audit import trail_parts
from atdm_services.audit.report import assembled, gist

REQUEST_ID = "01K7ZQ0000ABCDEFGHJK000000"
RUN = "01K7ZQ0000ABCDEFGHJK000001"
OTHER = "01K7ZQ0000ABCDEFGHJK000002"
START = datetime(2026, 1, 31, 12, tzinfo=UTC)

REQUEST: dict[str, Any] = {
    "request_id": REQUEST_ID,
    "label": "nightly",
    "domain": "d",
    "scenario_id": "s",
    "status": "ready",
    "invoker": "human:a",
    "source": "cli",
    "reason": "",
    "runs": 2,
    "seed": 7,
    "as_of": START,
    "content_hash": "abc",
    "created_at": START,
    "finished_at": START,
    "dagster_run_id": "r-1",
}


def events(*actions: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "event_id": number,
            "at": START + timedelta(milliseconds=10 * number),
            "action": action,
            "status": "ok",
            "test_run_id": None,
            "invoker": "human:a",
            "source": "cli",
            "inputs": values.get("inputs", {}),
            "tools_called": [],
            "outputs": values.get("outputs", {}),
            "schema_version": 1,
        }
        for number, (action, values) in enumerate(actions)
    ]


HAPPY = events(
    ("request_received", {"inputs": {"planner_mode": "rule", "constraints": {"a": "1"}}}),
    ("plan_resolved", {"outputs": {"scenario_id": "s", "steps": [{"generator": "t"}]}}),
    ("seed_started", {}),
    ("validators_passed", {"outputs": {"validators": ["x.y", "x.z"]}}),
    (
        "seed_completed",
        {
            "outputs": {
                "records_created": [
                    {"kind": "t", "primary_key": f"t-{RUN}"},
                    {"kind": "t", "primary_key": f"t-{OTHER}"},
                    {"kind": "t", "primary_key": f"t-{RUN}-1"},
                ]
            }
        },
    ),
    ("catalog_recorded", {}),
    ("leased", {"inputs": {"owner": "o"}, "outputs": {"expires_at": "later"}}),
    ("fixtures_emitted", {"outputs": {"fixtures": {"pytest": "/f/x.py", "playwright": None}}}),
    ("reset_started", {}),
    ("reset_completed", {"outputs": {"deleted_counts": {"t": 2}, "adopted": {"t": 1}}}),
)
MODEL = {
    "invoker",
    "planner_mode",
    "prompt",
    "plan",
    "validator_decisions",
    "records_created",
    "fixtures_emitted",
    "reset_status",
    "started_at",
    "finished_at",
    "duration_ms",
    "events",
}


def test_the_read_model_has_every_field() -> None:
    trail = assembled(REQUEST, {"test_run_id": RUN, "status": "cleaned"}, HAPPY, {"note": "none"})

    assert set(trail) >= MODEL
    assert json.loads(json.dumps(trail)) == trail
    assert trail["status"] == "cleaned"
    assert trail["planner_mode"] == "rule"
    assert trail["prompt"] is None
    assert trail["plan"]["steps"] == [{"generator": "t"}]
    assert trail["duration_ms"] == 90.0
    assert trail["reset_status"] == "cleaned"
    assert trail["events"][0]["action"] == "request_received"


def test_a_run_has_its_own_records_and_a_request_all() -> None:
    of_run = assembled(REQUEST, {"test_run_id": RUN, "status": "cleaned"}, HAPPY, {})
    assert of_run["records_created"] == [
        {"table": "t", "pk": f"t-{RUN}"},
        {"table": "t", "pk": f"t-{RUN}-1"},
    ]
    assert len(assembled(REQUEST, None, HAPPY, {})["records_created"]) == 3
    counted = events(
        ("seed_completed", {"outputs": {"records_created": [{"kind": "t", "count": 900}]}})
    )
    assert assembled(REQUEST, None, counted, {})["records_created"] == [
        {"table": "t", "rows": 900, "of": "request"}
    ]


def test_a_run_that_was_made_again_has_the_records_of_that_time() -> None:
    def again(*keys: str) -> tuple[str, dict[str, Any]]:
        records = [{"kind": "t", "primary_key": key} for key in keys]
        return "replayed", {"inputs": {"from": "file f"}, "outputs": {"records_created": records}}

    told = events(again(f"t-{RUN}"), again(f"t-{OTHER}"), again(f"t-{RUN}"))
    assert [record["pk"] for record in assembled(REQUEST, None, told, {})["records_created"]] == [
        f"t-{RUN}", f"t-{OTHER}",
    ]  # fmt: skip
    of_run = assembled(REQUEST, {"test_run_id": RUN, "status": "leased"}, told, {})
    assert of_run["records_created"] == [{"table": "t", "pk": f"t-{RUN}"}]
    assert gist(told[0]) == "1 records from file f"


def test_fixtures_that_were_not_asked_for_are_left_out() -> None:
    trail = assembled(REQUEST, None, HAPPY, {})
    assert trail["fixtures_emitted"] == [{"kind": "pytest", "path": "/f/x.py", "test_run_id": None}]


def test_validators_come_from_the_catalog_and_are_filled_in_from_dagster() -> None:
    plain = assembled(REQUEST, None, HAPPY, {"note": "unreachable"})
    assert plain["validator_decisions"] == [
        {"validator": "x.y", "decision": "passed"},
        {"validator": "x.z", "decision": "passed"},
    ]
    checks = [
        {"validator": "x.y", "table": "t", "decision": "passed", "judged": 5},
        {"validator": "t.schema", "table": "t", "decision": "passed", "judged": 5},
    ]
    merged = assembled(REQUEST, None, HAPPY, {"run_id": "r-1", "checks": checks})
    assert merged["validator_decisions"] == checks
    assert merged["dagster"] == {"run_id": "r-1"}


def test_a_rejected_plan_says_why() -> None:
    trail = assembled(
        {**REQUEST, "status": "rejected"},
        None,
        events(
            ("request_received", {}),
            (
                "plan_rejected",
                {
                    "outputs": {
                        "failed_validators": [
                            {
                                "validator": "x.y",
                                "message": "1 of 1 rows",
                                "details": {"table": "t"},
                            }
                        ]
                    }
                },
            ),
        ),
        {},
    )
    assert trail["validator_decisions"] == [
        {
            "decision": "failed",
            "validator": "x.y",
            "message": "1 of 1 rows",
            "details": {"table": "t"},
        }
    ]
    assert trail["reset_status"] is None


def test_a_refused_token_is_no_reset_and_a_failed_one_is() -> None:
    refused = events(("request_received", {}), ("reset_rejected", {}))
    assert assembled(REQUEST, None, refused, {})["reset_status"] is None
    failed = events(("reset_started", {}), ("reset_failed", {"outputs": {"message": "why"}}))
    assert assembled(REQUEST, None, failed, {})["reset_status"] == "failed"


def test_the_trail_can_be_shown(capsys: Any) -> None:
    from atdm.cli.output import console

    trail = assembled(REQUEST, {"test_run_id": RUN, "status": "cleaned"}, HAPPY, {"note": "none"})
    printer = console()
    for part in trail_parts(trail):
        printer.print(part)
    out = capsys.readouterr().out
    positions = [out.index(f" {event['action']} ") for event in HAPPY]
    assert positions == sorted(positions)
    assert "2 rows, 1 of the application's" in out
    assert "/f/x.py" in out
