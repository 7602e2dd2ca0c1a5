"""A resolved request: everything that its rows follow from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from atdm_engine.model import Domain, Scenario
from atdm_engine.spec.constraints import TypedScalar


@dataclass(frozen=True)
class RequestSpec:
    """``given`` are the caller's constraints, ``effective`` those of all constraints, typed.

    ``seed`` lies between 0 and 2**63 - 1, ``as_of`` is aware and in UTC. ``number_base`` is the
    first of the unique numbers that the request has reserved.
    """

    domain: Domain
    scenario: Scenario
    request_id: str
    runs: int
    seed: int
    as_of: datetime
    given: Mapping[str, TypedScalar]
    effective: Mapping[str, TypedScalar]
    number_base: int = 0
