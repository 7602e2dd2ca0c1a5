"""Versions of scenarios and datasets: hashes over what shapes their data, by parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from atdm_engine import ENGINE_VERSION
from atdm_engine.model import Domain, Scenario
from atdm_engine.spec.dataset import DatasetSpec
from atdm_engine.spec.table import TableSpec

_DIGITS = 16

_FIRST = ("engine", "scenario", "domain file")
_ORDER = "column order of "

_SHAPELESS = {"description", "tags", "linked_requirement_ids", "pool", "lease_ttl", "validators"}


@dataclass(frozen=True)
class Change:
    """A changed part of a version: ``engine``, ``scenario``, ``table claim``, ..."""

    part: str
    change: Literal["changed", "added", "removed"]

    def __str__(self) -> str:
        return f"{self.part} {self.change}"


def scenario_version(domain: Domain, scenario: Scenario) -> str:
    """16 hex digits over everything that shapes the scenario's data and what it hands out.

    Descriptions, tags and pool sizes are not covered: pools stay valid when these change.
    """
    return _digest(_shape(domain, scenario))


def dataset_version(domain: Domain, spec: DatasetSpec) -> str:
    """16 hex digits over everything that shapes the dataset's data, or checks it.

    The schedule and the retention are not covered: they change no row.
    """
    shape = {
        "engine": ENGINE_VERSION,
        "dataset": spec.model_dump(
            mode="json", exclude={"description", "cron", "retention", "restore"}
        ),
        "scenarios": {
            entry.scenario: domain.scenarios[entry.scenario].version for entry in spec.mix
        },
        "rules": {name: rule.sql for name, rule in domain.rules.items()},
        "reference": {name: rows.to_pylist() for name, rows in domain.reference.items()},
        "tables": {name: list(table.columns) for name, table in domain.tables.items()},
    }
    # The order of a mix, and of the shares in it, decides which run gets which values.
    return _digest(shape, sort_keys=False)


def version_parts(domain: Domain, scenario: Scenario) -> dict[str, str]:
    """What the version covers: 16 hex digits for each part; for ``engine`` its version.

    Two scenarios of the same version have the same parts.
    """
    shape = _shape(domain, scenario)
    parts = {
        "engine": str(shape["engine"]),
        "scenario": _digest([shape["scenario"], shape["groups"]]),
        "domain file": _digest(shape["domain"]),
    }
    for table, body in shape["tables"].items():
        names = [name for name, _ in body["columns"]]
        parts[f"table {table}"] = _digest({**body, "columns": None})
        parts[f"{_ORDER}{table}"] = _digest(names)
        for name, column in body["columns"]:
            parts[f"column {table}.{name}"] = _digest(column)
    for table, rows in shape["reference"].items():
        parts[f"reference rows of {table}"] = _digest(rows)
    for *key, digest in shape["vocabularies"]:
        parts[f"vocabulary {'/'.join(key)}"] = digest[:_DIGITS]
    return parts


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[Change]:
    """Every part that differs, in a fixed order.

    Columns of an added or removed table are not listed, nor is the order of columns of a table in
    which a column was added or removed.
    """
    found = [
        Change(part, _kind(before.get(part), now.get(part)))
        for part in sorted(before.keys() | now.keys(), key=_place)
        if before.get(part) != now.get(part)
    ]
    whole = {
        _table_of(one.part)
        for one in found
        if one.part.startswith("table ") and one.change != "changed"
    }
    columns = {
        _table_of(one.part)
        for one in found
        if one.part.startswith("column ") and one.change != "changed"
    }
    return [
        one
        for one in found
        if one.part.startswith("table ")
        or _table_of(one.part) not in (whole | columns if one.part.startswith(_ORDER) else whole)
    ]


def _table_of(part: str) -> str | None:
    """The table that a part belongs to; None if it belongs to none."""
    for head in ("table ", _ORDER, "column "):
        if part.startswith(head):
            return part.removeprefix(head).partition(".")[0]
    return None


def _kind(before: str | None, now: str | None) -> Literal["changed", "added", "removed"]:
    if before is None:
        return "added"
    return "removed" if now is None else "changed"


def _place(part: str) -> tuple[int, str]:
    return (_FIRST.index(part) if part in _FIRST else len(_FIRST), part)


def _digest(value: Any, *, sort_keys: bool = True) -> str:
    text = json.dumps(value, sort_keys=sort_keys, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _shape(domain: Domain, scenario: Scenario) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for name in with_parents(scenario.tables, domain.tables):
        spec = domain.tables[name]
        body = spec.model_dump(mode="json", by_alias=True, exclude={"description", "columns"})
        body["constraints"] = {
            key: found.model_dump(mode="json", exclude={"description"})
            for key, found in spec.constraints.items()
        }
        body["columns"] = [
            [key, column.model_dump(mode="json", by_alias=True, exclude={"description"})]
            for key, column in spec.columns.items()
        ]
        tables[name] = body
    providers = _providers(tables, scenario)
    return {
        "engine": ENGINE_VERSION,
        "scenario": scenario.spec.model_dump(mode="json", by_alias=True, exclude=_SHAPELESS),
        "groups": [
            [name, group.model_dump(mode="json", by_alias=True)]
            for name, group in scenario.groups.items()
        ],
        "domain": domain.spec.model_dump(mode="json", exclude={"description", "owners"}),
        "tables": tables,
        "reference": {
            name: rows.to_pylist() for name, rows in domain.reference.items() if name in tables
        },
        "vocabularies": [
            [*key, hashlib.sha256("\n".join(words).encode()).hexdigest()]
            for key, words in sorted(domain.vocabularies.items())
            if key[1] in providers
        ],
    }


def with_parents(names: Iterable[str], tables: Mapping[str, TableSpec]) -> list[str]:
    """The tables of ``names`` and all that they refer to, directly or indirectly; each once."""
    found: list[str] = []
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.append(name)
            waiting.extend(tables[name].foreign_keys.values() if name in tables else ())
    return found


def _providers(tables: Mapping[str, Any], scenario: Scenario) -> set[str]:
    """The vocabularies that generators of these tables and of the scenario use."""
    found: set[str] = set()
    groups = [group.model_dump(mode="json", by_alias=True) for group in scenario.groups.values()]
    waiting: list[Any] = [tables, groups]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            wanted = part.get("faker")
            if wanted is not None:
                found.add(wanted if isinstance(wanted, str) else wanted["provider"])
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return found
