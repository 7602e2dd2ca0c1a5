"""A resolved request: everything that its rows follow from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from atdm_engine.generation.plan import GenerationPlan
from atdm_engine.model import Domain, Scenario
from atdm_engine.spec.constraints import TypedScalar


@dataclass(frozen=True)
class RequestSpec:
    """``plan`` is the scenario with all constraints, ``given`` are those of the caller, typed.

    ``seed`` lies between 0 and 2**63 - 1, ``as_of`` is aware and in UTC. ``number_base`` is the
    first of the unique numbers that the request has reserved.
    """

    plan: GenerationPlan
    request_id: str
    runs: int
    seed: int
    as_of: datetime
    given: Mapping[str, TypedScalar]
    number_base: int = 0

    @property
    def domain(self) -> Domain:
        """The scenario's domain."""
        return self.plan.domain

    @property
    def scenario(self) -> Scenario:
        """The scenario that the rows are of."""
        return self.plan.scenario

    @property
    def effective(self) -> Mapping[str, TypedScalar]:
        """The values of all constraints: the given ones and the defaults."""
        return self.plan.constraints
