"""Facts as the audit page gets them, made up: a denied claim, leased, tested and reset."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from atdm.web.audit.facts import Facts

REQUEST_ID = "01K7ZQ3V5MWXR8ABCDEF000000"
RUN = "01K7ZQ3V5MWXR8ABCDEF000001"
START = datetime(2026, 11, 20, 9, 30, 12, 84_000, tzinfo=UTC)
TABLES = ("plan", "member", "eligibility", "provider", "claim")
PREFIXES = {
    "plan": "plan",
    "member": "m",
    "eligibility": "elig",
    "provider": "prov",
    "claim": "claim",
}


def at(milliseconds: float) -> datetime:
    """So long after the story's beginning."""
    return START + timedelta(milliseconds=milliseconds)


def event(number: int, action: str, when: datetime, **values: Any) -> dict[str, Any]:
    return {
        "event_id": 4200 + number,
        "at": when,
        "action": action,
        "status": "ok",
        "test_run_id": None,
        "invoker": "human:ann.lee",
        "source": "cli",
        "inputs": {},
        "outputs": {},
        **values,
    }


REQUEST: dict[str, Any] = {
    "request_id": REQUEST_ID,
    "label": "release-4711",
    "domain": "healthcare",
    "scenario_id": "claim_denial_active_member",
    "scenario_version": "2ab1bdb10dc7db96",
    "given": {"denial_reason": "invalid_procedure_code"},
    "effective": {
        "claim_status": "denied",
        "coverage_type": None,
        "denial_reason": "invalid_procedure_code",
        "eligibility_status": "active",
        "procedure_code": "00000",
        "provider_network": "out_of_network",
    },
    "seed": 331513848465277984,
    "seed_given": False,
    "as_of": at(-200),
    "as_of_given": False,
    "runs": 1,
    "status": "ready",
    "invoker": "human:ann.lee",
    "source": "cli",
    "reason": "Regression of the denial letter, build 4711",
    "dagster_run_id": "d4122cb7-e992-4fd3-afbb-1d3bf1131d59",
    "created_at": at(0),
    "started_at": at(154),
    "finished_at": at(620),
    "content_hash": "3049f0f4b3dc33712f07b482144811f5",
    "tables": {
        name: {
            "rows": 1,
            "bytes": 1680 + 300 * place,
            "content_hash": f"{place:x}4fa69dcdc5d0395d913",
        }
        for place, name in enumerate(TABLES)
    },
    "error": None,
}
RUN_ROW: dict[str, Any] = {
    "test_run_id": RUN,
    "request_id": REQUEST_ID,
    "status": "cleaned",
    "owner": "ci-4711",
    "leased_at": at(700),
    "expires_at": at(700) + timedelta(hours=4),
    "ended_at": at(192_000),
    "as_of": at(-200),
    "deleted": {"claim": 2, "eligibility": 1, "member": 1, "plan": 1, "provider": 1},
}
MAKING = [
    event(
        0,
        "request_received",
        at(0),
        inputs={"planner_mode": "rule", "constraints": {"denial_reason": "invalid_procedure_code"}},
    ),
    event(
        1,
        "plan_resolved",
        at(1),
        outputs={
            "steps": [{"generator": name} for name in TABLES],
            "validators": ["domain.denial_requires_invalid_code"],
        },
    ),
    event(2, "seed_started", at(154), outputs={"step_count": 5}),
    event(
        3,
        "validators_passed",
        at(540),
        outputs={"validators": ["domain.denial_requires_invalid_code"]},
    ),
    event(
        4,
        "seed_completed",
        at(620),
        outputs={
            "records_created": [
                {"kind": name, "primary_key": f"{PREFIXES[name]}-{RUN}"} for name in TABLES
            ]
        },
    ),
    event(5, "catalog_recorded", at(621), outputs={"runs": 1}),
]
LATER = [
    event(
        6,
        "leased",
        at(700),
        test_run_id=RUN,
        inputs={"owner": "ci-4711"},
        outputs={"expires_at": "2026-11-20T13:30:12+00:00"},
    ),
    event(
        7,
        "fixtures_emitted",
        at(704),
        test_run_id=RUN,
        outputs={"fixtures": {"playwright": "/builds/4711/automation/fixtures/denial.json"}},
    ),
    event(8, "reset_started", at(191_960), test_run_id=RUN, source="pytest"),
    event(
        9,
        "reset_completed",
        at(192_000),
        test_run_id=RUN,
        status="cleaned",
        source="pytest",
        outputs={"deleted_counts": RUN_ROW["deleted"], "adopted": {"claim": 1}},
    ),
]
CHECKS = [
    {
        "validator": name,
        "table": name.split(".")[0] if name.endswith(("schema", "references")) else "claim",
        "decision": "passed",
        "expected_violation": False,
        "judged": judged,
        "failed": 0,
        "vacuous": judged == 0,
        "message": f"{judged} rows judged, all hold.",
        "cases": [],
    }
    for name, judged in (
        *((f"{table}.schema", 1) for table in TABLES),
        ("member.references", 1),
        ("eligibility.references", 1),
        ("claim.references", 4),
        ("domain.denial_requires_invalid_code", 1),
        ("relational.claim_references_existing_member", 1),
        ("temporal.eligibility_window_contains_claim", 1),
    )
]
SEAL = {
    "events": 10,
    "sealed": 10,
    "first_seal": 4188,
    "last_seal": 4197,
    "sealed_at": at(222_000),
    "head": 4203,
    "hash": "ec2af9446abfd2fd81353fe98a0c3a6e95be8a00acf35d9f530ea71e207131c3",
    "verified": {"from_seal": 1, "to_seal": 4197, "broken": None},
}


