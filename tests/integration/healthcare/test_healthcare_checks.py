"""What the healthcare domain refuses: bad constraints, contradictions, tampered rows."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.checks.results import verdict
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.batches import generate
from tests.support.healthcare_requests import (
    CLAIM_RULE,
    DENIAL_RULE,
    STATUS_RULE,
    WINDOW_RULE,
    failures,
    outcomes_of,
    plan_request,
    shipped_registry,
)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return shipped_registry()


@pytest.mark.parametrize("dependents", [0, 9, "two"])
def test_the_number_of_dependents_is_bounded(registry: Registry, dependents: Any) -> None:
    with pytest.raises(AtdmError) as caught:
        plan_request(registry, "member_with_dependents", dependents=dependents)
    assert caught.value.code == ErrorCode.CONSTRAINT_INVALID


def test_the_denial_rule_fails_alone_for_valid_codes_and_a_blank_reason(
    registry: Registry,
) -> None:
    """Requirement A-VAL-13: a way to break the rule that nothing else catches."""
    spec = plan_request(
        registry, "claim_denial_active_member", procedure_code="99213", denial_reason="  "
    )
    outcomes = outcomes_of(spec, generate(spec, 1, 5))
    assert failures(outcomes) == [DENIAL_RULE]
    (outcome,) = [found for found in outcomes if not found.passed]
    assert (outcome.judged, outcome.failed) == (5, 5)
    assert outcome.cases
    assert not verdict(spec.scenario, outcomes).accepted


def test_an_empty_reason_fails_the_schema_too(registry: Registry) -> None:
    """Requirement A-VAL-10."""
    spec = plan_request(
        registry, "claim_denial_active_member", procedure_code="99213", denial_reason=""
    )
    found = outcomes_of(spec, generate(spec, 1, 5))
    failed = {(outcome.check.table, outcome.check.kind) for outcome in found if not outcome.passed}
    assert failed == {("claim", "schema"), ("claim", "rule")}


@pytest.mark.parametrize(
    ("scenario", "constraints", "broken"),
    [
        ("active_member_clean", {"member_status": "inactive"}, [STATUS_RULE]),
        (
            "out_of_network_pending_claim",
            {"eligibility_window": "future"},
            [WINDOW_RULE],
        ),
        (
            "out_of_network_pending_claim",
            {"eligibility_window": "expired_last_year", "member_status": "inactive"},
            [STATUS_RULE, WINDOW_RULE],
        ),
        ("active_member_clean", {"eligibility_window": "future"}, []),
    ],
)
def test_contradictory_constraints_are_caught_by_the_rules(
    registry: Registry, scenario: str, constraints: dict[str, Any], broken: list[str]
) -> None:
    """Requirement A-VAL-06: every rule that fails is reported."""
    spec = plan_request(registry, scenario, **constraints)
    outcomes = outcomes_of(spec, generate(spec, 1, 50))
    assert sorted(failures(outcomes)) == broken
    assert verdict(spec.scenario, outcomes).accepted is (not broken)


def test_rules_about_nothing_are_shown_as_vacuous(registry: Registry) -> None:
    spec = plan_request(registry, "active_member_clean")
    outcomes = {found.check.rule: found for found in outcomes_of(spec, generate(spec, 1, 10))}
    assert outcomes[DENIAL_RULE].vacuous
    assert outcomes[WINDOW_RULE].vacuous
    assert not outcomes[STATUS_RULE].vacuous
    assert outcomes[STATUS_RULE].judged == 10


@pytest.mark.parametrize(
    ("constraints", "code"),
    [
        ({"claim_stattus": "paid"}, ErrorCode.CONSTRAINT_INVALID),
        ({"claim_status": "refused"}, ErrorCode.CONSTRAINT_INVALID),
        ({"provider_network": "IN_NETWORK"}, ErrorCode.CONSTRAINT_INVALID),
        ({"procedure_code": "12345"}, ErrorCode.CONSTRAINT_INVALID),
        ({"diagnosis_code": "PC-1"}, ErrorCode.CONSTRAINT_INVALID),
        ({"procedure_code_is_valid": "false"}, ErrorCode.CONSTRAINT_INVALID),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else str(value),
)
def test_unknown_constraints_and_values_are_refused(
    registry: Registry, constraints: dict[str, Any], code: ErrorCode
) -> None:
    """Requirements A-GEN-13, A-REF-05."""
    with pytest.raises(AtdmError) as caught:
        plan_request(registry, "active_member_clean", **constraints)
    assert caught.value.code == code
    assert next(iter(constraints)) in str(caught.value) + json.dumps(caught.value.details)


def test_a_pinned_constraint_is_a_contradiction(registry: Registry) -> None:
    with pytest.raises(AtdmError) as caught:
        plan_request(registry, "claim_denial_active_member", claim_status="paid")
    assert caught.value.code == ErrorCode.CONSTRAINT_CONTRADICTION


def test_a_constraint_that_could_have_no_effect_is_a_contradiction(registry: Registry) -> None:
    """The claim names the run's own code: a shared one asked for would be passed over silently."""
    with pytest.raises(AtdmError) as caught:
        plan_request(registry, "denied_claim_withdrawn_code", procedure_code="99213")
    assert caught.value.code == ErrorCode.CONSTRAINT_CONTRADICTION
    assert "claim.procedure_code" in caught.value.message


