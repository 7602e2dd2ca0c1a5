"""The registry: all specification files of a bundle, read, checked and resolved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from atdm_engine.bundle.cards import Card, card_of
from atdm_engine.bundle.domain import DomainFiles, build_domain
from atdm_engine.bundle.search import Match, search
from atdm_engine.bundle.spec_file import ParsedFile, SpecFile, parse_or_report
from atdm_engine.errors import AtdmError, ErrorCode, Problem, SpecError, nearest_spelling
from atdm_engine.model import Dataset, Domain, Scenario
from atdm_engine.spec.domain import BundleSpec, ClonePool
from atdm_engine.spec.scenario import ScenarioSpec
from atdm_engine.spec.vocabulary import parse_words

BUNDLE_FILE = "atdm.yaml"
"""The only file name that each folder of a bundle may have its own file of."""


@dataclass(frozen=True)
class Registry:
    """All domains of a bundle. ``warnings`` name the files that were ignored.

    ``clones`` are the pools of clones, by domain.
    """

    default_domain: str
    domains: Mapping[str, Domain]
    warnings: tuple[str, ...] = ()
    clones: Mapping[str, ClonePool] = field(default_factory=dict)

    @classmethod
    def build(cls, files: Sequence[SpecFile]) -> Registry:
        """Read and check every file.

        The order of ``files`` does not matter. Raises SpecError with every problem of every file
        (requirements A-SCN-09, A-SCN-11, A-VAL-05).
        """
        return _Builder().build(sorted(files, key=lambda file: (file.name, file.path)))

    @property
    def scenarios(self) -> dict[str, Scenario]:
        """Every scenario by ``<domain>/<scenario>``, sorted."""
        found = [s for domain in self.domains.values() for s in domain.scenarios.values()]
        return {scenario.key: scenario for scenario in sorted(found, key=lambda s: s.key)}

    def scenario(self, name: str) -> Scenario:
        """The scenario called ``<domain>/<scenario>``, or by its bare name.

        A bare name means the default domain's scenario, else the only one of that name. Raises
        AtdmError SCENARIO_NOT_FOUND with the nearest spelling.
        """
        by_key = self.scenarios
        if name in by_key:
            return by_key[name]
        if f"{self.default_domain}/{name}" in by_key:
            return by_key[f"{self.default_domain}/{name}"]
        same = [scenario for scenario in by_key.values() if scenario.name == name]
        if len(same) == 1:
            return same[0]
        if same:
            keys = [scenario.key for scenario in same]
            raise AtdmError(
                ErrorCode.SCENARIO_NOT_FOUND,
                f"there are several scenarios {name!r}: say which one, {' or '.join(keys)}",
                {"scenario": name, "candidates": keys},
            )
        nearest = nearest_spelling(name, [*by_key, *(s.name for s in by_key.values())])
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        raise AtdmError(
            ErrorCode.SCENARIO_NOT_FOUND,
            f"there is no scenario {name!r}{hint}",
            {"scenario": name, "nearest": nearest, "known": list(by_key)},
        )

    def find(self, name: str) -> tuple[Domain, Scenario]:
        """``scenario(name)`` with the domain that it belongs to."""
        scenario = self.scenario(name)
        return self.domains[scenario.domain], scenario

    @property
    def datasets(self) -> dict[str, Dataset]:
        """Every dataset by ``<domain>/<dataset>``, sorted."""
        found = [d for domain in self.domains.values() for d in domain.datasets.values()]
        return {dataset.key: dataset for dataset in sorted(found, key=lambda d: d.key)}

    def dataset(self, name: str) -> Dataset:
        """The dataset called ``<domain>/<dataset>``; a bare name means the default domain's.

        Raises AtdmError DATASET_NOT_FOUND with the nearest spelling.
        """
        known = self.datasets
        key = name if "/" in name else f"{self.default_domain}/{name}"
        if key in known:
            return known[key]
        nearest = nearest_spelling(key, known)
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        listed = ", ".join(known) or "none"
        raise AtdmError(
            ErrorCode.DATASET_NOT_FOUND,
            f"there is no dataset {name!r} (there are: {listed}){hint}",
            {"dataset": name, "nearest": nearest, "known": list(known)},
        )

    def cards(self) -> list[Card]:
        """A card for each scenario, sorted by key."""
        return [card_of(scenario) for scenario in self.scenarios.values()]

    def search(
        self, words: Sequence[str] = (), constraints: Mapping[str, str] | None = None
    ) -> list[Match]:
        """The scenarios that fit ``words`` and ``constraints``, the best first (see ``search``)."""
        return search(self.cards(), words, constraints or {})


@dataclass
class _Builder:
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    domains: dict[str, DomainFiles] = field(default_factory=lambda: defaultdict(DomainFiles))
    loose: list[SpecFile] = field(default_factory=list)
    bundles: list[ParsedFile[BundleSpec]] = field(default_factory=list)
    vocabularies: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def build(self, files: Sequence[SpecFile]) -> Registry:
        seen: dict[str, SpecFile] = {}
        for file in files:
            if file.name in seen and file.name != BUNDLE_FILE:
                first = seen[file.name].path
                self._problem(file, repr(file.name), f"one file of that name; {first} is another")
                continue
            seen[file.name] = file
            self._place(file)
        default = self._default_domain()
        self._place_loose(default)
        domains: dict[str, Domain] = {}
        for name in sorted(self.domains):
            domain, problems = build_domain(name, self.domains[name], self.vocabularies)
            self.problems.extend(problems)
            if domain is not None:
                domains[name] = domain
        clones = self._clone_pools()
        if self.problems:
            ordered = dict.fromkeys(self.problems)
            raise SpecError(sorted(ordered, key=lambda problem: (problem.file, problem.line)))
        return Registry(default, domains, tuple(self.warnings), clones)

    def _problem(self, file: SpecFile, found: str, allowed: str) -> None:
        self.problems.append(Problem(file.path, 0, "(file)", found, allowed))

    def _freeze(self, pool: tuple[str, str], file: SpecFile) -> None:
        try:
            self.vocabularies[pool] = parse_words(file.path, file.text)
        except SpecError as error:
            # The name stays known, so that the columns that use it are not reported too.
            self.vocabularies[pool] = ()
            self.problems.extend(error.problems)

    def _place(self, file: SpecFile) -> None:
        """Sort a file in by its name."""
        parts = PurePosixPath(file.name).parts
        stem, suffix = PurePosixPath(file.name).stem, PurePosixPath(file.name).suffix
        match parts, suffix:
            case ((name,), _) if name == BUNDLE_FILE:
                bundle = parse_or_report(BundleSpec, file, self.problems)
                if bundle:
                    self.bundles.append(bundle)
            case ((_,), ".yaml"):
                self.loose.append(file)
            case (("vocabularies", locale, _), ".txt"):
                self._freeze((locale, stem), file)
            case ((("vocabularies" | "schema"), *_), _):
                pass
            case ((domain, "domain.yaml"), _):
                self.domains[domain].domain = file
            case ((domain, "tables", _), ".yaml"):
                self.domains[domain].tables[stem] = file
            case ((domain, "rules", _), ".sql"):
                self.domains[domain].rules[stem] = file
            case ((domain, "reference", _), ".csv"):
                self.domains[domain].reference[stem] = file
            case ((domain, "datasets", _), ".yaml"):
                self.domains[domain].datasets[stem] = file
            case ((domain, _), ".yaml"):
                self.domains[domain].scenarios.append(file)
            case _:
                if suffix in (".yml", ".yaml", ".sql", ".csv"):
                    hint = " (.yaml is meant?)" if suffix == ".yml" else ""
                    self.warnings.append(f"{file.path}: not a place for such a file{hint}; ignored")

    def _default_domain(self) -> str:
        named: dict[str, ParsedFile[BundleSpec]] = {}
        for bundle in self.bundles:
            if bundle.model.default_domain is not None:
                named[bundle.model.default_domain] = bundle
        if len(named) > 1:
            files = ", ".join(bundle.file for bundle in named.values())
            bundle = list(named.values())[-1]
            allowed = f"the same in every atdm.yaml: {files}"
            self.problems.append(bundle.problem(("default_domain",), list(named)[-1], allowed))
        folders = [name for name, files in self.domains.items() if files.domain is not None]
        if not named:
            return min(folders, default="")
        default, bundle = next(iter(named.items()))
        if default not in self.domains:
            where = ("default_domain",)
            self.problems.append(bundle.unknown(where, default, "a domain folder", sorted(folders)))
        return default

    def _clone_pools(self) -> dict[str, ClonePool]:
        """The pools of every atdm.yaml; one domain has one pool."""
        folders = [name for name, files in self.domains.items() if files.domain is not None]
        pools: dict[str, ClonePool] = {}
        for bundle in self.bundles:
            for domain, pool in bundle.model.clones.items():
                where = ("clones", domain)
                if domain not in folders:
                    unknown = bundle.unknown(where, domain, "a domain folder", sorted(folders))
                    self.problems.append(unknown)
                elif pools.get(domain, pool) != pool:
                    allowed = "the same in every atdm.yaml"
                    self.problems.append(bundle.problem(where, "another pool", allowed))
                pools[domain] = pool
        return pools

    def _place_loose(self, default: str) -> None:
        folders = sorted(name for name, files in self.domains.items() if files.domain is not None)
        for file in self.loose:
            loaded = parse_or_report(ScenarioSpec, file, self.problems)
            if loaded is None:
                continue
            domain = loaded.model.domain or default
            if domain not in folders:
                self.problems.append(loaded.unknown(("domain",), domain, "a domain", folders))
            else:
                self.domains[domain].scenarios.append(file)
