"""The resolved model: domains, scenarios and datasets after their files are read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_engine.spec.constraints import Constraint
from atdm_engine.spec.dataset import DatasetSpec
from atdm_engine.spec.domain import DomainSpec
from atdm_engine.spec.scenario import RowGroup, ScenarioSpec
from atdm_engine.spec.table import TableSpec
from atdm_engine.values.scalars import TypedScalar


@dataclass(frozen=True)
class Rule:
    """A rule file. ``table`` is the one whose key the query selects first, ``tables`` are all."""

    name: str
    description: str
    sql: str
    table: str
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Exposure:
    """A value that a lease hands out as ``name``: a column of the first row of ``group``.

    ``row`` is the row's index among the table's rows of a run, if it is the same in every run: the
    key then follows from the run id alone. None: the value must be read from the rows.
    """

    name: str
    table: str
    column: str
    group: str
    row: int | None


@dataclass(frozen=True)
class Scenario:
    """A scenario, resolved against its domain.

    ``version`` covers all that shapes its data. ``groups`` are in file order, ``tables`` (those it
    makes rows of) in insert order. ``defaults`` has an entry for each of ``constraints``.
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
    """Test runs of a dataset with the same constraints: runs ``first`` to ``last``, inclusive.

    ``given`` are the constraints that the mix sets, ``effective`` the values of all constraints.
    Run n has the unique numbers from ``number_base + (n - 1) * stride`` on, so that no two parts
    share a number. ``number_base`` may be negative.
    """

    scenario: str
    first: int
    last: int
    given: Mapping[str, TypedScalar]
    effective: Mapping[str, TypedScalar]
    number_base: int

    @property
    def runs(self) -> int:
        """The number of test runs."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Dataset:
    """A dataset with its mix resolved: ``parts`` cover the runs 1 to ``runs`` in order.

    ``version`` covers all that shapes its data and all that checks it. ``numbers`` is the number
    of unique numbers that it takes, from 0 on.
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
        """The number of test runs in all."""
        return self.parts[-1].last

    @property
    def shards(self) -> int:
        """The number of shards of test runs."""
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

    def reference_tables(self) -> dict[str, pa.Table]:
        """The reference rows as the target holds them: with ``test_run_id``, which is NULL."""
        return {
            name: rows.append_column(RUN_COLUMN, pa.nulls(len(rows), pa.string()))
            for name, rows in self.reference.items()
        }