@pytest.mark.parametrize(
    ("table", "column", "value", "broken"),
    [
        ("plan", "name", "Gold Health Plan", ["schema"]),
        ("provider", "name", "Riverside Clinic", ["schema"]),
        ("provider", "npi_fake", "1234567897", ["schema"]),
        ("provider", "npi_fake", "123456789", ["schema"]),
        ("member", "first_name", "Maria", ["schema"]),
        ("member", "last_name", "fake_Lopez", ["schema"]),
        ("member", "address_line1", "12 Main St", ["schema"]),
        ("member", "address_city", "Boston", ["schema"]),
        ("member", "address_state", "MA", ["schema"]),
        ("member", "address_zip", "0213", ["schema"]),
        ("member", "status", "gone", ["schema"]),
        ("member", "last_name", "FAKE_123-45-6789", ["schema"]),
        ("claim", "denial_reason", "see 123-45-6789", ["schema"]),
        ("claim", "denial_reason", None, ["schema"]),
        ("claim", "procedure_code", "99999", ["references"]),
        ("claim", "provider_id", "prov-none", ["references"]),
        ("eligibility", "effective_to", date(2020, 1, 1), ["schema", WINDOW_RULE]),
        ("eligibility", "member_id", "m-none", ["references"]),
        ("member", "plan_id", "plan-none", ["references"]),
    ],
)
def test_a_row_that_was_tampered_with_is_caught(
    registry: Registry, table: str, column: str, value: Any, broken: list[str]
) -> None:
    """Requirements A-VAL-08 to A-VAL-12, A-VAL-14: one bad cell in fifty runs."""
    spec = plan_request(registry, "claim_denial_active_member", runs=50)
    batch = generate(spec, 1, 50)
    position = batch[table].schema.get_field_index(column)
    cells = batch[table][column].to_pylist()
    cells[7] = value
    kind = batch[table].schema.field(column).type
    batch[table] = batch[table].set_column(position, column, pa.array(cells, kind))
    outcomes = outcomes_of(spec, batch)
    assert sorted(failures(outcomes)) == sorted(broken)
    assert {found.failed for found in outcomes if not found.passed} == {1}


def test_a_claim_of_a_missing_member_is_caught_twice(registry: Registry) -> None:
    """Requirements A-VAL-02, A-VAL-14: by its rule, and as a reference to nothing."""
    spec = plan_request(registry, "active_member_clean", runs=50)
    batch = generate(spec, 1, 50)
    for table in ("member", "eligibility"):
        batch[table] = batch[table].slice(1)
    outcomes = outcomes_of(spec, batch)
    assert failures(outcomes) == ["references", CLAIM_RULE]
    assert {found.failed for found in outcomes if not found.passed} == {1}
