"""Each healthcare rule holds and fails as it should, on rows made by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from atdm_engine.arrow.duck import connect, inspect_query

RULES = Path(__file__).parents[3] / "scenarios" / "healthcare" / "rules"
RUN = "01J0000000000000000000000A"

SCHEMAS: dict[str, dict[str, pa.DataType]] = {
    "member": {"member_id": pa.string(), "status": pa.string()},
    "eligibility": {
        "eligibility_id": pa.string(),
        "member_id": pa.string(),
        "effective_from": pa.date32(),
        "effective_to": pa.date32(),
        "status": pa.string(),
    },
    "claim": {
        "claim_id": pa.string(),
        "member_id": pa.string(),
        "procedure_code": pa.string(),
        "diagnosis_code": pa.string(),
        "status": pa.string(),
        "submitted_at": pa.timestamp("us", tz="UTC"),
        "denial_reason": pa.string(),
    },
    "procedure_code": {"code": pa.string(), "is_valid": pa.bool_()},
    "diagnosis_code": {"code": pa.string(), "is_valid": pa.bool_()},
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "member": {"member_id": "m-1", "status": "active"},
    "eligibility": {
        "eligibility_id": "elig-1",
        "member_id": "m-1",
        "effective_from": date(2026, 1, 1),
        "effective_to": date(2026, 12, 31),
        "status": "active",
    },
    "claim": {
        "claim_id": "claim-1",
        "member_id": "m-1",
        "procedure_code": "99213",
        "diagnosis_code": "Z00.00",
        "status": "paid",
        "submitted_at": datetime(2026, 6, 1, 12, tzinfo=UTC),
        "denial_reason": None,
    },
}
REFERENCE: dict[str, list[dict[str, Any]]] = {
    "procedure_code": [
        {"code": "99213", "is_valid": True, "test_run_id": None},
        {"code": "00000", "is_valid": False, "test_run_id": None},
        {"code": "PC-1", "is_valid": False},
        {"code": "PC-2", "is_valid": True},
    ],
    "diagnosis_code": [
        {"code": "Z00.00", "is_valid": True, "test_run_id": None},
        {"code": "ZZZ.99", "is_valid": False, "test_run_id": None},
        {"code": "DC-1", "is_valid": False},
    ],
}


def judge(rule: str, **rows: list[dict[str, Any]]) -> dict[str, bool | None]:
    """What ``rule`` says of ``rows`` by table (columns left out: usual values): key to holds."""
    connection = connect()
    for table, columns in SCHEMAS.items():
        complete = [
            {"test_run_id": RUN} | DEFAULTS.get(table, {}) | row
            for row in rows.get(table, REFERENCE.get(table, []))
        ]
        schema = pa.schema([*columns.items(), ("test_run_id", pa.string())])
        connection.register(table, pa.Table.from_pylist(complete, schema=schema))
    sql = (RULES / f"{rule}.sql").read_text(encoding="utf-8")
    cursor = connection.execute(sql)
    names = [column[0] for column in cursor.description or ()]
    position = names.index("holds")
    return {row[0]: row[position] for row in cursor.fetchall()}


@pytest.mark.parametrize("path", sorted(RULES.glob("*.sql")), ids=lambda path: path.stem)
def test_rule_files_say_what_they_mean_and_select_their_key_first(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("-- ")
    inspected = inspect_query(text)
    assert inspected.first_column in (("claim", "claim_id"), ("eligibility", "eligibility_id"))
    assert set(inspected.tables) & {"claim", "eligibility"}


def test_the_four_rules_exist() -> None:
    assert sorted(path.stem for path in RULES.glob("*.sql")) == [
        "domain.denial_requires_invalid_code",
        "relational.claim_references_existing_member",
        "relational.eligibility_status_matches_member",
        "temporal.eligibility_window_contains_claim",
    ]


@pytest.mark.parametrize(
    ("member", "eligibility", "holds"),
    [
        ("active", "active", True),
        ("active", "inactive", True),
        ("active", "expired", True),
        ("inactive", "inactive", True),
        ("inactive", "expired", True),
        ("inactive", "active", False),
    ],
)
def test_an_inactive_member_has_no_active_eligibility(
    member: str, eligibility: str, holds: bool
) -> None:
    verdict = judge(
        "relational.eligibility_status_matches_member",
        member=[{"status": member}],
        eligibility=[{"status": eligibility}],
    )
    assert verdict == {"elig-1": holds}


def test_an_eligibility_without_its_member_is_not_judged_by_the_status_rule() -> None:
    rule = "relational.eligibility_status_matches_member"
    assert judge(rule, member=[], eligibility=[{}]) == {}
    assert judge(rule, member=[{"status": "inactive"}], eligibility=[]) == {}


@pytest.mark.parametrize(
    ("member", "claim", "holds"),
    [
        ({}, {}, True),
        ({"member_id": "m-2"}, {}, False),
        ({}, {"member_id": None}, False),
        ({"test_run_id": "01J0000000000000000000000B"}, {}, False),
        ({"test_run_id": None}, {"test_run_id": None}, True),
    ],
    ids=["same", "another member", "no member named", "member of another run", "nobody's rows"],
)
def test_a_claim_is_for_a_member_of_its_own_run(
    member: dict[str, Any], claim: dict[str, Any], holds: bool
) -> None:
    rule = "relational.claim_references_existing_member"
    assert judge(rule, member=[member], claim=[claim]) == {"claim-1": holds}


def test_a_claim_whose_member_is_missing_fails_and_no_claim_is_fine() -> None:
    rule = "relational.claim_references_existing_member"
    assert judge(rule, member=[], claim=[{}]) == {"claim-1": False}
    assert judge(rule, member=[{}], claim=[]) == {}


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        ({"procedure_code": "00000"}, True),
        ({"diagnosis_code": "ZZZ.99"}, True),
        ({"procedure_code": "PC-1"}, True),
        ({"diagnosis_code": "DC-1"}, True),
        ({"denial_reason": "expired_eligibility"}, True),
        ({}, False),
        ({"denial_reason": ""}, False),
        ({"denial_reason": "   "}, False),
        ({"procedure_code": "PC-2"}, False),
        ({"procedure_code": "no such code", "diagnosis_code": "none"}, False),
    ],
)
def test_a_denial_has_an_invalid_code_or_a_reason(claim: dict[str, Any], holds: bool) -> None:
    rule = "domain.denial_requires_invalid_code"
    assert judge(rule, claim=[{"status": "denied"} | claim]) == {"claim-1": holds}


@pytest.mark.parametrize("status", ["paid", "pending"])
def test_only_denied_claims_are_judged_by_the_denial_rule(status: str) -> None:
    assert judge("domain.denial_requires_invalid_code", claim=[{"status": status}]) == {}


@pytest.mark.parametrize("status", ["denied", "pending"])
@pytest.mark.parametrize(
    ("submitted_at", "eligibility", "holds"),
    [
        (datetime(2026, 1, 1, 0, 0, tzinfo=UTC), {}, True),
        (datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), {}, True),
        (datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC), {}, False),
        (datetime(2027, 1, 1, 0, 0, tzinfo=UTC), {}, False),
        (datetime(2027, 1, 1, 0, 0, tzinfo=UTC), {"status": "inactive"}, False),
        (datetime(2027, 1, 1, 0, 0, tzinfo=UTC), {"status": "expired"}, True),
    ],
    ids=["first day", "last day", "day before", "day after", "inactive", "expired"],
)
def test_the_window_contains_the_claim_with_both_ends(
    status: str, submitted_at: datetime, eligibility: dict[str, Any], holds: bool
) -> None:
    verdict = judge(
        "temporal.eligibility_window_contains_claim",
        claim=[{"status": status, "submitted_at": submitted_at}],
        eligibility=[eligibility],
    )
    assert verdict == {"claim-1": holds}


@pytest.mark.parametrize("missing", ["effective_from", "effective_to"])
def test_a_window_without_an_end_does_not_hold(missing: str) -> None:
    verdict = judge(
        "temporal.eligibility_window_contains_claim",
        claim=[{"status": "denied"}],
        eligibility=[{missing: None}],
    )
    assert verdict == {"claim-1": None}


def test_paid_claims_are_never_judged_by_the_window_rule() -> None:
    late = datetime(2030, 1, 1, tzinfo=UTC)
    verdict = judge(
        "temporal.eligibility_window_contains_claim",
        claim=[{"status": "paid", "submitted_at": late}],
        eligibility=[{}],
    )
    assert verdict == {}


def test_one_of_several_windows_is_enough() -> None:
    windows = [
        {},
        {
            "eligibility_id": "elig-2",
            "effective_from": date(2027, 1, 1),
            "effective_to": date(2027, 12, 31),
        },
    ]
    claims = [
        {"claim_id": "in", "status": "denied", "submitted_at": datetime(2027, 5, 1, tzinfo=UTC)},
        {"claim_id": "out", "status": "denied", "submitted_at": datetime(2028, 5, 1, tzinfo=UTC)},
    ]
    verdict = judge("temporal.eligibility_window_contains_claim", claim=claims, eligibility=windows)
    assert verdict == {"in": True, "out": False}
