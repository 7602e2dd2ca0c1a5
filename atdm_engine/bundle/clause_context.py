"""Checks the ``generate:`` clause of a column against the files of its domain."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atdm_engine.bundle.domain_tables import DomainTables
from atdm_engine.errors import Problem
from atdm_engine.generators.base import check
from atdm_engine.generators.context import ColumnContext, Finding, Lookup
from atdm_engine.spec.table import ColumnSpec


@dataclass(frozen=True)
class ScenarioNames:
    """What a scenario's ``set`` may name besides tables and columns.

    ``above`` are the tables of the rows above its rows (``per``), by the names that find them
    (``parent`` is the nearest). ``groups`` are the tables of all row groups, ``constraints`` the
    scenario's constraints with their values.
    """

    above: Mapping[str, str]
    groups: Mapping[str, str]
    constraints: Mapping[str, frozenset[str]]


_IN_A_TABLE_FILE = ScenarioNames({}, {}, {})


@dataclass(frozen=True, kw_only=True)
class ClauseContext(ColumnContext):
    """A column in a table file or in a scenario's ``set``."""

    domain: DomainTables
    table: str
    references: str | None
    scenario: ScenarioNames

    def column(self, path: Sequence[object], name: str) -> Lookup[ColumnSpec | None]:
        table, _, column = name.rpartition(".")
        columns = self.domain.tables[self.table].model.columns
        rows = {c.references: c.references for c in columns.values() if c.references}
        rows.update(self.scenario.above)
        if table == "parent" and self.scenario is _IN_A_TABLE_FILE:
            # In a table file the parent is whatever row group a scenario names by `per`.
            return None
        known = list(columns)
        for called, row_table in rows.items():
            spec = self.domain.spec(row_table)
            known.extend(f"{called}.{other}" for other in (spec.columns if spec else ()))
        if table and table not in rows:
            listed = "a column of the row, of parent, or of a table it refers to: "
            yield Finding(tuple(path), repr(name), listed + ", ".join(sorted(rows)), known)
            return None
        target = rows[table] if table else self.table
        spec = self.domain.spec(target)
        if spec is not None and column not in spec.columns:
            listed = f"a column of {target}: " + ", ".join(spec.columns)
            yield Finding(tuple(path), repr(name), listed, known)
        return spec.columns.get(column) if spec else None

    def subject(self, path: Sequence[object], name: str) -> Lookup[Collection[str] | None]:
        columns = self.domain.tables[self.table].model.columns
        if name in columns or "." in name:
            column = yield from self.column(path, name)
            if column is None:
                return ()
            return ("true", "false") if column.type == "boolean" else column.values or ()
        constraints = {**self.domain.subjects, **self.scenario.constraints}
        if name not in constraints:
            known = sorted({*columns, *constraints})
            listed = "a column of the table or a constraint: " + ", ".join(known)
            yield Finding(tuple(path), repr(name), listed, known)
        return constraints.get(name, ())

    def reference(self, path: Sequence[object], table: str) -> Iterator[Finding]:
        target = self.scenario.groups.get(table, table)
        if target not in self.domain.known:
            known = sorted({*self.domain.known, *self.scenario.groups})
            yield Finding(tuple(path), repr(table), "a table: " + ", ".join(known), known)
        elif self.references is not None and target != self.references:
            yield Finding(tuple(path), repr(table), f"{self.references}, as the column says")


def clause_problems(
    value: Any,
    domain: DomainTables,
    table: str,
    spec: ColumnSpec,
    problem: Callable[[Sequence[object], str, str, Sequence[str]], Problem],
    scenario: ScenarioNames = _IN_A_TABLE_FILE,
) -> Iterator[Problem]:
    """The problems of a generator, or a scalar, of a column of ``table``.

    ``problem`` makes a problem at a path below the clause.
    """
    context = ClauseContext(
        spec.type,
        spec.nullable,
        spec.values,
        spec.luhn,
        domain.locale,
        domain.vocabularies,
        domain=domain,
        table=table,
        references=spec.references,
        scenario=scenario,
    )
    for finding in check(value, context):
        yield problem(*finding)
