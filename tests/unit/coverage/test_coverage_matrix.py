"""Requirements against scenarios against outcomes: the judgement, whatever the input."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdm_services.coverage.matrix import History, Published, Standing, coverage_of

AT = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
REQUIREMENTS = ["FR-1", "FR-2", "FR-10", "NFR-1"]
SCENARIOS = ["shop/a", "shop/b", "shop/c"]
OUTCOMES = ["passed", "failed", "error", "skipped"]


def published(key: str, *requirements: str) -> Published:
    return Published(key, f"What {key} is for.", requirements)


def history(
    outcome: str, *requirements: str, scenario: str = "shop/a", nodeid: str = "t.py::one"
) -> History:
    return History(
        nodeid=nodeid,
        scenario=scenario,
        requirement_ids=requirements,
        outcome=outcome,
        at=AT,
        session="s",
        test_run_id="r",
        passed=1,
        failed=0,
        skipped=0,
        flaky=False,
    )


@pytest.mark.parametrize(
    ("outcomes", "standing"),
    [
        ([], Standing.NEVER),
        (["skipped"], Standing.NEVER),
        (["passed"], Standing.PASSING),
        (["passed", "skipped"], Standing.PASSING),
        (["failed"], Standing.FAILING),
        (["error"], Standing.FAILING),
        (["passed", "passed", "failed"], Standing.FAILING),
        (["skipped", "error"], Standing.FAILING),
    ],
)
def test_how_a_requirement_stands(outcomes: list[str], standing: Standing) -> None:
    tests = [history(one, "FR-1", nodeid=f"t::{n}") for n, one in enumerate(outcomes)]
    found = coverage_of([published("shop/a", "FR-1")], tests)
    (requirement,) = found.requirements
    assert requirement.standing is standing
    assert found.scenarios[0].standing is standing
    assert found.count(standing) == 1
    assert found.exercised == (standing is not Standing.NEVER)


def test_what_counts_is_what_the_scenario_named_at_that_time() -> None:
    found = coverage_of(
        [published("shop/a", "FR-2"), published("shop/b")],
        [history("passed", "FR-1"), history("failed", "FR-9", scenario="shop/gone")],
    )
    assert [one.requirement_id for one in found.linked] == ["FR-2"]
    assert found.linked[0].standing is Standing.NEVER
    former = {one.requirement_id: one for one in found.formerly_linked}
    assert former["FR-1"].standing is Standing.PASSING
    assert former["FR-9"].standing is Standing.FAILING
    assert [cell.linked for cell in former["FR-1"].cells] == [False]
    assert [one.key for one in found.without_requirement] == ["shop/b"]
    gone = next(one for one in found.scenarios if one.key == "shop/gone")
    assert (gone.published, gone.standing) == (False, Standing.FAILING)
    assert (found.percent(found.exercised), found.percent(1)) == (0.0, 100.0)


def test_nothing_at_all_has_no_percentage() -> None:
    found = coverage_of([], [])
    assert found.percent(0) is None
    assert found.exercised == 0


def test_shares_are_rounded_down() -> None:
    found = coverage_of([published("shop/a", *(f"FR-{n}" for n in range(3000)))], [])
    assert found.percent(2999) == 99.9


def test_requirements_are_in_the_order_of_people() -> None:
    names = ["FR-10", "FR-9", "B2", "FR-1", "10", "9", "FR-1a", "", "FR"]
    found = coverage_of([published("shop/a", *names)], [])
    assert [one.requirement_id for one in found.requirements] == [
        "", "9", "10", "B2", "FR", "FR-1", "FR-1a", "FR-9", "FR-10",
    ]  # fmt: skip


scenarios = st.lists(
    st.builds(
        Published,
        st.sampled_from(SCENARIOS),
        st.just("what"),
        st.lists(st.sampled_from(REQUIREMENTS), unique=True).map(tuple),
    ),
    unique_by=lambda one: one.key,
)
histories = st.lists(
    st.builds(
        History,
        nodeid=st.sampled_from(["t::1", "t::2", "t::3"]),
        scenario=st.sampled_from([*SCENARIOS, "shop/gone"]),
        requirement_ids=st.lists(st.sampled_from([*REQUIREMENTS, "OLD-1"]), max_size=3).map(tuple),
        outcome=st.sampled_from(OUTCOMES),
        at=st.just(AT),
        session=st.just("s"),
        test_run_id=st.just("r"),
        passed=st.integers(0, 3),
        failed=st.integers(0, 3),
        skipped=st.integers(0, 3),
        flaky=st.booleans(),
    ),
    unique_by=lambda one: (one.nodeid, one.scenario),
)


@given(scenarios, histories, st.randoms())
def test_every_count_adds_up_and_order_does_not_matter(
    files: list[Published], tests: list[History], random: object
) -> None:
    found = coverage_of(files, tests)
    shuffled_files, shuffled_tests = list(files), list(tests)
    random.shuffle(shuffled_files)  # type: ignore[attr-defined]
    random.shuffle(shuffled_tests)  # type: ignore[attr-defined]
    assert coverage_of(shuffled_files, shuffled_tests) == found

    assert {one.requirement_id for one in found.linked} == {
        name for file in files for name in file.requirement_ids
    }
    assert sum(found.count(standing) for standing in Standing) == len(found.linked)
    assert found.exercised == found.count(Standing.PASSING) + found.count(Standing.FAILING)
    for requirement in found.requirements:
        own = [test for test in tests if requirement.requirement_id in test.requirement_ids]
        assert sorted(own, key=lambda one: (one.nodeid, one.scenario)) == list(requirement.tests)
        assert any(cell.failing for cell in requirement.cells) == (
            requirement.standing is Standing.FAILING
        )
        assert sum(cell.passing + cell.failing + cell.skipped for cell in requirement.cells) == len(
            own
        )
        assert requirement.linked == any(cell.linked for cell in requirement.cells)
    assert sum(len(one.tests) for one in found.scenarios) == len(tests)


@given(scenarios, histories)
def test_a_test_that_starts_to_fail_never_makes_it_better(
    files: list[Published], tests: list[History]
) -> None:
    before = coverage_of(files, tests)
    worse = [dataclasses.replace(tests[0], outcome="failed"), *tests[1:]] if tests else []
    after = coverage_of(files, worse)
    assert after.count(Standing.PASSING) <= before.count(Standing.PASSING)
    assert after.count(Standing.FAILING) >= before.count(Standing.FAILING)