def story(**changes: Any) -> Facts:
    """The story of a run; ``changes`` replace whole parts."""
    events = [*MAKING, *LATER]
    parts: dict[str, Any] = {
        "request": REQUEST,
        "run": RUN_ROW,
        "scenario": {
            "description": "Active member with one denied claim from an out-of-network provider.",
            "tags": ["headline", "denial"],
            "linked_requirement_ids": ["FR-001", "FR-005", "FR-010"],
            "defaults": {**REQUEST["effective"], "provider_network": "out_of_network"},
            "violates": False,
            "current": True,
            "published_at": at(-86_400_000),
        },
        "making": MAKING,
        "first": events,
        "last": [],
        "totals": totals(events),
        "run_counts": {"cleaned": 1},
        "runs": [RUN_ROW],
        "resets": [
            {
                "action": "reset_completed",
                "status": "cleaned",
                "invoker": "human:ann.lee",
                "source": "pytest",
                "strategy": "reset_run",
                "n": 1,
                "first_at": at(192_000),
                "last_at": at(192_000),
                "shared": False,
                "message": None,
                "deleted": RUN_ROW["deleted"],
                "adopted": {"claim": 1},
            }
        ],
        "fixtures": [LATER[1]],
        "domain_events": [
            event(
                20,
                "snapshot_completed",
                at(60_000),
                inputs={"baseline_id": "nightly-2026-11-20", "reason": "before the release"},
                invoker="agent:atdm-schedule",
                source="schedule",
            )
        ],
        "queued": {"submissions": 0, "first_at": None},
        "in_target": {name: {"rows": 0, "keys": []} for name in TABLES},
        "seal": SEAL,
        "dagster": {"run_id": REQUEST["dagster_run_id"], "checks": CHECKS},
        "database": "claims_test",
        "version": "0.1.0",
        "read_at": at(400_000),
        "outcomes": [
            {
                "nodeid": "tests/claims/test_appeal.py::test_appeal_reopens_the_claim",
                "test_run_id": RUN,
                "outcome": "failed",
                "duration_seconds": 0.42,
                "at": at(190_000),
                "requirement_ids": ["FR-005"],
            },
            {
                "nodeid": "tests/claims/test_denial_letter.py::test_letter_names_the_code",
                "test_run_id": RUN,
                "outcome": "passed",
                "duration_seconds": 1.84,
                "at": at(188_000),
                "requirement_ids": ["FR-001", "FR-005"],
            },
        ],
        "outcome_counts": {"failed": 1, "passed": 1},
    }
    return Facts(**{**parts, **changes})


def totals(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By action, as the catalog counts them."""
    found: dict[str, dict[str, Any]] = {}
    for it in events:
        row = found.setdefault(
            it["action"],
            {"action": it["action"], "n": 0, "first_at": it["at"], "last_at": it["at"]},
        )
        row["n"] += 1
        row["last_at"] = it["at"]
    return list(found.values())


def of_request(**changes: Any) -> Facts:
    """The same about the whole request."""
    return dataclasses.replace(story(), run=None, **changes)


def rejected(*, expected: bool = False) -> Facts:
    """A request whose data broke a rule."""
    rule = "relational.eligibility_status_matches_member"
    cases = [
        {"eligibility_id": f"elig-{RUN}-{row}", "status": "active", "holds": False}
        for row in range(9)
    ]
    failed = {
        "validator": rule,
        "message": "9 of 20 rows of eligibility break it",
        "details": {"table": "eligibility", "judged": 20, "failed": 9, "cases": cases[:3]},
    }
    events = [
        *MAKING[:3],
        event(
            3,
            "plan_rejected",
            at(540),
            status="rejected",
            outputs={"failed_validators": [failed], "expected": expected},
        ),
    ]
    check = {
        "validator": rule,
        "table": "eligibility",
        "decision": "passed" if expected else "failed",
        "expected_violation": expected,
        "judged": 20,
        "failed": 9,
        "vacuous": False,
        "message": "9 of 20 rows break it.",
        "cases": cases,
    }
    return dataclasses.replace(
        story(),
        request={
            **REQUEST,
            "status": "rejected",
            "content_hash": None,
            "tables": {},
            "error": {
                "code": "VALIDATOR_REJECTED",
                "message": f"{'rejected as expected' if expected else 'rejected'}: {rule}",
                "details": {"expected": expected},
            },
        },
        run=None,
        making=events,
        first=events,
        totals=totals(events),
        run_counts={},
        runs=[],
        resets=[],
        fixtures=[],
        domain_events=[],
        dagster={"run_id": REQUEST["dagster_run_id"], "checks": [*CHECKS, check]},
        outcomes=[],
        outcome_counts={},
    )
