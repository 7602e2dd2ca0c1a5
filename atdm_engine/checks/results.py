"""The checks of a scenario's data, their outcomes and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from atdm_engine.model import Domain, Scenario

MAX_CASES = 20
"""The most failing rows that are kept of a check."""
_LISTED_CASES = 3
CheckKind = Literal["schema", "references", "rule", "whole"]
"""``whole``: over all shards of a dataset together."""


@dataclass(frozen=True)
class CheckId:
    """A check. ``name`` is unique in its table and has only letters, digits and _."""

    table: str
    name: str
    kind: CheckKind
    description: str
    rule: str | None = None

    @property
    def label(self) -> str:
        """Its name in reports and in ``violates``: the rule, else ``table.name``."""
        return self.rule or f"{self.table}.{self.name}"


@dataclass(frozen=True)
class CheckOutcome:
    """What a check found over all batches.

    ``judged`` counts rows (references: values that refer to something); ``failed`` those among them
    that failed. ``vacuous``: there was nothing to judge. ``cases`` are at most 20 failing rows, as
    JSON values. ``error`` is why the check could not run: it fails then. ``details`` of a failed
    rule name the constraints involved (requirement A-VAL-16).
    """

    check: CheckId
    passed: bool
    judged: int
    failed: int
    vacuous: bool
    cases: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Tally:
    """The running result of one check over batches or shards."""

    judged: int = 0
    failed: int = 0
    cases: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, judged: int, failed: int, cases: Iterable[dict[str, Any]] = ()) -> None:
        """Add the result of a batch or shard; only the first 20 cases are kept."""
        self.judged += judged
        self.failed += failed
        self.cases.extend(islice(cases, MAX_CASES - len(self.cases)))

    def fail(self, error: str | None) -> None:
        """Record why the check could not run; only the first error is kept."""
        self.error = self.error or error

    def outcome(self, check: CheckId) -> CheckOutcome:
        """The result so far."""
        return CheckOutcome(
            check=check,
            passed=self.failed == 0 and self.error is None,
            judged=self.judged,
            failed=self.failed,
            vacuous=self.judged == 0 and self.error is None,
            cases=self.cases,
            error=self.error,
            details=self.details,
        )


def failed_checks(outcomes: Iterable[CheckOutcome]) -> list[dict[str, Any]]:
    """The checks that did not pass: validator, message and details of each (A-AUD-04).

    ``details`` hold at most three of the failing rows.
    """
    return [
        {
            "validator": outcome.check.label,
            "message": outcome.error
            or f"{outcome.failed} of {outcome.judged} rows of {outcome.check.table} break it",
            "details": {
                "table": outcome.check.table,
                "judged": outcome.judged,
                "failed": outcome.failed,
                **outcome.details,
                "cases": outcome.cases[:_LISTED_CASES],
            },
        }
        for outcome in outcomes
        if not outcome.passed
    ]


@dataclass(frozen=True)
class Verdict:
    """Whether the data may be published (``accepted``).

    ``expected_violation``: exactly the rules failed that the scenario declares in ``violates``.
    ``failed`` names rules and ``table.check``s that failed, sorted.
    """

    accepted: bool
    expected_violation: bool
    failed: tuple[str, ...]


def check_ids(domain: Domain, scenario: Scenario) -> tuple[CheckId, ...]:
    """Every check of a scenario, by table in insert order; ``Validator.outcomes`` has the same.

    There is always one: the schema of each table it makes (requirement A-VAL-15).
    """
    found: list[CheckId] = []
    for table in scenario.tables:
        spec = domain.tables[table]
        found.append(
            CheckId(
                table,
                "schema",
                "schema",
                f"Types, keys, NULLs, allowed values, ranges, patterns and markers of {table}.",
            )
        )
        if spec.foreign_keys:
            named = ", ".join(dict.fromkeys(spec.foreign_keys.values()))
            described = f"Every {table} refers to existing rows of {named}."
            found.append(CheckId(table, "references", "references", described))
        found.extend(
            CheckId(table, name.replace(".", "__"), "rule", domain.rules[name].description, name)
            for name in scenario.rules
            if rule_table(domain, scenario, name) == table
        )
    return tuple(found)


def rule_table(domain: Domain, scenario: Scenario, rule: str) -> str:
    """The table that shows a rule: the one it judges if it is made, else the last it reads."""
    judged = domain.rules[rule]
    if judged.table in scenario.tables:
        return judged.table
    return [table for table in scenario.tables if table in judged.tables][-1]


def verdict(scenario: Scenario, outcomes: Sequence[CheckOutcome]) -> Verdict:
    """Whether the data may be published.

    A scenario with ``violates`` is never published. It is an expected violation if exactly those
    rules failed because of rows, and none because of an error.
    """
    failed = tuple(sorted(outcome.check.label for outcome in outcomes if not outcome.passed))
    broken = any(outcome.error for outcome in outcomes)
    wanted = set(scenario.spec.violates)
    if not wanted:
        return Verdict(not failed, False, failed)
    return Verdict(False, set(failed) == wanted and not broken, failed)


def involved_constraints(
    sets: Mapping[str, Sequence[tuple[str, str]]],
    columns: frozenset[tuple[str, str]],
    tables: Sequence[str],
    effective: Mapping[str, Any],
) -> dict[str, Any]:
    """The details of a failed rule: the constraints that set a column of its query.

    ``sets`` gives the (table, column) pairs of each constraint, ``columns`` and ``tables`` are
    those of the query, ``effective`` the request's values where they are known.
    """
    named = [
        name
        for name, pairs in sets.items()
        if any(
            (table, column) in columns or (("", column) in columns and table in tables)
            for table, column in pairs
        )
    ]
    if not named:
        return {}
    details: dict[str, Any] = {"constraints": {name: effective.get(name) for name in named}}
    for key, name in zip(("constraint_a", "constraint_b"), named, strict=False):
        details[key] = f"{name}={effective[name]}" if name in effective else name
    return details
