"""The healthcare domain, generated and checked: every scenario, several seeds, many runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.checks.results import verdict
from atdm_engine.generation.batches import generate
from tests.support.healthcare_requests import (
    AS_OF,
    RUNS,
    SCENARIOS,
    failures,
    outcomes_of,
    plan_request,
    rows_of,
    shipped_registry,
)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return shipped_registry()


def texts(batch: Mapping[str, pa.Table]) -> Iterator[str]:
    for table in batch.values():
        for column in table.columns:
            if pa.types.is_string(column.type):
                yield from (value for value in column.to_pylist() if value is not None)


@pytest.mark.parametrize("seed", [0, 1, 424242, 2**63 - 1])
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_valid_for_every_seed(registry: Registry, name: str, seed: int) -> None:
    spec = plan_request(registry, name, seed)
    batch = generate(spec, 1, RUNS)
    outcomes = outcomes_of(spec, batch)
    expected = list(spec.scenario.spec.violates)
    assert failures(outcomes) == expected
    found = verdict(spec.scenario, outcomes)
    assert found.accepted is (not expected)
    assert found.expected_violation is bool(expected)
    for table in batch.values():
        assert table.num_rows >= RUNS
        assert len(set(table["test_run_id"].to_pylist())) == RUNS


@pytest.mark.parametrize(
    "as_of",
    [
        datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2024, 2, 29, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2100, 3, 1, 0, 0, 1, tzinfo=UTC),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_valid_at_any_time(
    registry: Registry, name: str, as_of: datetime
) -> None:
    spec = plan_request(registry, name, 31, 200, as_of)
    batch = generate(spec, 1, 200)
    assert failures(outcomes_of(spec, batch)) == list(spec.scenario.spec.violates)
    assert max(batch["claim"]["submitted_at"].to_pylist()) <= as_of


@pytest.mark.parametrize("name", SCENARIOS)
def test_time_goes_forward(registry: Registry, name: str) -> None:
    rows = rows_of(generate(plan_request(registry, name, 7), 1, RUNS))
    plans = {row["plan_id"]: row for row in rows["plan"]}
    members = {row["member_id"]: row for row in rows["member"]}
    windows: dict[str, list[dict[str, Any]]] = {}
    for window in rows["eligibility"]:
        member = members[window["member_id"]]
        assert member["date_of_birth"] < window["effective_from"] < window["effective_to"]
        assert plans[member["plan_id"]]["effective_date"] < window["effective_from"]
        windows.setdefault(window["member_id"], []).append(window)
    assert set(windows) == set(members)
    for claim in rows["claim"]:
        assert claim["submitted_at"] <= AS_OF
        assert claim["submitted_at"].date() > members[claim["member_id"]]["date_of_birth"]
        if name != "expired_eligibility":
            (window,) = windows[claim["member_id"]]
            day = claim["submitted_at"].date()
            assert window["effective_from"] <= day <= window["effective_to"]


@pytest.mark.parametrize(
    ("window", "starts", "ends"),
    [("current", (-240, -120), (125, 245)), ("expired_last_year", (-760, -730), (-395, -365)),
     ("future", (15, 45), (380, 410))],
)  # fmt: skip
def test_windows_lie_where_they_say(
    registry: Registry, window: str, starts: tuple[int, int], ends: tuple[int, int]
) -> None:
    """Requirement A-GEN-09."""
    spec = plan_request(registry, "active_member_clean", 3, eligibility_window=window)
    rows = rows_of(generate(spec, 1, RUNS))["eligibility"]
    for column, (low, high) in (("effective_from", starts), ("effective_to", ends)):
        days = [(row[column] - AS_OF.date()).days for row in rows]
        assert low <= min(days)
        assert max(days) <= high
        assert len(set(days)) > (high - low) // 2


def test_the_headline_scenario_row_by_row(registry: Registry) -> None:
    batch = generate(plan_request(registry, "claim_denial_active_member", 11), 1, 20)
    rows = rows_of(batch)
    tables = ("plan", "provider", "member", "eligibility", "claim")
    assert set(batch) == set(tables)
    for plan, provider, member, window, claim in zip(
        *(rows[table] for table in tables), strict=True
    ):
        run = plan["test_run_id"]
        assert plan["plan_id"] == f"plan-{run}"
        assert provider["provider_id"] == f"prov-{run}"
        assert member["member_id"] == f"m-{run}"
        assert window["eligibility_id"] == f"elig-{run}"
        assert claim["claim_id"] == f"claim-{run}"
        assert member["plan_id"] == plan["plan_id"]
        assert window["member_id"] == claim["member_id"] == member["member_id"]
        assert claim["provider_id"] == provider["provider_id"]
        assert provider["network_status"] == "out_of_network"
        assert (member["status"], window["status"]) == ("active", "active")
        assert (claim["status"], claim["denial_reason"]) == ("denied", "invalid_procedure_code")
        assert (claim["procedure_code"], claim["diagnosis_code"]) == ("00000", "Z00.00")
        assert member["address_state"] == "ZZ"


def test_a_lease_of_the_headline_hands_out_both_names_of_the_claim(registry: Registry) -> None:
    exposes = {
        exposure.name: (exposure.table, exposure.column, exposure.row)
        for exposure in registry.scenario("claim_denial_active_member").exposes
    }
    assert exposes["denied_claim_id"] == exposes["claim_id"] == ("claim", "claim_id", 0)
    assert set(exposes) >= {"plan_id", "provider_id", "member_id", "eligibility_id"}


def test_one_member_with_a_denied_and_a_pending_claim(registry: Registry) -> None:
    """Requirement A-ENT-11."""
    spec = plan_request(registry, "denied_and_pending_claims", 5, denial_reason="no_authorization")
    rows = rows_of(generate(spec, 1, RUNS))
    by_run: dict[str, list[dict[str, Any]]] = {}
    for claim in rows["claim"]:
        by_run.setdefault(claim["test_run_id"], []).append(claim)
    assert len(by_run) == RUNS
    for run, claims in by_run.items():
        assert [claim["status"] for claim in claims] == ["denied", "pending"]
        assert [claim["claim_id"] for claim in claims] == [f"claim-{run}", f"claim-{run}-1"]
        assert [claim["denial_reason"] for claim in claims] == ["no_authorization", None]
        assert {claim["member_id"] for claim in claims} == {f"m-{run}"}


@pytest.mark.parametrize("dependents", [1, 2, 8])
def test_dependents_belong_to_the_subscriber(registry: Registry, dependents: int) -> None:
    spec = plan_request(registry, "member_with_dependents", 5, dependents=dependents)
    rows = rows_of(generate(spec, 1, 200))
    families: dict[str, list[dict[str, Any]]] = {}
    for member in rows["member"]:
        families.setdefault(member["test_run_id"], []).append(member)
    assert len(families) == 200
    for run, (subscriber, *children) in families.items():
        assert subscriber["member_id"] == f"m-{run}"
        assert len(children) == dependents
        for child in children:
            for column in ("last_name", "plan_id", "address_line1", "address_city", "address_zip"):
                assert child[column] == subscriber[column]
            years = (child["date_of_birth"] - subscriber["date_of_birth"]).days / 365
            assert 22 <= years <= 33
    assert len(rows["eligibility"]) == 200 * (1 + dependents)
    assert len({row["member_id"] for row in rows["eligibility"]}) == 200 * (1 + dependents)
    if dependents > 1:
        different = [
            len({child["first_name"] for child in children}) > 1
            for _, *children in families.values()
        ]
        assert sum(different) > 190


def test_codes_of_the_run_itself(registry: Registry) -> None:
    """Requirements A-ID-04, A-GEN-11."""
    rows = rows_of(generate(plan_request(registry, "denied_claim_withdrawn_code", 5), 1, 50))
    for claim, procedure, diagnosis in zip(
        rows["claim"], rows["procedure_code"], rows["diagnosis_code"], strict=True
    ):
        run = claim["test_run_id"]
        assert claim["procedure_code"] == procedure["code"] == f"PC-{run}"
        assert claim["diagnosis_code"] == diagnosis["code"] == f"DC-{run}"
        assert (procedure["is_valid"], diagnosis["is_valid"]) == (False, True)


def luhn(digits: str) -> bool:
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def test_nothing_looks_like_a_person(registry: Registry) -> None:
    """Requirements A-VAL-11, A-VAL-12: 100,000 runs."""
    assert luhn("79927398713")
    assert luhn("808401234567893"), "1234567893 is the standard's own example"
    spec = plan_request(registry, "active_member_clean", 99, runs=100_000)
    batch = generate(spec, 1, 100_000)
    shape = re.compile(r"\d{3}-\d{2}-\d{4}")
    assert shape.search("id 123-45-6789")
    assert not any(shape.search(text) for text in texts(batch))
    numbers = batch["provider"]["npi_fake"].to_pylist()
    assert all(re.fullmatch("[0-9]{10}", number) for number in numbers)
    assert [n for n in numbers if luhn(n) or luhn("80840" + n)] == []
    assert len(set(numbers)) > 99_900
    for table, column in [
        ("plan", "name"),
        ("provider", "name"),
        ("member", "first_name"),
        ("member", "last_name"),
        ("member", "address_line1"),
        ("member", "address_city"),
    ]:
        names = set(batch[table][column].to_pylist())
        assert all(re.fullmatch(r"FAKE_\S.*\S", name) for name in names), (table, column)
    assert set(batch["member"]["address_state"].to_pylist()) == {"ZZ"}


def test_breadth(registry: Registry) -> None:
    spec = plan_request(registry, "active_member_clean", 13, runs=20_000)
    batch = generate(spec, 1, 20_000)

    def distinct(table: str, column: str) -> int:
        return len(set(batch[table][column].to_pylist()))

    assert distinct("member", "first_name") >= 300
    assert distinct("member", "last_name") >= 300
    assert distinct("member", "address_city") >= 300
    assert distinct("member", "address_line1") >= 3_000
    assert distinct("member", "address_zip") >= 10_000
    assert distinct("provider", "name") >= 300
    assert distinct("plan", "effective_date") >= 1_000
    assert distinct("plan", "name") == 4
    coverage = Counter(batch["plan"]["coverage_type"].to_pylist())
    assert [kind for kind, _ in coverage.most_common()] == ["ppo", "hmo", "epo", "pos"]


def test_ages_are_those_of_a_population(registry: Registry) -> None:
    spec = plan_request(registry, "active_member_clean", 17, runs=20_000)
    births: list[date] = generate(spec, 1, 20_000)["member"]["date_of_birth"].to_pylist()
    ages = [(AS_OF.date() - birth) / timedelta(days=365) for birth in births]
    assert 3 <= min(ages) < 4
    assert 90 < max(ages) <= 95
    share = {
        name: sum(low <= age < high for age in ages) / len(ages)
        for name, low, high in (
            ("child", 3, 18),
            ("adult", 18, 65),
            ("old", 65, 85),
            ("very", 85, 96),
        )
    }
    assert 0.15 < share["child"] < 0.25
    assert 0.55 < share["adult"] < 0.68
    assert 0.10 < share["old"] < 0.22
    assert 0.005 < share["very"] < 0.04


def test_claims_come_in_office_hours(registry: Registry) -> None:
    spec = plan_request(registry, "active_member_clean", 19, runs=20_000)
    times: list[datetime] = generate(spec, 1, 20_000)["claim"]["submitted_at"].to_pylist()
    assert AS_OF - timedelta(days=28) <= min(times) < AS_OF - timedelta(days=27)
    assert AS_OF - timedelta(days=1) < max(times) <= AS_OF
    office = sum(8 <= moment.hour < 18 for moment in times) / len(times)
    assert 0.75 < office < 0.95
    weekend = sum(moment.weekday() >= 5 for moment in times) / len(times)
    assert weekend < 0.12
    assert len(set(times)) > 19_000


def test_columns_do_not_move_together(registry: Registry) -> None:
    """Requirement A-GEN-05: a clinic's name says nothing about a member's, nor one date another."""
    spec = plan_request(registry, "active_member_clean", 23, runs=5_000)
    batch = generate(spec, 1, 5_000)
    first = batch["member"]["first_name"].to_pylist()
    for table, column in (("provider", "name"), ("member", "last_name"), ("member", "address_zip")):
        pairs = set(zip(first, batch[table][column].to_pylist(), strict=True))
        assert len(pairs) > 4_900, (table, column)


@pytest.mark.parametrize(
    ("words", "scenario"),
    [
        ("active member with a denied claim", "claim_denial_active_member"),
        ("one denied and one pending claim", "denied_and_pending_claims"),
        ("family with children", "member_with_dependents"),
        ("expired coverage", "expired_eligibility"),
        ("lapsed subscription", "expired_subscription"),
        ("prior authorization", "prior_authorization_required"),
        ("inactive member", "inactive_member_with_history"),
        ("out of network pending", "out_of_network_pending_claim"),
        ("happy path", "active_member_clean"),
        ("withdrawn code", "denied_claim_withdrawn_code"),
    ],
)
def test_each_scenario_is_found_by_what_a_tester_would_type(
    registry: Registry, words: str, scenario: str
) -> None:
    best = registry.search(words.split(), {})[0]
    assert best.scenario.name == scenario
