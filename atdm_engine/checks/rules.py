"""Rules: DuckDB runs their queries over a batch, pandera validates the answers.

A rule sees one batch at a time, which holds whole test runs, and the reference rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
from pandera.errors import SchemaErrors

from atdm_engine.arrow import duck
from atdm_engine.checks.results import MAX_CASES
from atdm_engine.model import Domain, Rule
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_engine.values.scalars import json_value

HOLDS = pandera.DataFrameSchema(
    {
        "holds": pandera.Column(
            "boolean",
            checks=pandera.Check.isin([True], error="the rule holds"),
            nullable=False,
        ),
        "judged": pandera.Column("int64", checks=pandera.Check.gt(0)),
    },
    strict=True,
    name="rule",
)
"""The schema of a rule's answers, counted: only true. False fails, and so does NULL."""


@dataclass(frozen=True)
class RuleFinding:
    """A rule's answer over one batch; ``keys`` are the key values of failing rows, bounded."""

    judged: int
    failed: int
    cases: list[dict[str, Any]] = field(default_factory=list)
    keys: pa.ChunkedArray | None = None


class RuleRunner:
    """Runs the rules of a domain over batches, on one guarded DuckDB connection.

    Args: ``limit`` bounds the keys of failing rows that are kept of each rule and batch.
    """

    def __init__(self, domain: Domain, *, limit: int = 10_000) -> None:
        self._domain = domain
        self._limit = limit
        self._connection = duck.connect()
        self._reference = domain.reference_tables()
        self._batches = 0
        self._registered: set[str] = set()

    def use(self, batch: Mapping[str, pa.Table]) -> None:
        """Set the batch (whole test runs) that the next rules judge."""
        self._batches += 1
        for name, spec in self._domain.tables.items():
            if name not in batch and name in self._registered:
                continue
            rows = batch.get(name, spec.arrow_schema.empty_table())
            if name in self._reference:
                rows = pa.concat_tables([self._reference[name], rows])
            self._connection.register(name, rows)
            self._registered.add(name)
        self._registered -= set(batch)

    def run(self, rule: Rule) -> RuleFinding:
        """Judge the current batch; duckdb.Error when the query fails on these rows."""
        query, key = self._query(rule)
        counted = self._connection.execute(
            f"SELECT holds, count(*) AS judged FROM ({query}) GROUP BY holds"
        ).fetchall()
        answers = pd.DataFrame(counted, columns=["holds", "judged"]).astype(
            {"holds": "boolean", "judged": "int64"}
        )
        judged = int(answers["judged"].sum())
        try:
            HOLDS.validate(answers, lazy=True, inplace=True)
        except SchemaErrors as report:
            rows = set(report.failure_cases["index"])
            failed = sum(int(answers["judged"].iloc[int(row)]) for row in rows)
            return RuleFinding(judged, failed, *self._failing(rule, query, key))
        return RuleFinding(judged, 0)

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()

    def _query(self, rule: Rule) -> tuple[str, str]:
        """The rule's query and its key column; reference rows are judged with the first batch."""
        sql = rule.sql.strip().rstrip(";")
        # A comment may end the file: the closing parenthesis needs a line of its own.
        inner = f"{sql}\n"
        described = self._connection.execute(f"DESCRIBE {sql}").fetchall()
        key = str(described[0][0])
        if rule.table in self._reference and self._batches > 1:
            column = duck.quoted(self._domain.tables[rule.table].key_columns[0])
            old = f"SELECT {column} FROM {duck.quoted(rule.table)} WHERE {RUN_COLUMN} IS NULL"
            inner = f"SELECT * FROM ({inner}) WHERE {duck.quoted(key)} NOT IN ({old})\n"
        return inner, key

    def _failing(
        self, rule: Rule, query: str, key: str
    ) -> tuple[list[dict[str, Any]], pa.ChunkedArray]:
        table, column = duck.quoted(rule.table), duck.quoted(key)
        own = duck.quoted(self._owner_column(rule, key))
        failing = f"SELECT * FROM ({query}) WHERE holds IS NOT TRUE"
        keys = self._connection.sql(
            f"SELECT DISTINCT {column} FROM ({failing}) ORDER BY 1 LIMIT {self._limit}"
        ).to_arrow_table()
        sample = self._connection.sql(
            f"SELECT failing.* EXCLUDE (holds), CAST(failing.holds AS VARCHAR) AS holds, "
            f"judged.{RUN_COLUMN} AS test_run_id "
            f"FROM ({failing}) AS failing LEFT JOIN {table} AS judged "
            f"ON judged.{own} = failing.{column} ORDER BY failing.{column} LIMIT {MAX_CASES}"
        ).to_arrow_table()
        return [json_value(row) for row in sample.to_pylist()], keys.column(0)

    def _owner_column(self, rule: Rule, key: str) -> str:
        keys = self._domain.tables[rule.table].key_columns
        return key if key in keys else keys[0]
