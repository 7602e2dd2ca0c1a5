"""Dataset files: what a mix means, and every mistake in one."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdm_engine.bundle.dataset import apportioned
from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_engine.errors import AtdmError, ErrorCode, Problem, SpecError
from atdm_engine.model import Dataset
from atdm_resources.store.bundle import read_bundle, shipped_root

HEAD = "description: Test data.\nseed: 1\nmix:\n"
SHIPPED = read_bundle([shipped_root()])


def registry_with(text: str, name: str = "d", extra: tuple[SpecFile, ...] = ()) -> Registry:
    file = SpecFile(f"{name}.yaml", f"healthcare/datasets/{name}.yaml", text)
    return Registry.build([*SHIPPED, file, *extra])


def dataset(mix: str, rest: str = "") -> Dataset:
    return registry_with(HEAD + mix + rest).dataset("healthcare/d")


def problems(text: str, name: str = "d", extra: tuple[SpecFile, ...] = ()) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        registry_with(text, name, extra)
    return list(caught.value.problems)


def test_runs_follow_each_other() -> None:
    found = dataset(
        "- {scenario: active_member_clean, runs: 7}\n"
        "- {scenario: expired_eligibility, runs: 5}\n"
        "- {scenario: active_member_clean, runs: 1}\n",
        "runs_per_shard: 4\n",
    )
    spans = [(part.scenario, part.first, part.last) for part in found.parts]
    assert spans == [
        ("active_member_clean", 1, 7),
        ("expired_eligibility", 8, 12),
        ("active_member_clean", 13, 13),
    ]
    assert (found.runs, found.shards) == (13, 4)


def test_shares_are_exact_and_combined() -> None:
    found = dataset(
        "- scenario: active_member_clean\n"
        "  runs: 1000\n"
        "  constraints:\n"
        "    coverage_type: {choice: {hmo: 3, ppo: 1}}\n"
        "    provider_network: {choice: [in_network, out_of_network]}\n"
        "    diagnosis_code: R51\n"
    )
    runs = Counter[tuple[object, object]]()
    for part in found.parts:
        runs[part.given["coverage_type"], part.given["provider_network"]] += part.runs
        assert part.given["diagnosis_code"] == "R51"
        assert part.effective["member_status"] == "active"
    assert runs == {
        ("hmo", "in_network"): 375,
        ("hmo", "out_of_network"): 375,
        ("ppo", "in_network"): 125,
        ("ppo", "out_of_network"): 125,
    }


def test_values_are_typed_and_null_leaves_it_to_the_generator() -> None:
    found = dataset(
        "- scenario: member_with_dependents\n"
        "  runs: 4\n"
        "  constraints:\n"
        "    dependents: {choice: {1: 1, 2: 1}}\n"
        "    coverage_type: {choice: {null: 1, hmo: 1}}\n"
    )
    values = [(p.given["dependents"], p.given["coverage_type"], p.runs) for p in found.parts]
    assert values == [(1, None, 1), (1, "hmo", 1), (2, None, 1), (2, "hmo", 1)]


def test_a_share_too_small_for_a_run_gets_none() -> None:
    found = dataset(
        "- scenario: active_member_clean\n"
        "  runs: 3\n"
        "  constraints: {claim_status: {choice: {paid: 1000, pending: 1, denied: 0}}}\n"
    )
    assert [(p.given["claim_status"], p.runs) for p in found.parts] == [("paid", 3)]


@given(st.integers(0, 10**6), st.lists(st.floats(0, 1e6), min_size=1, max_size=20).filter(sum))
def test_nothing_is_lost_in_rounding(total: int, weights: list[float]) -> None:
    parts = apportioned(total, weights)
    assert sum(parts) == total
    whole = math.fsum(weights)
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * weight / whole) < 1 + 1e-6


def test_every_mistake_is_reported_at_once() -> None:
    found = problems(
        "description: ''\n"
        "seed: -1\n"
        "cron: 61 * * * *\n"
        "retention: 0\n"
        "restores: true\n"
        "mix:\n"
        "- {scenario: active_member_clean, runs: 0}\n"
    )
    assert {problem.key for problem in found} == {
        "description", "seed", "cron", "retention", "restores", "mix.0.runs",
    }  # fmt: skip
    by_key = {problem.key: problem for problem in found}
    assert "numbers from 0 to 59" in by_key["cron"].allowed
    assert by_key["restores"].nearest == "restore"
    assert by_key["mix.0.runs"].line == 7


def test_what_a_mix_may_not_name() -> None:
    found = problems(
        HEAD
        + "- {scenario: active_member_clan, runs: 1}\n"
        + "- {scenario: contradictory_eligibility, runs: 1}\n"
        + "- {scenario: active_member_clean, runs: 1, constraints: {claim_statis: paid}}\n"
        + "- {scenario: active_member_clean, runs: 9, constraints: "
        + "{claim_status: {choice: {payd: 1, paid: 1}}}}\n"
        + "- {scenario: claim_denial_active_member, runs: 1, constraints: {claim_status: paid}}\n"
        + "- {scenario: active_member_clean, runs: 1, constraints: "
        + "{diagnosis_code: {choice: [R51, R52]}}}\n"
    )
    by_line = {problem.line: problem for problem in found}
    assert sorted(by_line) == [4, 5, 6, 7, 8, 9]
    assert len(found) == 6
    assert by_line[4].nearest == "active_member_clean"
    assert "relational.eligibility_status_matches_member" in by_line[5].found
    assert by_line[6].nearest == "claim_status"
    assert "paid, denied, pending" in by_line[7].allowed
    assert "contradicts" in by_line[8].allowed
    assert "R52" in by_line[9].found


@pytest.mark.parametrize(
    "choice", ["{}", "[]", "{paid: 0}", "{paid: -1, denied: 2}", "{paid: x}", "paid"]
)
def test_weights_have_to_be_usable(choice: str) -> None:
    text = HEAD + (
        "- {scenario: active_member_clean, runs: 1, constraints: {claim_status: {choice: "
        f"{choice}}}}}}}\n"
    )
    assert all(problem.line == 4 for problem in problems(text))


def test_too_many_combinations() -> None:
    values = ", ".join(f"'{number}'" for number in range(40))
    text = HEAD + (
        "- scenario: denied_claim_withdrawn_code\n"
        "  runs: 1\n"
        "  constraints:\n"
        f"    denial_reason: {{choice: [{values}]}}\n"
        f"    procedure_code_description: {{choice: [{values}]}}\n"
    )
    (problem,) = problems(text)
    assert "1600 combinations" in problem.found


def test_a_name_must_leave_room_for_the_clock() -> None:
    (problem,) = problems(HEAD + "- {scenario: active_member_clean, runs: 1}\n", "d" * 33)
    assert "at most 32" in problem.allowed


def test_a_broken_scenario_is_reported_once() -> None:
    broken = SpecFile("x.yaml", "healthcare/odd.yaml", "scenario_id: odd\nrows: {plan: 1}\n")
    found = problems(HEAD + "- {scenario: odd, runs: 1}\n", extra=(broken,))
    assert {problem.file for problem in found} == {"x.yaml"}


def test_the_version_follows_what_shapes_the_data() -> None:
    mix = "- {scenario: active_member_clean, runs: 2}\n- {scenario: expired_eligibility, runs: 2}\n"
    turned = "".join(reversed(mix.splitlines(keepends=True)))
    base = dataset(mix).version
    assert dataset(mix, "cron: 0 1 * * *\nretention: 9\nrestore: true\n").version == base
    other = [
        dataset(turned).version,
        dataset(mix, "runs_per_shard: 3\n").version,
        dataset(mix.replace("runs: 2", "runs: 3")).version,
        registry_with(HEAD.replace("seed: 1", "seed: 2") + mix).dataset("d").version,
    ]
    rule = SpecFile(
        "r.sql", "healthcare/rules/domain.r.sql", "-- R.\nSELECT plan_id, true AS holds FROM plan\n"
    )
    other.append(registry_with(HEAD + mix, extra=(rule,)).dataset("d").version)
    assert len({base, *other}) == 6


def test_unique_numbers_do_not_overlap() -> None:
    found = _with_unique().dataset("d")
    taken: set[int] = set()
    for part in found.parts:
        # One member a run, one or three in a family: the stride is the most that a run can have.
        stride = 3 if part.scenario == "member_with_dependents" else 1
        stride = 2 if part.given.get("dependents") == 1 else stride
        begin = part.number_base + (part.first - 1) * stride
        numbers = set(range(begin, begin + part.runs * stride))
        assert not numbers & taken
        taken |= numbers
    assert taken == set(range(found.numbers))


def test_more_numbers_than_values() -> None:
    with pytest.raises(SpecError) as caught:
        _with_unique("[0-9]")
    (problem,) = caught.value.problems
    assert (problem.key, problem.found) == ("mix", "17 unique numbers")
    assert problem.allowed == "10, as many as member.address_zip has values"


def _with_unique(pattern: str = "[0-9]{5}") -> Registry:
    text = (
        HEAD + "- {scenario: active_member_clean, runs: 5}\n"
        "- {scenario: member_with_dependents, runs: 4, "
        "constraints: {dependents: {choice: [1, 2]}}}\n"
        "- {scenario: active_member_clean, runs: 2}\n"
    )
    old = 'address_zip: {type: text, pattern: "[0-9]{5}", generate: {pattern: "[0-9]{5}"}}'
    new = f'address_zip: {{type: text, unique: true, generate: {{pattern: "{pattern}"}}}}'
    files = [
        SpecFile(file.path, file.name, file.text.replace(old, new))
        for file in SHIPPED
        if "/datasets/" not in file.name
    ]
    family = "address_zip: {sql: parent.address_zip}"
    files = [SpecFile(f.path, f.name, f.text.replace(f"      {family}\n", "")) for f in files]
    return Registry.build([*files, SpecFile("d.yaml", "healthcare/datasets/d.yaml", text)])


def test_an_unknown_dataset() -> None:
    with pytest.raises(AtdmError) as caught:
        Registry.build(SHIPPED).dataset("healthcare/goldn")
    assert caught.value.code == ErrorCode.DATASET_NOT_FOUND
    assert caught.value.details["nearest"] == "healthcare/golden"


def test_the_shipped_ones_hold_every_valid_scenario() -> None:
    registry = Registry.build(SHIPPED)
    valid = {s.name for s in registry.scenarios.values() if not s.spec.violates}
    golden, smoke = registry.dataset("golden"), registry.dataset("smoke")
    assert {part.scenario for part in golden.parts} == valid
    assert {part.scenario for part in smoke.parts} == valid
    assert (golden.runs, smoke.runs) == (100_000, 1_000)
    assert golden.spec.cron
    assert Path(shipped_root() / "schema" / "dataset.json").is_file()
