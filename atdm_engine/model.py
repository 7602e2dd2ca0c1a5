"""The resolved domain model: what the specification files mean once they are read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from atdm_engine.spec.constraints import Constraint
from atdm_engine.spec.dataset import DatasetSpec
from atdm_engine.spec.domain import DomainSpec
from atdm_engine.spec.scenario import RowGroup, ScenarioSpec
from atdm_engine.spec.table import TableSpec
from atdm_engine.values.scalars import TypedScalar


@dataclass(frozen=True)
class Rule:
    """A rule file: ``table`` is whose key its query selects first, ``tables`` all it reads."""

    name: str
    description: str
    sql: str
    table: str
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Exposure:
    """What a lease hands out under ``name``: a column of a row of ``group``.

    ``row`` is the row's index within the run when every run has it at the same place, so that a key
    follows from the run id alone; None when the row must be read.
    """

    name: str
    table: str
    column: str
    group: str
    row: int | None


@dataclass(frozen=True)
class Scenario:
    """A scenario with everything it takes from its domain resolved.

    ``version`` covers all that shapes its data. ``groups`` are in file order, ``tables`` (those it
    makes rows of) in insert order. ``defaults`` has an entry for every one of ``constraints``.
    """

    domain: str
    name: str
    spec: ScenarioSpec
    version: str
    groups: Mapping[str, RowGroup]
    constraints: Mapping[str, Constraint]
    defaults: Mapping[str, TypedScalar]
    rules: tuple[str, ...]
    tables: tuple[str, ...]
    exposes: tuple[Exposure, ...]

    @property
    def key(self) -> str:
        """``<domain>/<scenario>``, unique in the bundle."""
        return f"{self.domain}/{self.name}"


@dataclass(frozen=True)
class MixPart:
    """Test runs of a dataset that are made alike: numbers ``first`` to ``last``, both included.

    ``given`` are the constraints that the mix sets, ``effective`` those of all constraints.
    ``number_base`` is what unique numbers are counted from, so that no part takes another's: run n
    has the numbers from ``number_base + (n - 1) * stride`` on. It may be negative.
    """

    scenario: str
    first: int
    last: int
    given: Mapping[str, TypedScalar]
    effective: Mapping[str, TypedScalar]
    number_base: int

    @property
    def runs(self) -> int:
        """How many test runs it has."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Dataset:
    """A dataset with its mix resolved: ``parts`` follow each other from run 1 to ``runs``.

    ``version`` covers all that shapes its data and all that judges it. ``numbers`` is how many
    unique numbers it takes, from 0 on.
    """

    domain: str
    name: str
    spec: DatasetSpec
    version: str
    parts: tuple[MixPart, ...]
    numbers: int = 0

    @property
    def key(self) -> str:
        """``<domain>/<dataset>``, unique in the bundle."""
        return f"{self.domain}/{self.name}"

    @property
    def runs(self) -> int:
        """How many test runs there are in all."""
        return self.parts[-1].last

    @property
    def shards(self) -> int:
        """How many shards of test runs there are."""
        return -(-self.runs // self.spec.runs_per_shard)


@dataclass(frozen=True)
class Domain:
    """A domain: ``tables`` in insert order, ``vocabularies`` by (locale, provider).

    ``reference`` rows are typed as their tables, without ``test_run_id``.
    """

    name: str
    spec: DomainSpec
    tables: Mapping[str, TableSpec]
    rules: Mapping[str, Rule] = field(default_factory=dict)
    reference: Mapping[str, pa.Table] = field(default_factory=dict)
    scenarios: Mapping[str, Scenario] = field(default_factory=dict)
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    vocabularies: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
