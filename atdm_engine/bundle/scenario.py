"""Builds a ``Scenario`` from its file and its domain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from atdm_engine.bundle.clause_context import ScenarioNames, clause_problems
from atdm_engine.bundle.constraint import constraint_of, merged, unknown_key
from atdm_engine.bundle.domain_tables import DomainTables
from atdm_engine.bundle.model_errors import describe
from atdm_engine.bundle.spec_file import ParsedFile
from atdm_engine.bundle.version import scenario_version
from atdm_engine.errors import Problem
from atdm_engine.generators.id import Id
from atdm_engine.model import Domain, Exposure, Scenario
from atdm_engine.spec.constraints import Constraint
from atdm_engine.spec.scenario import (
    PoissonCount,
    RowGroup,
    ScenarioSpec,
    UniformCount,
    WeightedCount,
    ZipfCount,
)
from atdm_engine.values.scalars import TypedScalar, scalar_text


@dataclass
class ScenarioBuilder:
    """Builds one scenario of ``domain``; the other scenarios of the domain are not read."""

    loaded: ParsedFile[ScenarioSpec]
    domain: Domain
    tables: DomainTables

    def build(self) -> tuple[Scenario | None, list[Problem]]:
        """The scenario, or None and every problem of its file."""
        spec = self.loaded.model
        self.problems: list[Problem] = []
        self.groups = self._groups()
        if self.problems:
            return None, self.problems
        made = {str(group.table) for group in self.groups.values()}
        self.made = tuple(name for name in self.domain.tables if name in made)
        self.constraints = self._constraints()
        defaults = self._defaults()
        for name, group in self.groups.items():
            self._check_group(name, group)
        rules = self._rules()
        exposes = tuple(self._exposes())
        if self.problems:
            return None, self.problems
        scenario = Scenario(
            domain=self.domain.name,
            name=spec.scenario_id,
            spec=spec,
            version="",
            groups=self.groups,
            constraints=self.constraints,
            defaults=defaults,
            rules=rules,
            tables=self.made,
            exposes=exposes,
        )
        return replace(scenario, version=scenario_version(self.domain, scenario)), []

    def _problem(
        self, path: Sequence[object], found: str, allowed: str, known: Sequence[str] = ()
    ) -> None:
        self.problems.append(self.loaded.problem(path, found, allowed, known))

    def _unknown(
        self, path: Sequence[object], word: str, meaning: str, known: Iterable[str]
    ) -> None:
        self.problems.append(self.loaded.unknown(path, word, meaning, known))

    def _groups(self) -> dict[str, RowGroup]:
        spec = self.loaded.model
        groups = spec.row_groups()
        known = sorted(self.tables.known)
        for position, word in enumerate(spec.generators or ()):
            table = word.removeprefix("generate_")
            if table not in self.tables.known:
                words = [f"generate_{name}" for name in known]
                listed = "a table of the domain: " + ", ".join(known)
                self._problem(("generators", position), repr(word), listed, words)
        if spec.generators is not None and len(set(spec.generators)) != len(spec.generators):
            self._problem(("generators",), "a generator twice", "each once; rows for more of one")
        above: list[str] = []
        for name, group in groups.items():
            if spec.rows is not None and group.table not in self.tables.known:
                written = spec.rows[name]
                named = isinstance(written, RowGroup) and written.table is not None
                path = ("rows", name, "table") if named else ("rows", name)
                self._unknown(path, str(group.table), "a table of the domain", known)
            if group.per is not None and group.per not in above:
                self._unknown(("rows", name, "per"), group.per, "a row group above it", above)
            above.append(name)
        if not self.problems and any(
            group.table not in self.domain.tables for group in groups.values()
        ):
            # The table's own file is broken and has its own problems.
            self._problem(("rows",), "a table whose file has problems", "tables that can be read")
        return groups

    def _constraints(self) -> dict[str, Constraint]:
        constraints: dict[str, Constraint] = {}
        for table in self.made:
            for name, spec in self.domain.tables[table].constraints.items():
                try:
                    found = constraint_of(name, spec, table, self.domain.tables)
                    constraints[name] = (
                        merged(constraints[name], found) if name in constraints else found
                    )
                except ValueError as error:
                    self._problem((), f"the constraint {name!r} of {table}", str(error))
        for name, spec in self.loaded.model.constraints.items():
            path = ("constraints", name)
            if name in constraints:
                self._problem(path, repr(name), "a name that no table's constraint has")
                continue
            try:
                found = constraint_of(name, spec, None, self.domain.tables)
            except ValueError as error:
                self._problem(path, describe(spec.sets or name), str(error))
                continue
            if found.sets and found.sets[0][0] not in self.made:
                self._problem((*path, "sets"), repr(spec.sets), "a table that this scenario makes")
            constraints[name] = found
        return constraints

    def _defaults(self) -> dict[str, TypedScalar]:
        defaults = {name: constraint.default for name, constraint in self.constraints.items()}
        for name, value in self.loaded.model.default_constraints.items():
            path = ("default_constraints", name)
            if name not in self.constraints:
                known = sorted(self.constraints)
                self._unknown(path, name, "a constraint of this scenario", known)
            else:
                defaults[name] = self._parsed(path, self.constraints[name], value)
        return defaults

    def _parsed(
        self, path: Sequence[object], constraint: Constraint, value: TypedScalar
    ) -> TypedScalar:
        try:
            typed = constraint.parse(value)
        except ValueError as error:
            known = [scalar_text(option) for option in constraint.values]
            allowed = constraint.allowed() if constraint.values else str(error)
            self._problem(path, repr(scalar_text(value)), allowed, known)
            return None
        problem = unknown_key(self.domain, constraint, typed)
        if problem:
            self._problem(path, repr(scalar_text(typed)), problem)
        return typed

    def _check_group(self, name: str, group: RowGroup) -> None:
        table = str(group.table)
        spec = self.domain.tables[table]
        own = {
            key: constraint
            for key, constraint in self.constraints.items()
            if key in spec.constraints or any(target == table for target, _ in constraint.sets)
        }
        for key, value in group.constraints.items():
            path = ("rows", name, "with", key)
            if key not in own:
                self._unknown(path, key, f"a constraint of {table}", sorted(own))
            else:
                self._parsed(path, own[key], value)
        subjects = {
            key: frozenset(scalar_text(value) for value in constraint.values)
            for key, constraint in self.constraints.items()
        }
        tables = {other: str(found.table) for other, found in self.groups.items()}
        names = ScenarioNames(self._above(group), tables, subjects)
        for column, generator in group.set.items():
            path = ("rows", name, "set", column)
            if column not in spec.columns:
                self._unknown(path, column, f"a column of {table}", spec.columns)
            elif column in spec.key_columns:
                self._problem(path, repr(column), "a column that is not in the key")
            else:
                self.problems += clause_problems(
                    generator,
                    self.tables,
                    table,
                    spec.columns[column],
                    self.loaded.at(*path).problem,
                    names,
                )
        self._check_count(name, group)

    def _above(self, group: RowGroup) -> dict[str, str]:
        """The tables of the rows above a group's rows (``per``), by the names that find them."""
        found: dict[str, str] = {}
        name = group.per
        while name is not None:
            table = str(self.groups[name].table)
            for called in (name, table) if found else ("parent", name, table):
                found.setdefault(called, table)
            name = self.groups[name].per
        return found

    def _check_count(self, name: str, group: RowGroup) -> None:
        path = ("rows", name, "count")
        count = group.count
        if isinstance(count, str):
            integers = sorted(
                key for key, found in self.constraints.items() if found.type == "integer"
            )
            if count not in integers:
                self._unknown(path, count, "a number or an integer constraint", integers)
            else:
                lowest, highest = self.constraints[count].min, self.constraints[count].max
                if not isinstance(lowest, int) or lowest < 0 or not isinstance(highest, int):
                    self._problem(path, repr(count), "a constraint with min (0 or more) and max")
                elif highest > 10_000:
                    self._problem(path, f"max {highest}", "a constraint with max of at most 10000")
        elif isinstance(count, UniformCount) and not 0 <= count.uniform[0] <= count.uniform[1]:
            self._problem((*path, "uniform"), str(count.uniform), "[least, most] with 0 <= least")
        elif isinstance(count, WeightedCount) and (
            min(count.weights) < 0
            or min(count.weights.values()) < 0
            or sum(count.weights.values()) <= 0
        ):
            self._problem(
                (*path, "weights"), describe(count.weights), "counts and weights of 0 or more"
            )

    def _rules(self) -> tuple[str, ...]:
        there = set(self.made) | set(self.domain.reference)
        run = tuple(name for name, rule in self.domain.rules.items() if set(rule.tables) <= there)
        spec = self.loaded.model
        for key, names in (("validators", spec.validators), ("violates", spec.violates)):
            for position, name in enumerate(names):
                if name in run or (
                    name in self.tables.rule_files and name not in self.domain.rules
                ):
                    continue  # The rule's own file is broken and has its own problems.
                if name not in self.domain.rules:
                    self._unknown((key, position), name, "a rule that runs here", run)
                    continue
                missing = sorted(set(self.domain.rules[name].tables) - there)
                allowed = f"a rule whose tables this scenario makes ({', '.join(missing)} not)"
                self._problem((key, position), repr(name), allowed, run)
        return run

    def _exposes(self) -> Iterator[Exposure]:
        spec = self.loaded.model
        if spec.exposes is None:
            for name, group in self.groups.items():
                keys = self.domain.tables[str(group.table)].key_columns
                if len(keys) == 1:
                    yield self._exposure(f"{name}_id", name, keys[0])
            return
        # A table's name means its first row group, so the first group is written last.
        sources = {str(group.table): name for name, group in reversed(self.groups.items())}
        sources.update({name: name for name in self.groups})
        places = [
            f"{source}.{column}"
            for source, group_name in sources.items()
            for column in self.domain.tables[str(self.groups[group_name].table)].columns
        ]
        for name, wanted in spec.exposes.items():
            source, _, column = wanted.rpartition(".")
            if wanted not in places:
                listed = "table.column of a table or row group: " + ", ".join(sorted(sources))
                if source in sources:
                    table = self.domain.tables[str(self.groups[sources[source]].table)]
                    listed = f"a column of {source}: " + ", ".join(table.columns)
                self._problem(("exposes", name), repr(wanted), listed, places)
                continue
            yield self._exposure(name, sources[source], column)

    def _exposure(self, name: str, group_name: str, column: str) -> Exposure:
        table = str(self.groups[group_name].table)
        derived = isinstance(self.domain.tables[table].columns[column].generate, Id)
        row = self._first_row(group_name) if derived else None
        return Exposure(name, table, column, group_name, row)

    def _first_row(self, group_name: str) -> int | None:
        """The place of a group's first row among its table's rows; None if runs differ in it."""
        before = 0
        for name, group in self.groups.items():
            if name == group_name:
                return before if self._at_least_one(group) else None
            if group.table == self.groups[group_name].table:
                total = self._fixed_total(group)
                if total is None:
                    return None
                before += total
        raise AssertionError(f"{group_name} is one of the scenario's row groups")

    def _fixed_total(self, group: RowGroup) -> int | None:
        if not isinstance(group.count, int):
            return None
        above = self._fixed_total(self.groups[group.per]) if group.per else 1
        return None if above is None else above * group.count

    def _at_least_one(self, group: RowGroup) -> bool:
        if group.per and not self._at_least_one(self.groups[group.per]):
            return False
        count = group.count
        if isinstance(count, int):
            return count > 0
        if isinstance(count, str):
            lowest = self.constraints[count].min if count in self.constraints else None
            return isinstance(lowest, int) and lowest > 0
        if isinstance(count, UniformCount):
            return count.uniform[0] > 0
        if isinstance(count, WeightedCount):
            return all(number > 0 for number, weight in count.weights.items() if weight > 0)
        return isinstance(count, ZipfCount) and not isinstance(count, PoissonCount)
