"""The ``generate:`` clause of a column, checked at its line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atdm_engine.arrow import duck
from atdm_engine.arrow.types import column_kind, parse_value
from atdm_engine.bundle.loading import describe
from atdm_engine.bundle.tables import DomainTables
from atdm_engine.errors import Problem
from atdm_engine.patterns.parser import parse as parse_pattern
from atdm_engine.spec import generators as g
from atdm_engine.spec.table import ColumnSpec
from atdm_engine.values.scalars import scalar_text
from atdm_engine.values.times import EPOCH, instant

_FITS: Mapping[type[g.GeneratorModel], tuple[str, ...]] = {
    g.Id: ("text",),
    g.Faker: ("text",),
    g.Text: ("text",),
    g.Pattern: ("text",),
    g.Integer: ("smallint", "integer", "bigint", "numeric", "double"),
    g.Decimal: ("numeric", "double"),
    g.Boolean: ("boolean",),
    g.Date: ("date",),
    g.Timestamp: ("timestamptz",),
    g.After: ("date", "timestamptz"),
    g.Before: ("date", "timestamptz"),
    g.Uuid: ("uuid", "text"),
    g.Json: ("jsonb", "text"),
}


@dataclass
class GeneratorCheck:
    """Checks a generator of one column, in a table file or in a scenario's ``set``.

    ``problem`` makes a problem at a path below the column. In a scenario, ``above`` are the tables
    of the rows that its rows are made for, by the names they go by (``parent`` is the nearest),
    ``groups`` those of all row groups, and ``subjects`` the scenario's constraints with their
    values.
    """

    domain: DomainTables
    table: str
    column: str
    spec: ColumnSpec
    problem: Callable[..., Problem]
    in_scenario: bool = False
    above: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    subjects: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def check(self, path: Sequence[object], value: Any, column_type: str) -> list[Problem]:
        """Problems of ``value`` (a generator or a scalar) for cells of ``column_type``."""
        if not isinstance(value, g.GeneratorModel):
            return self._check_value(path, value, column_type)
        problems: list[Problem] = []
        kind = column_kind(column_type)
        if value.null_fraction > 0 and not self.spec.nullable:
            found = str(value.null_fraction)
            problems.append(self.problem((*path, "null_fraction"), found, "0: not nullable"))
        if value.prefix and (kind.base != "text" or kind.array):
            problems.append(
                self.problem((*path, "prefix"), repr(value.prefix), "this for text columns only")
            )
        fits = _FITS.get(type(value))
        word = type(value).__name__.lower()
        if (fits is not None and (kind.base not in fits or kind.array)) or (
            isinstance(value, g.Array) and not kind.array and kind.base != "jsonb"
        ):
            wanted = "an array" if fits is None else " or ".join(fits)
            found = f"{word} for {column_type}"
            problems.append(self.problem(path, found, f"{word} for {wanted} columns"))
            return problems
        problems.extend(self._check_parts(path, value, column_type))
        return problems

    def _check_parts(
        self, path: Sequence[object], value: g.GeneratorModel, column_type: str
    ) -> Iterator[Problem]:
        if isinstance(value, g.Constant):
            marked = value.constant
            if value.prefix and marked is not None:
                marked = value.prefix + scalar_text(marked)
            yield from self._check_value((*path, "constant"), marked, column_type)
        elif isinstance(value, g.Choice):
            for option in value.choice:
                marked = value.prefix + scalar_text(option) if value.prefix else option
                yield from self._check_value((*path, "choice"), marked, column_type)
        elif isinstance(value, g.Case):
            yield from self._check_case(path, value, column_type)
        elif isinstance(value, g.After | g.Before):
            word = "after" if isinstance(value, g.After) else "before"
            offset = value.after if isinstance(value, g.After) else value.before
            yield from self._check_time_column((*path, word, "column"), offset.column)
        elif isinstance(value, g.References):
            yield from self._check_choice_of_row(path, value)
        elif isinstance(value, g.Pattern):
            try:
                parse_pattern(value.pattern)
            except ValueError as error:
                yield self.problem((*path, "pattern"), repr(value.pattern), str(error))
        elif isinstance(value, g.Faker):
            yield from self._check_vocabulary(path, value)
        elif isinstance(value, g.Date | g.Timestamp):
            word = "date" if isinstance(value, g.Date) else "timestamp"
            bounds = value.date if isinstance(value, g.Date) else value.timestamp
            for name, text in (("from", bounds.start), ("to", bounds.stop)):
                try:
                    instant(text, EPOCH)
                except ValueError:
                    allowed = "a date, a timestamp, or as_of, as_of - 30d, as_of + 12h"
                    yield self.problem((*path, word, name), repr(text), allowed)
        elif isinstance(value, g.Json):
            for name, part in value.json_.items():
                yield from self._check_json((*path, "json", name), part)
        elif isinstance(value, g.Array):
            element = column_type.removesuffix("[]")
            yield from self.check((*path, "array", "of"), value.array.of, element)
            if value.array.min > value.array.max:
                found = str(value.array.min)
                yield self.problem((*path, "array", "min"), found, "at most max")
        elif isinstance(value, g.Sql):
            try:
                duck.inspect_expression(value.sql)
            except duck.SqlProblem as error:
                yield self.problem((*path, "sql"), describe(value.sql), error.message)
        elif isinstance(value, g.Integer) and value.integer.min > value.integer.max:
            yield self.problem((*path, "integer", "min"), str(value.integer.min), "at most max")
        elif isinstance(value, g.Decimal) and value.decimal.min > value.decimal.max:
            yield self.problem((*path, "decimal", "min"), str(value.decimal.min), "at most max")

    def _check_value(self, path: Sequence[object], value: Any, column_type: str) -> list[Problem]:
        if value is None:
            if self.spec.nullable or column_type != self.spec.type:
                return []
            return [self.problem(path, "null", "a value: the column is not nullable")]
        try:
            typed = parse_value(column_type, value)
        except ValueError as error:
            return [self.problem(path, repr(scalar_text(value)), str(error))]
        if self.spec.values and column_type == self.spec.type:
            allowed = [parse_value(column_type, option) for option in self.spec.values]
            if typed not in allowed:
                words = list(self.spec.values)
                listed = "one of " + ", ".join(words)
                return [self.problem(path, repr(scalar_text(value)), listed, words)]
        return []

    def _check_json(self, path: Sequence[object], value: Any) -> Iterator[Problem]:
        # A member of a JSON object has no declared type: only what can be wrong by itself is.
        if isinstance(value, g.Json):
            for name, part in value.json_.items():
                yield from self._check_json((*path, "json", name), part)
        elif isinstance(value, g.Case | g.Pattern | g.Faker | g.Sql | g.After | g.Before):
            yield from self._check_parts(path, value, "jsonb")

    def _check_case(
        self, path: Sequence[object], value: g.Case, column_type: str
    ) -> Iterator[Problem]:
        columns = self.domain.tables[self.table].model.columns
        subjects = {**self.domain.subjects, **self.subjects}
        allowed: Collection[str] = ()
        if value.case in columns or "." in value.case:
            column = yield from self._column_named((*path, "case"), value.case)
            if column is not None:
                allowed = ("true", "false") if column.type == "boolean" else column.values or ()
        elif value.case in subjects:
            allowed = subjects[value.case]
        else:
            known = sorted({*columns, *subjects})
            listed = "a column of the table or a constraint: " + ", ".join(known)
            yield self.problem((*path, "case"), repr(value.case), listed, known)
        for name, branch in value.branches.items():
            if allowed and name not in allowed and name != "null":
                words = sorted(allowed)
                listed = f"a value of {value.case}: " + ", ".join(words)
                yield self.problem((*path, name), repr(name), listed, words)
            yield from self.check((*path, name), branch, column_type)
        complete = bool(allowed) and set(allowed) <= set(value.branches)
        if "otherwise" in value.model_fields_set:
            yield from self.check((*path, "else"), value.otherwise, column_type)
        elif not complete and not self.spec.nullable and column_type == self.spec.type:
            missing = sorted(set(allowed) - set(value.branches))
            found = "no else" + (f" and nothing for {', '.join(missing)}" if missing else "")
            yield self.problem(path, found, "else, or every value: the column is not nullable")

    def _check_time_column(self, path: Sequence[object], name: str) -> Iterator[Problem]:
        found = yield from self._column_named(path, name)
        if found is not None and found.type not in ("date", "timestamptz"):
            yield self.problem(path, f"{name!r}, a {found.type}", "a date or timestamptz column")

    def _column_named(
        self, path: Sequence[object], name: str
    ) -> Generator[Problem, None, ColumnSpec | None]:
        """The column of the row, or of a row above it (``order.created_at``), that is meant."""
        table, _, column = name.rpartition(".")
        columns = self.domain.tables[self.table].model.columns
        rows = {c.references: c.references for c in columns.values() if c.references}
        rows.update(self.above)
        if table == "parent" and not self.in_scenario:
            # In a table file the parent is whatever row group a scenario names by `per`.
            return None
        known = list(columns)
        for called, row_table in rows.items():
            spec = self.domain.spec(row_table)
            known.extend(f"{called}.{other}" for other in (spec.columns if spec else ()))
        if table and table not in rows:
            listed = "a column of the row, of parent, or of a table it refers to: "
            yield self.problem(path, repr(name), listed + ", ".join(sorted(rows)), known)
            return None
        target = rows[table] if table else self.table
        spec = self.domain.spec(target)
        if spec is not None and column not in spec.columns:
            listed = f"a column of {target}: " + ", ".join(spec.columns)
            yield self.problem(path, repr(name), listed, known)
        return spec.columns.get(column) if spec else None

    def _check_choice_of_row(
        self, path: Sequence[object], value: g.References
    ) -> Iterator[Problem]:
        wanted = value.references
        target = wanted if isinstance(wanted, str) else wanted.table
        where = (*path, "references") if isinstance(wanted, str) else (*path, "references", "table")
        table = self.groups.get(target, target)
        if table not in self.domain.known:
            known = sorted({*self.domain.known, *self.groups})
            yield self.problem(where, repr(target), "a table: " + ", ".join(known), known)
        elif self.spec.references is not None and table != self.spec.references:
            yield self.problem(where, repr(target), f"{self.spec.references}, as the column says")

    def _check_vocabulary(self, path: Sequence[object], value: g.Faker) -> Iterator[Problem]:
        wanted = value.faker
        provider = wanted if isinstance(wanted, str) else wanted.provider
        locale = self.domain.locale
        where: tuple[object, ...] = (*path, "faker")
        if not isinstance(wanted, str):
            locale = wanted.locale or locale
            where = (*where, "provider")
        if (locale, provider) not in self.domain.vocabularies:
            known = sorted(name for place, name in self.domain.vocabularies if place == locale)
            listed = f"a vocabulary of {locale}: " + (", ".join(known) or "none")
            yield self.problem(where, repr(provider), listed, known)
