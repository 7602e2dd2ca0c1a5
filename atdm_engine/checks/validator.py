"""The validator: every check of a scenario over every batch of generated data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atdm_engine.arrow import duck
from atdm_engine.checks.pandera_schema import Findings, Key, Mask, pandera_schema, validate
from atdm_engine.checks.results import (
    CheckId,
    CheckOutcome,
    Tally,
    check_ids,
    involved_constraints,
)
from atdm_engine.checks.rules import RuleRunner
from atdm_engine.checks.seen_values import SeenValues
from atdm_engine.model import Domain, Scenario
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_engine.values.scalars import TypedScalar, json_value, scalar_json

MAX_REJECTED = 10_000
REASON = "atdm_reason"


class Validator:
    """Runs every check of ``scenario`` over batches of whole test runs.

    ``effective`` are the request's constraint values, for the details of failed rules. Not for use
    by several threads at once.
    """

    def __init__(
        self,
        domain: Domain,
        scenario: Scenario,
        effective: Mapping[str, TypedScalar] | None = None,
    ) -> None:
        self._domain = domain
        self._scenario = scenario
        self._effective = {name: scalar_json(value) for name, value in (effective or {}).items()}
        self._checks = check_ids(domain, scenario)
        self._tallies = {check: Tally() for check in self._checks}
        self._findings = Findings()
        self._schemas = {
            table: pandera_schema(domain, table, self._findings) for table in scenario.tables
        }
        self._seen = {table: SeenValues(domain.tables[table]) for table in scenario.tables}
        self._rules = RuleRunner(domain, limit=MAX_REJECTED)
        self._rejected: dict[str, list[pa.Table]] = {}

    def check(self, batch: Mapping[str, pa.Table]) -> None:
        """Judge a batch: the rows of whole test runs, by table. It never raises on bad data."""
        reasons: dict[str, dict[int, list[str]]] = {}
        self._use_rules(batch)
        for check in self._checks:
            tally = self._tallies[check]
            try:
                if check.kind == "rule":
                    self._check_rule(check, tally, batch, reasons)
                    continue
                table = batch[check.table]
                masks = (
                    self._schema_masks(check, table)
                    if check.kind == "schema"
                    else self._reference_masks(check, batch)
                )
                self._count(check, tally, table, masks, reasons)
            except Exception as error:
                # Checks never raise: an exception is a failed result that names it.
                tally.fail(_named(error))
        self._keep_rejected(batch, reasons)

    def outcomes(self) -> list[CheckOutcome]:
        """The result of every check of ``check_ids`` so far, in its order."""
        for check, tally in self._tallies.items():
            tally.details = self._details(check) if tally.failed else {}
        return [tally.outcome(check) for check, tally in self._tallies.items()]

    def rejected(self) -> dict[str, pa.Table]:
        """Failing rows by table, with the failed checks in ``atdm_reason``; at most 10,000 each."""
        return {
            table: pa.concat_tables(parts, promote_options="permissive")
            for table, parts in self._rejected.items()
        }

    def _use_rules(self, batch: Mapping[str, pa.Table]) -> None:
        try:
            self._rules.use(batch)
        except Exception as error:
            for check in self._checks:
                if check.kind == "rule":
                    self._tallies[check].fail(_named(error))

    def _schema_masks(self, check: CheckId, table: pa.Table) -> dict[Key, Mask]:
        validate(self._schemas[check.table], table, self._findings)
        if self._findings.errors:
            self._tallies[check].fail("; ".join(self._findings.errors[:5]))
        masks = dict(self._findings.masks)
        if not self._findings.errors:
            masks.update(self._seen[check.table].repeated(table))
        return masks

    def _reference_masks(self, check: CheckId, batch: Mapping[str, pa.Table]) -> dict[Key, Mask]:
        masks = {}
        table = batch[check.table]
        for name, parent in self._domain.tables[check.table].foreign_keys.items():
            values = table.column(name)
            known = self._keys(parent, batch)
            if _same(values, known):
                continue
            found = pc.or_(pc.is_in(values, value_set=known), pc.is_null(values))
            if not pc.all(found, min_count=0).as_py():
                masks[name, f"no such {parent}"] = ~found.to_numpy()
        return masks

    def _keys(self, table: str, batch: Mapping[str, pa.Table]) -> pa.ChunkedArray:
        (key,) = self._domain.tables[table].key_columns
        sources = [source for source in (batch, self._domain.reference) if table in source]
        chunks = [chunk for source in sources for chunk in source[table].column(key).chunks]
        return pa.chunked_array(chunks) if chunks else pa.chunked_array([pa.array([], pa.string())])

    def _count(
        self,
        check: CheckId,
        tally: Tally,
        table: pa.Table,
        masks: dict[Key, Mask],
        reasons: dict[str, dict[int, list[str]]],
    ) -> None:
        rows = len(table)
        if check.kind == "references":
            columns = self._domain.tables[check.table].foreign_keys
            judged = sum(rows - table.column(name).null_count for name in columns)
            failed = sum(int(mask.sum()) for mask in masks.values())
        else:
            judged = rows
            failed = int(np.logical_or.reduce([*masks.values()]).sum())
            if tally.error and not masks:
                failed = rows
        places = {named: np.flatnonzero(mask)[:MAX_REJECTED] for named, mask in masks.items()}
        tally.add(
            judged,
            failed,
            (
                self._case(check.table, table, int(row), column, name)
                for (column, name), failing in places.items()
                for row in failing
            ),
        )
        by_row = reasons.setdefault(check.table, {})
        for (column, name), failing in places.items():
            for row in failing.tolist():
                by_row.setdefault(row, []).append(f"{check.name}: {column} {name}")

    def _case(
        self, table_name: str, table: pa.Table, row: int, column: str, check: str
    ) -> dict[str, Any]:
        spec = self._domain.tables[table_name]
        shown = [name for name in column.split(", ") if name in table.column_names]
        if not shown:
            # A row check stands in place of a column: show the whole row.
            shown = list(spec.columns)
        names = dict.fromkeys([*spec.key_columns, *shown, RUN_COLUMN])
        cells = {
            name: _cell(table.column(name), row) for name in names if name in table.column_names
        }
        return {"check": check, "column": column, **cells}

    def _check_rule(
        self,
        check: CheckId,
        tally: Tally,
        batch: Mapping[str, pa.Table],
        reasons: dict[str, dict[int, list[str]]],
    ) -> None:
        rule = self._domain.rules[str(check.rule)]
        finding = self._rules.run(rule)
        tally.add(finding.judged, finding.failed, finding.cases)
        if finding.keys is None or rule.table not in batch:
            return
        keys = self._domain.tables[rule.table].key_columns
        column = batch[rule.table].column(keys[0])
        mask = pc.is_in(column, value_set=finding.keys.cast(column.type)).to_numpy()
        by_row = reasons.setdefault(rule.table, {})
        for place in np.flatnonzero(mask)[:MAX_REJECTED].tolist():
            by_row.setdefault(place, []).append(rule.name)

    def _keep_rejected(
        self, batch: Mapping[str, pa.Table], reasons: Mapping[str, dict[int, list[str]]]
    ) -> None:
        for table, by_row in reasons.items():
            parts = self._rejected.setdefault(table, [])
            room = MAX_REJECTED - sum(len(part) for part in parts)
            places = sorted(by_row)[:room]
            if places:
                texts = ["; ".join(dict.fromkeys(by_row[place])) for place in places]
                rows = batch[table].take(pa.array(places, pa.int64()))
                parts.append(rows.append_column(REASON, pa.array(texts, pa.string())))
            if not parts:
                del self._rejected[table]

    def _details(self, check: CheckId) -> dict[str, Any]:
        if check.rule is None:
            return {}
        rule = self._domain.rules[check.rule]
        columns = duck.inspect_query(rule.sql).columns
        sets = {name: found.sets for name, found in self._scenario.constraints.items()}
        return involved_constraints(sets, columns, rule.tables, self._effective)


def _same(values: pa.ChunkedArray, known: pa.ChunkedArray) -> bool:
    """Whether a column equals its parents' keys one to one: the usual case, and fast to find."""
    return len(values) == len(known) and values.equals(known)


def _cell(column: pa.ChunkedArray, row: int) -> Any:
    try:
        return json_value(column[row].as_py())
    except (UnicodeDecodeError, OverflowError, ValueError):
        # Invalid UTF-8, or a date beyond Python's calendar: show it as Arrow does.
        return str(column.slice(row, 1).to_string())


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
