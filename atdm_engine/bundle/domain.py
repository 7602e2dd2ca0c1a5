"""Builds a ``Domain`` from its files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import duckdb
import pyarrow as pa

from atdm_engine.bundle.constraint import constraint_of
from atdm_engine.bundle.dataset import DatasetBuilder
from atdm_engine.bundle.domain_tables import DomainTables, empty_connection, insert_order
from atdm_engine.bundle.reference_rows import read_reference
from atdm_engine.bundle.rule import read_rule
from atdm_engine.bundle.scenario import ScenarioBuilder
from atdm_engine.bundle.spec_file import Model, ParsedFile, SpecFile, parse_or_report
from atdm_engine.bundle.table import check_table
from atdm_engine.bundle.version import with_parents
from atdm_engine.errors import Problem
from atdm_engine.generation.plan import GenerationPlan
from atdm_engine.model import Dataset, Domain, Rule, Scenario
from atdm_engine.patterns.pattern import parse_pattern
from atdm_engine.spec.dataset import DatasetSpec
from atdm_engine.spec.domain import DomainSpec
from atdm_engine.spec.scenario import ScenarioSpec
from atdm_engine.spec.table import TableSpec
from atdm_engine.values.scalars import scalar_text

Words = Mapping[tuple[str, str], tuple[str, ...]]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,50}\Z")
_RESERVED_DOMAINS = frozenset({"atdm", "public", "information_schema", "pg_catalog", "pg_toast"})


@dataclass
class DomainFiles:
    """The files of one domain by kind."""

    domain: SpecFile | None = None
    tables: dict[str, SpecFile] = field(default_factory=dict)
    rules: dict[str, SpecFile] = field(default_factory=dict)
    reference: dict[str, SpecFile] = field(default_factory=dict)
    scenarios: list[SpecFile] = field(default_factory=list)
    datasets: dict[str, SpecFile] = field(default_factory=dict)

    def first(self) -> SpecFile | None:
        """Any file of the domain, to name in a problem of the whole folder."""
        groups = (self.tables, self.rules, self.reference, self.datasets)
        for files in groups:
            if files:
                return next(iter(files.values()))
        return self.scenarios[0] if self.scenarios else None


def build_domain(
    name: str, files: DomainFiles, vocabularies: Words
) -> tuple[Domain | None, list[Problem]]:
    """The domain, or None and every problem of its files."""
    builder = _DomainBuilder(name, files, vocabularies)
    domain = builder.build()
    return (None if builder.problems else domain), builder.problems


@dataclass
class _DomainBuilder:
    name: str
    files: DomainFiles
    vocabularies: Words
    problems: list[Problem] = field(default_factory=list)

    def build(self) -> Domain | None:
        spec = self._domain_spec()
        tables = self._load_all(TableSpec, self.files.tables)
        known = sorted(self.files.tables)
        scenarios = self._load_scenarios()
        listing = DomainTables(
            tables=tables,
            known=known,
            subjects=_subjects(tables, scenarios),
            vocabularies=self.vocabularies.keys(),
            locale=spec.model.locale if spec else "en_US",
            rule_files=self.files.rules.keys(),
        )
        connection = empty_connection(tables)
        for table in tables:
            self.problems.extend(check_table(table, listing, connection))
        order, circles = insert_order(listing)
        self.problems.extend(circles)
        if spec:
            self.problems.extend(_domain_problems(spec, listing))
        reference = self._reference(tables)
        rules = self._rules(tables, connection)
        connection.close()
        domain = Domain(
            name=self.name,
            spec=spec.model if spec else DomainSpec(description="(unreadable)"),
            tables={table: tables[table].model for table in order},
            rules=rules,
            reference={table: reference[table] for table in order if table in reference},
            vocabularies=dict(self.vocabularies),
        )
        domain = replace(domain, scenarios=self._scenarios(domain, scenarios, listing))
        return replace(domain, datasets=self._datasets(domain))

    def _domain_spec(self) -> ParsedFile[DomainSpec] | None:
        first = self.files.domain or self.files.first()
        where = first.path if first else self.name
        if not _NAME.match(self.name) or self.name in _RESERVED_DOMAINS:
            allowed = "a folder name of lower-case letters, digits and _ that is no reserved schema"
            self.problems.append(Problem(where, 0, "(folder)", repr(self.name), allowed))
        if self.files.domain is None:
            found = f"no {self.name}/domain.yaml"
            self.problems.append(Problem(where, 0, "(folder)", found, "a domain.yaml beside it"))
            return None
        return parse_or_report(DomainSpec, self.files.domain, self.problems)

    def _load_all(
        self, model: type[Model], files: Mapping[str, SpecFile]
    ) -> dict[str, ParsedFile[Model]]:
        found = {}
        for name, file in sorted(files.items()):
            if not _NAME.match(name):
                allowed = "a file name of lower-case letters, digits and _"
                self.problems.append(Problem(file.path, 0, "(file name)", repr(name), allowed))
            loaded = parse_or_report(model, file, self.problems)
            if loaded is not None:
                found[name] = loaded
        return found

    def _load_scenarios(self) -> list[ParsedFile[ScenarioSpec]]:
        found: dict[str, ParsedFile[ScenarioSpec]] = {}
        for file in self.files.scenarios:
            loaded = parse_or_report(ScenarioSpec, file, self.problems)
            if loaded is None:
                continue
            name = loaded.model.scenario_id
            if name in found:
                allowed = f"a name of its own; {found[name].file} has this one"
                self.problems.append(loaded.problem(("scenario_id",), repr(name), allowed))
            elif loaded.model.domain not in (None, self.name):
                found_domain = repr(loaded.model.domain)
                allowed = f"{self.name}, the folder it lies in"
                self.problems.append(loaded.problem(("domain",), found_domain, allowed))
            else:
                found[name] = loaded
        return [found[name] for name in sorted(found)]

    def _reference(self, tables: Mapping[str, ParsedFile[TableSpec]]) -> dict[str, pa.Table]:
        found: dict[str, pa.Table] = {}
        for name, file in sorted(self.files.reference.items()):
            if name not in self.files.tables:
                allowed = "the name of a table: " + ", ".join(sorted(self.files.tables))
                self.problems.append(Problem(file.path, 0, "(file name)", repr(name), allowed))
            elif name in tables and not self._broken(tables[name].file):
                found[name], problems = read_reference(tables[name].model, file.text, file.path)
                self.problems.extend(problems)
        return found

    def _broken(self, file: str) -> bool:
        return any(problem.file == file for problem in self.problems)

    def _rules(
        self, tables: Mapping[str, ParsedFile[TableSpec]], connection: duckdb.DuckDBPyConnection
    ) -> dict[str, Rule]:
        found: dict[str, Rule] = {}
        for name, file in sorted(self.files.rules.items()):
            rule, problems = read_rule(
                name, file.text, file.path, tables, self.files.tables, connection
            )
            self.problems.extend(problems)
            if rule is not None:
                found[name] = rule
        return found

    def _scenarios(
        self, domain: Domain, scenarios: list[ParsedFile[ScenarioSpec]], listing: DomainTables
    ) -> dict[str, Scenario]:
        found = {}
        broken = {
            name
            for name, file in self.files.tables.items()
            if name not in domain.tables or self._broken(file.path)
        }
        for loaded in scenarios:
            made = {str(group.table) for group in loaded.model.row_groups().values()}
            if broken.intersection(with_parents(made, domain.tables)):
                # Its tables are broken and have their own problems.
                continue
            scenario, problems = ScenarioBuilder(loaded, domain, listing).build()
            self.problems.extend(problems)
            if scenario is not None:
                self.problems.extend(_generation_problems(loaded, domain, scenario))
                found[scenario.name] = scenario
        return found

    def _datasets(self, domain: Domain) -> dict[str, Dataset]:
        # A broken scenario has its own problems; a mix without it cannot be checked.
        there = {file.path for file in self.files.scenarios}
        broken = frozenset(problem.file for problem in self.problems if problem.file in there)
        found = {}
        for name, loaded in self._load_all(DatasetSpec, self.files.datasets).items():
            dataset, problems = DatasetBuilder(name, loaded, domain, bool(broken)).build()
            self.problems.extend(problems)
            if dataset is not None:
                found[name] = dataset
        return found


def _generation_problems(
    loaded: ParsedFile[ScenarioSpec], domain: Domain, scenario: Scenario
) -> Iterator[Problem]:
    """Why no rows can be made with the scenario's defaults, found without making any."""
    for text in GenerationPlan(domain, scenario, scenario.defaults).problems():
        place, _, why = text.partition(": ")
        group = place.partition(".")[0]
        known = group in scenario.groups
        yield loaded.problem(("rows", group) if known else ("rows",), place, why or text)


