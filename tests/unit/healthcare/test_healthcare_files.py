"""The healthcare files say what the requirements say: columns, values, keys, defaults, rules."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import get_args

import pytest
import yaml

from atdm_engine.bundle.json_schema import json_schema
from atdm_engine.generators.id import Id
from atdm_engine.spec.domain import DomainSpec
from atdm_engine.spec.scenario import ScenarioSpec, SchemaKind
from atdm_engine.spec.table import TableSpec

BUNDLE = Path(__file__).parents[3] / "scenarios"
HEALTHCARE = BUNDLE / "healthcare"
STATUS_RULE = "relational.eligibility_status_matches_member"
CLAIM_RULE = "relational.claim_references_existing_member"
DENIAL_RULE = "domain.denial_requires_invalid_code"
WINDOW_RULE = "temporal.eligibility_window_contains_claim"
THREE = {STATUS_RULE, CLAIM_RULE, WINDOW_RULE}


def table(name: str) -> TableSpec:
    text = (HEALTHCARE / "tables" / f"{name}.yaml").read_text(encoding="utf-8")
    return TableSpec.model_validate(yaml.safe_load(text))


def scenario(name: str) -> ScenarioSpec:
    text = (HEALTHCARE / f"{name}.yaml").read_text(encoding="utf-8")
    return ScenarioSpec.model_validate(yaml.safe_load(text))


SCENARIOS = sorted(path.stem for path in HEALTHCARE.glob("*.yaml") if path.name != "domain.yaml")


@pytest.mark.parametrize(
    ("name", "prefix", "columns"),
    [
        ("plan", "plan", "plan_id name coverage_type effective_date"),
        ("provider", "prov", "provider_id name network_status npi_fake"),
        (
            "member",
            "m",
            "member_id status first_name last_name date_of_birth address_line1 address_city "
            "address_state address_zip plan_id",
        ),
        ("eligibility", "elig", "eligibility_id member_id effective_from effective_to status"),
        (
            "claim",
            "claim",
            "claim_id member_id provider_id procedure_code diagnosis_code status submitted_at "
            "denial_reason",
        ),
        ("procedure_code", "PC", "code description is_valid"),
        ("diagnosis_code", "DC", "code description is_valid"),
    ],
)
def test_columns_and_keys(name: str, prefix: str, columns: str) -> None:
    """Requirements A-ENT-01 to A-ENT-08, A-ID-03, A-ID-04."""
    spec = table(name)
    assert list(spec.columns) == columns.split()
    assert spec.key == next(iter(spec.columns))
    key = spec.columns[str(spec.key)].generate
    assert isinstance(key, Id)
    assert key.id == prefix
    nullable = [column for column, kind in spec.columns.items() if kind.nullable]
    assert nullable == (["denial_reason"] if name == "claim" else [])


@pytest.mark.parametrize(
    ("name", "column", "values"),
    [
        ("plan", "coverage_type", ["hmo", "ppo", "epo", "pos"]),
        ("provider", "network_status", ["in_network", "out_of_network"]),
        ("member", "status", ["active", "inactive"]),
        ("eligibility", "status", ["active", "inactive", "expired"]),
        ("claim", "status", ["paid", "denied", "pending"]),
    ],
)
def test_allowed_values(name: str, column: str, values: list[str]) -> None:
    """Requirement A-VAL-09: the five enumerations."""
    assert table(name).columns[column].values == values


def test_references_follow_the_cardinalities() -> None:
    """Requirement A-ENT-09."""
    found = {
        (name, column): kind.references
        for name in ("plan", "provider", "member", "eligibility", "claim")
        for column, kind in table(name).columns.items()
        if kind.references
    }
    assert found == {
        ("member", "plan_id"): "plan",
        ("eligibility", "member_id"): "member",
        ("claim", "member_id"): "member",
        ("claim", "provider_id"): "provider",
        ("claim", "procedure_code"): "procedure_code",
        ("claim", "diagnosis_code"): "diagnosis_code",
    }


@pytest.mark.parametrize(
    ("name", "validity"),
    [
        ("procedure_code", {"99213": True, "99214": True, "70553": True, "00000": False}),
        ("diagnosis_code", {"Z00.00": True, "M54.5": True, "R51": True, "ZZZ.99": False}),
    ],
)
def test_reference_rows(name: str, validity: dict[str, bool]) -> None:
    """Requirements A-REF-01, A-REF-02."""
    with (HEALTHCARE / "reference" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["code"]: row["is_valid"] == "true" for row in rows} == validity
    assert all(row["description"] for row in rows)


def test_every_name_carries_the_marker() -> None:
    """Requirements A-VAL-08, A-VAL-11, A-VAL-12."""
    text = (HEALTHCARE / "domain.yaml").read_text(encoding="utf-8")
    spec = DomainSpec.model_validate(yaml.safe_load(text))
    starts = {column for column, marker in spec.markers.items() if marker.starts_with == "FAKE_"}
    assert starts == {
        "plan.name",
        "provider.name",
        "member.first_name",
        "member.last_name",
        "member.address_line1",
        "member.address_city",
    }
    assert spec.markers["member.address_state"].equals == "ZZ"
    assert spec.forbidden


@pytest.mark.parametrize(
    ("name", "tags", "requirements", "validators", "defaults"),
    [
        (
            "active_member_clean",
            {"happy-path"},
            ["FR-001", "FR-005", "FR-010"],
            THREE,
            "active in_network active current paid",
        ),
        (
            "claim_denial_active_member",
            {"headline", "denial"},
            ["FR-001", "FR-005", "FR-010", "FR-011"],
            THREE | {DENIAL_RULE},
            "active out_of_network active current denied 00000 Z00.00 invalid_procedure_code",
        ),
        (
            "expired_eligibility",
            {"temporal", "denial"},
            ["FR-001", "FR-010", "FR-011"],
            THREE | {DENIAL_RULE},
            "active in_network expired expired_last_year denied 00000 Z00.00 expired_eligibility",
        ),
        (
            "out_of_network_pending_claim",
            {"pending", "multi-attribute"},
            ["FR-001", "FR-010", "FR-011"],
            THREE,
            "active out_of_network active current pending 70553 M54.5",
        ),
        (
            "inactive_member_with_history",
            {"soft-delete", "history"},
            ["FR-010", "FR-011"],
            THREE,
            "inactive in_network inactive current paid 99213 Z00.00",
        ),
    ],
)
def test_the_five_scenarios(
    name: str, tags: set[str], requirements: list[str], validators: set[str], defaults: str
) -> None:
    """Requirements A-SCN-01 to A-SCN-05; A-SCN-06: one row of each of the five tables."""
    spec = scenario(name)
    names = (
        "member_status provider_network eligibility_status eligibility_window claim_status "
        "procedure_code diagnosis_code denial_reason"
    )
    assert spec.scenario_id == name
    assert set(spec.tags) == tags
    assert spec.linked_requirement_ids == requirements
    assert set(spec.validators) == validators
    assert dict(spec.default_constraints) == dict(
        zip(names.split(), defaults.split(), strict=False)
    )
    groups = spec.row_groups()
    assert [group.table for group in groups.values()] == [
        "plan",
        "provider",
        "member",
        "eligibility",
        "claim",
    ]
    assert {group.count for group in groups.values()} == {1}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_describes_itself(name: str) -> None:
    spec = scenario(name)
    assert spec.scenario_id == name
    assert spec.description.endswith(".")
    assert spec.description.count(".") == 1, "one sentence"
    assert spec.tags
    assert spec.linked_requirement_ids
    assert spec.validators
    assert set(spec.violates) <= set(spec.validators)


def test_beyond_the_five() -> None:
    """Requirements A-ENT-11, A-SCN-14, A-GEN-11."""
    assert set(SCENARIOS) >= {
        "denied_and_pending_claims",
        "member_with_dependents",
        "prior_authorization_required",
        "expired_subscription",
        "contradictory_eligibility",
        "denied_claim_withdrawn_code",
    }


@pytest.mark.parametrize(
    "path", sorted(HEALTHCARE.rglob("*.yaml")), ids=lambda path: path.relative_to(BUNDLE).as_posix()
)
def test_every_file_names_its_json_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    marker = "# yaml-language-server: $schema="
    assert first.startswith(marker)
    kind = "domain" if path.name == "domain.yaml" else "scenario"
    kind = {"tables": "table", "datasets": "dataset"}.get(path.parent.name, kind)
    named = (path.parent / first.removeprefix(marker)).resolve()
    assert named == (BUNDLE / "schema" / f"{kind}.json").resolve()
    assert named.is_file()


@pytest.mark.parametrize("kind", get_args(SchemaKind))
def test_the_schema_files_are_those_of_the_models(kind: SchemaKind) -> None:
    """`atdm schema KIND > scenarios/schema/KIND.json` writes them anew."""
    stored = json.loads((BUNDLE / "schema" / f"{kind}.json").read_text(encoding="utf-8"))
    assert stored == json_schema(kind)
