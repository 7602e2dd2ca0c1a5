"""Requirements against scenarios against outcomes of tests: what is exercised and passing.

Rules: the last outcome of a test decides. A requirement is failing if a test of it failed, else
passing if one passed, else never exercised: a skipped test does not exercise it. The requirement
ids are
those of the scenario when the outcome was recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Standing(StrEnum):
    """The standing of a requirement or a scenario."""

    FAILING = "failing"
    PASSING = "passing"
    NEVER = "never_exercised"


@dataclass(frozen=True, slots=True)
class Published:
    """A scenario as it is now. ``key`` is ``<domain>/<name>``."""

    key: str
    description: str
    requirement_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class History:
    """The outcomes of one test with one scenario.

    ``outcome``, ``at`` and ``session`` are those of the last one, ``requirement_ids`` the
    scenario's at that time; ``passed``, ``failed`` (errors among them) and ``skipped`` count all.
    """

    nodeid: str
    scenario: str
    requirement_ids: tuple[str, ...]
    outcome: str
    at: datetime
    session: str
    test_run_id: str
    passed: int
    failed: int
    skipped: int
    flaky: bool

    @property
    def failing(self) -> bool:
        return self.outcome in ("failed", "error")


@dataclass(frozen=True, slots=True)
class Cell:
    """A requirement with a scenario. ``linked``: the scenario names it now."""

    scenario: str
    linked: bool
    standing: Standing
    passing: int
    failing: int
    skipped: int


@dataclass(frozen=True, slots=True)
class RequirementCoverage:
    """A requirement. ``linked``: a published scenario names it now."""

    requirement_id: str
    linked: bool
    standing: Standing
    cells: tuple[Cell, ...]
    tests: tuple[History, ...]


@dataclass(frozen=True, slots=True)
class ScenarioCoverage:
    """A scenario. ``published`` False: it has outcomes, but its file is gone."""

    key: str
    description: str
    published: bool
    requirement_ids: tuple[str, ...]
    standing: Standing
    tests: tuple[History, ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """The coverage: requirements and scenarios by name, tests by nodeid."""

    requirements: tuple[RequirementCoverage, ...]
    scenarios: tuple[ScenarioCoverage, ...]
    tests: tuple[History, ...]

    @property
    def linked(self) -> tuple[RequirementCoverage, ...]:
        """The requirements that a published scenario names."""
        return tuple(found for found in self.requirements if found.linked)

    @property
    def formerly_linked(self) -> tuple[RequirementCoverage, ...]:
        """Requirements with outcomes that no scenario names any more."""
        return tuple(found for found in self.requirements if not found.linked)

    @property
    def without_requirement(self) -> tuple[ScenarioCoverage, ...]:
        """Published scenarios that name no requirement."""
        return tuple(
            found for found in self.scenarios if found.published and not found.requirement_ids
        )

    @property
    def flaky(self) -> tuple[History, ...]:
        return tuple(test for test in self.tests if test.flaky)

    def count(self, standing: Standing) -> int:
        """The number of these requirements with this standing."""
        return sum(found.standing is standing for found in self.linked)

    @property
    def exercised(self) -> int:
        return len(self.linked) - self.count(Standing.NEVER)

    def percent(self, of: int) -> float | None:
        """``of`` in per cent of these requirements, rounded down to a tenth."""
        total = len(self.linked)
        return None if total == 0 else of * 1000 // total / 10


def coverage_of(published: Iterable[Published], histories: Iterable[History]) -> Coverage:
    """The coverage. It does not depend on the order of the arguments."""
    scenarios = {scenario.key: scenario for scenario in published}
    tests = sorted(histories, key=lambda test: (test.nodeid, test.scenario))
    by_scenario: dict[str, list[History]] = {key: [] for key in scenarios}
    by_requirement: dict[str, list[History]] = {}
    naming: dict[str, set[str]] = {}
    for scenario in scenarios.values():
        for requirement in scenario.requirement_ids:
            by_requirement.setdefault(requirement, [])
            naming.setdefault(requirement, set()).add(scenario.key)
    for test in tests:
        by_scenario.setdefault(test.scenario, []).append(test)
        for requirement in dict.fromkeys(test.requirement_ids):
            by_requirement.setdefault(requirement, []).append(test)
    return Coverage(
        requirements=tuple(
            _requirement(name, naming.get(name, set()), by_requirement[name])
            for name in sorted(by_requirement, key=_natural)
        ),
        scenarios=tuple(
            _scenario(key, scenarios.get(key), by_scenario[key]) for key in sorted(by_scenario)
        ),
        tests=tuple(tests),
    )


def _requirement(name: str, naming: set[str], tests: Sequence[History]) -> RequirementCoverage:
    used = {test.scenario for test in tests}
    cells = []
    for scenario in sorted(naming | used):
        through = [test for test in tests if test.scenario == scenario]
        cells.append(
            Cell(
                scenario=scenario,
                linked=scenario in naming,
                standing=_standing(through),
                passing=sum(test.outcome == "passed" for test in through),
                failing=sum(test.failing for test in through),
                skipped=sum(test.outcome == "skipped" for test in through),
            )
        )
    return RequirementCoverage(name, bool(naming), _standing(tests), tuple(cells), tuple(tests))


def _scenario(key: str, published: Published | None, tests: Sequence[History]) -> ScenarioCoverage:
    return ScenarioCoverage(
        key=key,
        description=published.description if published else "",
        published=published is not None,
        requirement_ids=published.requirement_ids if published else (),
        standing=_standing(tests),
        tests=tuple(tests),
    )


def _standing(tests: Iterable[History]) -> Standing:
    standing = Standing.NEVER
    for test in tests:
        if test.failing:
            return Standing.FAILING
        if test.outcome == "passed":
            standing = Standing.PASSING
    return standing


def _natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """FR-2 before FR-10: digits as numbers, everything else as text."""
    parts: list[str] = []
    for letter in name:
        if parts and parts[-1][-1].isdecimal() == letter.isdecimal():
            parts[-1] += letter
        else:
            parts.append(letter)
    return tuple(
        (not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts
    )