def _subjects(
    tables: Mapping[str, ParsedFile[TableSpec]], scenarios: list[ParsedFile[ScenarioSpec]]
) -> dict[str, frozenset[str]]:
    """Every constraint of the domain, for case generators; with its allowed values as text."""
    found: dict[str, frozenset[str]] = {}
    specs = {name: loaded.model for name, loaded in tables.items()}
    declared = [
        (name, constraint, table)
        for table, spec in specs.items()
        for name, constraint in spec.constraints.items()
    ]
    own = [
        (name, constraint, None)
        for loaded in scenarios
        for name, constraint in loaded.model.constraints.items()
    ]
    for name, constraint, table in [*declared, *own]:
        try:
            built = constraint_of(name, constraint, table, specs)
        except ValueError:
            # Reported when the scenario or table that declares it is checked.
            found.setdefault(name, frozenset())
            continue
        values = frozenset(scalar_text(value) for value in built.values)
        if built.type == "boolean":
            values = frozenset({"true", "false"})
        found[name] = found.get(name, values) | values if values else frozenset()
    return found


def _domain_problems(spec: ParsedFile[DomainSpec], listing: DomainTables) -> Iterator[Problem]:
    for place, marker in spec.model.markers.items():
        table, _, column = place.partition(".")
        path = ("markers", place)
        loaded = listing.tables.get(table)
        if table not in listing.known:
            places = [
                f"{t}.{c}" for t, found in listing.tables.items() for c in found.model.columns
            ]
            listed = "a column of a table: " + ", ".join(sorted(listing.known))
            yield spec.problem(path, repr(place), listed, places)
        elif loaded is not None and column not in loaded.model.columns:
            known = [f"{table}.{name}" for name in loaded.model.columns]
            yield spec.unknown(path, place, "a column", known)
        elif loaded is not None and loaded.model.columns[column].type != "text":
            yield spec.problem(path, loaded.model.columns[column].type, "a text column")
        if (marker.starts_with is None) == (marker.equals is None):
            yield spec.problem(path, "both or neither", "exactly one of starts_with and equals")
    for name, pattern in spec.model.forbidden.items():
        try:
            parse_pattern(pattern)
        except ValueError as error:
            yield spec.problem(("forbidden", name), repr(pattern), str(error))
