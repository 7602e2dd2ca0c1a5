"""The generator of each column of each row group, after constraints and overrides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.counts import MAX_ROWS_PER_RUN, count_range, max_rows, resolved_count
from atdm_engine.generators.base import GeneratorModel, Value, check
from atdm_engine.generators.case import Case
from atdm_engine.generators.constant import Constant
from atdm_engine.generators.context import ColumnContext, Finding
from atdm_engine.generators.references import References
from atdm_engine.generators.unique import Unique
from atdm_engine.model import Domain, Scenario
from atdm_engine.spec.scenario import RowGroup
from atdm_engine.spec.table import ColumnSpec, TableSpec
from atdm_engine.values.scalars import TypedScalar


@dataclass(frozen=True)
class GenerationPlan:
    """A scenario with the constraints of a request."""

    domain: Domain
    scenario: Scenario
    constraints: Mapping[str, TypedScalar]

    def group(self, name: str) -> RowGroup:
        """The row group of this name."""
        return self.scenario.groups[name]

    def table_name(self, group: str) -> str:
        """The table that a row group makes rows of."""
        return self.scenario.groups[group].table or group

    def table(self, group: str) -> TableSpec:
        """The specification of a row group's table."""
        return self.domain.tables[self.table_name(group)]

    def constraint(self, group: str, name: str) -> TypedScalar:
        """A constraint's value for a row group: pinned by ``with``, else the request's."""
        pinned = self.group(group).constraints
        if name not in pinned:
            return self.constraints.get(name)
        constraint = self.scenario.constraints.get(name)
        return constraint.parse(pinned[name]) if constraint else pinned[name]

    @cached_property
    def generators(self) -> Mapping[tuple[str, str], Value]:
        """The generator of every (row group, column)."""
        return {
            (group, column): self._generator(group, column, spec)
            for group in self.scenario.groups
            for column, spec in self.table(group).columns.items()
        }

    def _generator(self, group: str, column: str, spec: ColumnSpec) -> Value:
        overrides = self.group(group).set
        if column in overrides:
            return overrides[column]
        table = self.table_name(group)
        for constraint in self.scenario.constraints.values():
            if (table, column) in constraint.sets:
                value = self.constraint(group, constraint.name)
                if value is not None:
                    return value
        try:
            return default_generator(spec)
        except ValueError as error:
            raise ValueError(f"{group}.{column}: {error}") from error

    @cached_property
    def uniques(self) -> Mapping[tuple[str, str], Unique]:
        """The columns, by (table, column), whose values are made of unique numbers."""
        return {
            (table, column): unique
            for table in self.scenario.tables
            for column, unique in unique_columns(self.domain, table).items()
        }

    @cached_property
    def rows_per_run(self) -> Mapping[str, int]:
        """The most rows of each table that a run can have."""
        return max_rows(self.scenario, self.constraints)

    @cached_property
    def stride(self) -> int:
        """How many unique numbers a run takes (0: none of its tables has a unique column)."""
        return max((self.rows_per_run[table] for table, _ in self.uniques), default=0)

    def fixed(self, group: str, name: str) -> tuple[bool, TypedScalar]:
        """Whether a column or constraint has one value for all rows of a group, and which."""
        if "." in name:
            return False, None
        if name not in self.table(group).columns:
            if name not in self.scenario.constraints:
                raise ValueError(f"{name} is neither a column nor a constraint")
            return True, self.constraint(group, name)
        value = self.generators[group, name]
        for _ in range(16):
            if not isinstance(value, GeneratorModel):
                return True, value
            if value.modified:
                return False, None
            if isinstance(value, Constant):
                return True, value.constant
            if not isinstance(value, Case):
                return False, None
            known, subject = (False, None) if value.case == name else self.fixed(group, value.case)
            if not known:
                return False, None
            value = value.branch(subject)
        return False, None

    def ancestors(self, group: str) -> Iterator[str]:
        """The groups that a group is made ``per``, nearest first."""
        above = self.group(group).per
        while above is not None:
            yield above
            above = self.group(above).per

    def problems(self) -> list[str]:
        """What is wrong, as ``<row group>.<column>: why``; empty when rows can be made."""
        found: list[str] = []
        try:
            generators = self.generators
        except ValueError as error:
            return [str(error)]
        for (group, column), value in generators.items():
            try:
                problem = self._problem(group, column, value)
            except ValueError as error:
                problem = str(error)
            if problem:
                found.append(f"{group}.{column}: {problem}")
        try:
            for table, most in self.rows_per_run.items():
                if most > MAX_ROWS_PER_RUN:
                    found.append(f"{table}: a run may have {most} rows; most {MAX_ROWS_PER_RUN}")
        except ValueError as error:
            found.append(str(error))
        return found

    def _problem(self, group: str, column: str, value: Value) -> str | None:
        spec = self.table(group).columns[column]
        unique = self.uniques.get((self.table_name(group), column))
        if unique is not None:
            if value is not default_generator(spec) and value != unique.generator:
                return "a unique column cannot be set"
            _ = unique.capacity
        context = _PlanContext(
            spec.type,
            spec.nullable,
            luhn=spec.luhn,
            locale=self.domain.spec.locale,
            vocabularies=self.domain.vocabularies,
            plan=self,
            group=group,
            may_refer_to_nothing=spec.nullable,
        )
        first = next(check(value, context), None)
        return str(first) if first else None

    def always_has_rows(self, group: str) -> bool:
        """Whether every run has a row of a group."""
        chain = [group, *self.ancestors(group)]
        counts = (resolved_count(self.group(name), self.constraints) for name in chain)
        return all(count_range(count)[0] > 0 for count in counts)


