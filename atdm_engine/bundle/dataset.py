"""Builds a ``Dataset`` from its file and its domain."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from atdm_engine.bundle.spec_file import ParsedFile
from atdm_engine.bundle.version import dataset_version
from atdm_engine.errors import AtdmError, Problem
from atdm_engine.generation.datasets import dataset_id
from atdm_engine.generation.plan import GenerationPlan, unique_columns
from atdm_engine.generation.request import resolve
from atdm_engine.model import Dataset, Domain, MixPart, Scenario
from atdm_engine.random.run_ids import MAX_RUNS
from atdm_engine.spec.dataset import DatasetSpec, MixEntry, Shares
from atdm_engine.values.fields import Scalar
from atdm_engine.values.scalars import TypedScalar, scalar_json

MAX_COMBINATIONS = 1_000
"""The most combinations of shares that one entry of a mix may have."""

MAX_NAME = 32
"""A version's id holds the name, the clock and six more characters, and has at most 63."""


@dataclass
class DatasetBuilder:
    """Builds one dataset of ``domain``, whose scenarios are built.

    ``incomplete``: a scenario of the domain is broken, so unknown names are not reported.
    """

    name: str
    loaded: ParsedFile[DatasetSpec]
    domain: Domain
    incomplete: bool = False
    problems: list[Problem] = field(default_factory=list)

    def build(self) -> tuple[Dataset | None, list[Problem]]:
        """The dataset, or None and every problem of its file."""
        spec = self.loaded.model
        if len(self.name) > MAX_NAME:
            allowed = f"a file name of at most {MAX_NAME} characters"
            self.problems.append(self.loaded.problem((), repr(self.name), allowed))
        if spec.runs > MAX_RUNS:
            self.problems.append(
                self.loaded.problem(("mix",), f"{spec.runs} runs in all", f"at most {MAX_RUNS}")
            )
        planned: list[tuple[MixPart, GenerationPlan]] = []
        for position, entry in enumerate(spec.mix):
            scenario = self._scenario(position, entry)
            if scenario is not None:
                after = planned[-1][0].last if planned else 0
                planned += self._parts(position, entry, scenario, after)
        made = sum(part.runs for part, _ in planned)
        if self.problems or not planned or (self.incomplete and made < spec.runs):
            return None, self.problems
        parts, numbers = self._numbered(planned)
        if self.problems:
            return None, self.problems
        version = dataset_version(self.domain, spec)
        return Dataset(self.domain.name, self.name, spec, version, tuple(parts), numbers), []

    def _scenario(self, position: int, entry: MixEntry) -> Scenario | None:
        path = ("mix", position, "scenario")
        known = [name for name, found in self.domain.scenarios.items() if not found.spec.violates]
        scenario = self.domain.scenarios.get(entry.scenario)
        if scenario is None:
            if not self.incomplete:
                meaning = f"a scenario of {self.domain.name}"
                self.problems.append(self.loaded.unknown(path, entry.scenario, meaning, known))
            return None
        if scenario.spec.violates:
            found = f"{entry.scenario!r}, which breaks {', '.join(scenario.spec.violates)}"
            allowed = "a scenario whose data is valid: " + (", ".join(known) or "there is none")
            self.problems.append(self.loaded.problem(path, found, allowed))
            return None
        return scenario

    def _parts(
        self, position: int, entry: MixEntry, scenario: Scenario, after: int
    ) -> list[tuple[MixPart, GenerationPlan]]:
        """The parts of one entry, whose runs follow run ``after``, with the plan of each."""
        path = ("mix", position, "constraints")
        shares = [value for value in entry.constraints.values() if isinstance(value, Shares)]
        count = math.prod(len(value.weights()) for value in shares)
        if count > MAX_COMBINATIONS:
            allowed = f"at most {MAX_COMBINATIONS}: write several entries"
            self.problems.append(
                self.loaded.problem(path, f"{count} combinations of shares", allowed)
            )
            return []
        combinations = list(_combinations(entry.constraints))
        runs = apportioned(entry.runs, [weight for _, weight in combinations])
        parts: list[tuple[MixPart, GenerationPlan]] = []
        for (given, _), share in zip(combinations, runs, strict=True):
            try:
                spec = resolve(
                    self.domain, scenario, given, runs=max(1, share), seed=0,
                    request_id=dataset_id(self.domain.name, self.name),
                )  # fmt: skip
            except AtdmError as error:
                self._report(path, error)
                continue
            if share:
                first = after + 1
                after += share
                part = MixPart(scenario.name, first, after, spec.given, spec.effective, 0)
                parts.append((part, spec.plan))
        return parts

    def _report(self, path: tuple[object, ...], error: AtdmError) -> None:
        """Report the problems of one combination; the registry drops those that repeat."""
        listed = error.details.get("problems") or [{"message": error.message}]
        for one in listed:
            problem: Mapping[str, Any] = one if isinstance(one, dict) else {"message": str(one)}
            name = str(problem.get("constraint", ""))
            message = str(problem["message"])
            nearest = problem.get("nearest")
            known = [str(nearest)] if nearest else []
            found = str(problem.get("found") or message)
            allowed = str(problem.get("allowed") or message)
            place = (*path, name) if name else path
            self.problems.append(self.loaded.problem(place, repr(found), allowed, known))

    def _numbered(
        self, planned: Sequence[tuple[MixPart, GenerationPlan]]
    ) -> tuple[list[MixPart], int]:
        """The parts, each with unique numbers of its own, and how many numbers all of them take.

        Numbers start at zero: after a restore, requests take the numbers behind the dataset's.
        """
        numbered: list[MixPart] = []
        start = 0
        for part, plan in planned:
            base = start - (part.first - 1) * plan.stride
            numbered.append(replace(part, number_base=base))
            start += part.runs * plan.stride
        made = dict.fromkeys(table for _, plan in planned for table in plan.scenario.tables)
        for table in made:
            for column, unique in unique_columns(self.domain, table).items():
                if start > unique.capacity:
                    found = f"{start} unique numbers"
                    allowed = f"{unique.capacity}, as many as {table}.{column} has values"
                    self.problems.append(self.loaded.problem(("mix",), found, allowed))
        return numbered, start


def _combinations(
    constraints: Mapping[str, Scalar | Shares],
) -> Iterator[tuple[dict[str, TypedScalar], float]]:
    """Every combination of values with its weight, in the file's order, the last one fastest."""
    names = list(constraints)
    options: list[list[tuple[Scalar, float]]] = []
    for value in constraints.values():
        if isinstance(value, Shares):
            total = sum(weight for _, weight in value.weights())
            options.append([(option, weight / total) for option, weight in value.weights()])
        else:
            options.append([(value, 1.0)])
    for chosen in itertools.product(*options):
        values: dict[str, TypedScalar] = {
            name: option for name, (option, _) in zip(names, chosen, strict=True)
        }
        yield values, math.prod((weight for _, weight in chosen), start=1.0)


def apportioned(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` in whole parts by weight (largest remainder method)."""
    whole = math.fsum(weights)
    shares = [total * weight / whole for weight in weights]
    parts = [math.floor(share) for share in shares]
    # Ties go to the first, so that the same file always gives the same parts.
    order = sorted(range(len(parts)), key=lambda place: (parts[place] - shares[place], place))
    for place in order[: total - sum(parts)]:
        parts[place] += 1
    return parts


def described_part(part: MixPart) -> dict[str, Any]:
    """A part of a mix as JSON values, for reports."""
    given = {name: scalar_json(value) for name, value in part.given.items()}
    return {"scenario": part.scenario, "runs": part.runs, "constraints": given}