@dataclass(frozen=True, kw_only=True)
class _PlanContext(ColumnContext):
    """A column of a row group. Names that its file holds were checked with the file."""

    plan: GenerationPlan
    group: str
    may_refer_to_nothing: bool

    def fixed(self, name: str) -> tuple[bool, TypedScalar]:
        return self.plan.fixed(self.group, name)

    def reference(self, path: Sequence[object], table: str) -> Iterator[Finding]:
        plan = self.plan
        if table not in plan.domain.tables and table not in plan.scenario.groups:
            yield Finding(tuple(path), table, "a table or a row group")
            return
        if any(table in (above, plan.table_name(above)) for above in plan.ancestors(self.group)):
            return
        groups = [
            group for group in plan.scenario.groups if table in (group, plan.table_name(group))
        ]
        if table in plan.domain.tables and self.group in groups:
            return
        shared = plan.domain.reference.get(table)
        if self.may_refer_to_nothing or (shared is not None and len(shared)):
            return
        if not any(plan.always_has_rows(group) for group in groups):
            may = "may have no row" if groups else "has no row"
            allowed = "a table with a row in every run, or a nullable column"
            yield Finding(tuple(path), f"{table}, of which a run {may}", allowed)


def default_generator(spec: ColumnSpec) -> Value:
    """What a column is made of when nothing overrides it; ValueError when nothing says so."""
    if spec.generate is not None:
        return spec.generate
    if spec.references is not None:
        return References(references=spec.references)
    if spec.values:
        return spec.values[0]
    if spec.nullable:
        return None
    raise ValueError("nothing says how it is made: generate, references, values or nullable")


def unique_columns(domain: Domain, table: str) -> dict[str, Unique]:
    """The columns of a table that are made of unique numbers."""
    found: dict[str, Unique] = {}
    for name, spec in domain.tables[table].columns.items():
        if not spec.unique or spec.generate is None or spec.generate.names_rows:
            continue
        path = f"{domain.name}.{table}.{name}"
        found[name] = Unique(path, spec.generate, spec.type, spec.luhn)
    return found


def require_sound(plan: GenerationPlan) -> None:
    """Raise SPEC_INVALID with every problem of a plan."""
    problems = plan.problems()
    if problems:
        raise AtdmError(
            ErrorCode.SPEC_INVALID,
            f"scenario {plan.scenario.key} cannot be made: " + "; ".join(problems),
            {"problems": problems},
        )
