"""pandera and PostgreSQL give the same verdict on the same values, odd ones included.

Both are made from one table file: what pandera accepts is loaded without an error, and what
PostgreSQL would refuse never reaches it. Patterns that are forbidden in a domain are pandera's
alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from atdm_engine.arrow.types import arrow_type
from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_engine.checks.pandera_schema import Findings, pandera_schema, validate
from atdm_engine.model import Domain
from atdm_resources.postgres.connection import connect
from atdm_services.target.init import initialise

TABLE = """\
description: A value of every kind.
key: thing_id
columns:
  thing_id: {type: text, generate: {id: thing}}
  digits: {type: text, nullable: true, pattern: "[0-9]{5}"}
  word: {type: text, nullable: true, pattern: '\\w{1,3}(-(a|bc))?'}
  any: {type: text, nullable: true, pattern: ".*"}
  short: {type: text, nullable: true, min_length: 1, max_length: 3}
  marked: {type: text, nullable: true}
  same: {type: text, nullable: true}
  choice: {type: text, nullable: true, values: [a, b, "", "ä"]}
  luhn: {type: text, nullable: true, luhn: valid}
  no_luhn: {type: text, nullable: true, luhn: invalid}
  free: {type: text, nullable: true}
  small: {type: smallint, nullable: true, values: ["-1", "0", "7"]}
  whole: {type: integer, nullable: true, min: -3, max: 5}
  big: {type: bigint, nullable: true, min: -9223372036854775807}
  money: {type: "numeric(6,2)", nullable: true, min: -5.5, max: 1234.56}
  real: {type: double, nullable: true, min: 0.0, max: 10}
  at_least: {type: double, nullable: true, min: 0.1}
  free_real: {type: double, nullable: true}
  day: {type: date, nullable: true, min: 2020-02-29, max: 2020-03-01}
  free_day: {type: date, nullable: true}
  moment: {type: timestamptz, nullable: true, min: 2020-01-01T00:00:00Z}
  free_moment: {type: timestamptz, nullable: true}
  flag: {type: boolean, nullable: true}
  token: {type: uuid, nullable: true}
  body: {type: jsonb, nullable: true}
  tags: {type: "text[]", nullable: true}
checks:
  either: whole > 0 OR flag
  divided: 6 / whole >= 1
  compared: free < 'b' OR free = 'x' OR free LIKE 'z_%'
  counted: char_length(short) <> 2
  listed: small NOT IN (7) OR real BETWEEN 1 AND 2
"""
DOMAIN = """\
description: Odd values.
markers:
  thing.marked: {starts_with: FAKE_}
  thing.same: {equals: ZZ}
"""
SCENARIO = "scenario_id: one\nlinked_requirement_ids: []\nrows: {thing: 1}\n"

ODD_TEXTS = (
    "", " ", "12345", "12345\n", "\n12345", "1234", "١٢٣٤٥", "a", "A", "ab", "abc", "abcd",
    "ab-a", "ab-bc", "ab-", "é", "ä", "a\u0308", "äöü", "äöüß", "\U0001f600", "a\0b", "\0",
    "FAKE_", "FAKE", "fake_x", "FAKE_x\n", "ZZ", "ZZ ", "zz", "ZZ\0", "0", "00", "18", "18 ",
    "79927398713", "79927398710", "١٨", "b", "x", "z", "za", "z%", "\\", "\\N", "'", '"', "%", "_",
    "\t", "\r\n", "\u2028", "\ufeff", "\u200b", "\x7f", "\x1f", "null", "NULL", "~",
)  # fmt: skip
FIRST_DAY, LAST_DAY = -2_440_588, 2_145_042_905
DAY = 86_400_000_000
ODD_JSON = (
    "{}", "[]", "null", "1", "-0", "1.50", '"x"', '{"a":{"b":[1,null,true]}}', '{"a":1,"a":2}',
    "{", "", " ", "{'a':1}", "NaN", "[1,]", "Infinity", '"\\u0000"', '"\\\\u0000"', '"\\ud800"',
    '"\\ud83d\\ude00"', "01", "+1", "1e5", "tru", '"a\tb"', '"\x1f"', "// x", "[1] 2", '"nan"',
)  # fmt: skip
UUIDS = (
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
    "",
    "x" * 36,
)

texts = (
    st.sampled_from(ODD_TEXTS)
    | st.text(max_size=6)
    | st.text("0123456789", min_size=4, max_size=6)
    | st.just("12345")
)
reals = st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 0.1, 10.0, 5e-324]) | (
    st.floats()
)
days = st.sampled_from(
    [FIRST_DAY - 1, FIRST_DAY, LAST_DAY, LAST_DAY + 1, 18_320, 18_321, 18_322, 18_319, 0]
) | st.integers(-(2**31), 2**31 - 1)
moments = st.sampled_from(
    [FIRST_DAY * DAY - 1, FIRST_DAY * DAY, 2**63 - 1, -(2**63), 1_577_836_800_000_000,
     1_577_836_799_999_999]
) | st.integers(-(2**63), 2**63 - 1)  # fmt: skip
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(
        ("digits", "word", "any", "short", "marked", "same", "choice", "free"),
        texts,
    ),
    "luhn": texts | st.sampled_from(["0", "18", "79927398713", "79927398710"]),
    "no_luhn": texts | st.sampled_from(["0", "18", "79927398713", "79927398710"]),
    "small": st.integers(-(2**15), 2**15 - 1) | st.integers(-1, 8),
    "whole": st.integers(-(2**31), 2**31 - 1) | st.integers(-5, 7),
    "big": st.integers(-(2**63), 2**63 - 1) | st.just(-(2**63)),
    "money": st.decimals(-9999, 9999, places=2, allow_nan=False)
    | st.sampled_from([Decimal("-5.50"), Decimal("-5.51"), Decimal("1234.56"), Decimal("1234.57")]),
    "real": reals,
    "at_least": reals,
    "free_real": reals,
    "day": days,
    "free_day": days,
    "moment": moments,
    "free_moment": moments,
    "flag": st.booleans(),
    "token": st.sampled_from(UUIDS) | st.uuids().map(str),
    "body": st.sampled_from(ODD_JSON) | st.text(max_size=5).map(json.dumps),
    "tags": st.lists(st.none() | texts, max_size=3) | st.just(["a", "\0"]),
}

ROWS = st.fixed_dictionaries(
    {
        "whole": st.none() | st.integers(-3, 5),
        "flag": st.none() | st.booleans(),
        "free": st.none() | st.sampled_from(["a", "b", "x", "z", "za", "B", "ä", ""]),
        "short": st.none() | st.sampled_from(["a", "ab", "äö", "abc", "e\u0301"]),
        "small": st.none() | st.sampled_from([-1, 0, 7]),
        "real": st.none() | st.sampled_from([0.0, 1.0, 1.5, 2.5, float("nan")]),
    }
)


@dataclass(frozen=True)
class Judges:
    """The same table for both."""

    domain: Domain
    connection: psycopg.Connection[Any]

    def pandera(self, rows: Sequence[dict[str, Any]]) -> list[bool]:
        """Whether each row passes, judged together."""
        findings = Findings()
        validate(pandera_schema(self.domain, "thing", findings), self.table(rows), findings)
        assert not findings.errors, findings.errors
        failing = np.logical_or.reduce([np.zeros(len(rows), bool), *findings.masks.values()])
        return (~failing).tolist()

    def pandera_alone(self, row: dict[str, Any]) -> bool:
        """Whether one row passes; an error while judging is a refusal."""
        findings = Findings()
        validate(pandera_schema(self.domain, "thing", findings), self.table([row]), findings)
        return not findings.errors and not any(mask[0] for mask in findings.masks.values())

    def postgres(self, row: dict[str, Any]) -> bool:
        """Whether PostgreSQL stores a row."""
        names = [name for name, value in row.items() if value is not None]
        query = sql.SQL("INSERT INTO odd.thing ({}) VALUES ({})").format(
            sql.SQL(", ").join(sql.Identifier(name) for name in ["thing_id", *names]),
            sql.SQL(", ").join([sql.SQL("'key'"), *(self._literal(name) for name in names)]),
        )
        values = {name: self._parameter(name, row[name]) for name in names}
        try:
            with self.connection.transaction(force_rollback=True):
                self.connection.execute(query, values)
        except (psycopg.DataError, psycopg.IntegrityError):
            return False
        return True

    def table(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        columns = {"thing_id": pa.array([f"key-{number}" for number in range(len(rows))])}
        for name, spec in self.domain.tables["thing"].columns.items():
            if name == "thing_id":
                continue
            wanted = arrow_type(spec.type)
            cells = [row.get(name) for row in rows]
            if spec.type == "date":
                columns[name] = pa.array(cells, pa.int32()).view(wanted)
            elif spec.type == "timestamptz":
                columns[name] = pa.array(cells, pa.int64()).view(wanted)
            else:
                columns[name] = pa.array(cells, wanted)
        return pa.table({**columns, "test_run_id": pa.nulls(len(rows), pa.string())})

    def kind(self, name: str) -> str:
        """The type of a column."""
        return self.domain.tables["thing"].columns[name].type

    def _literal(self, name: str) -> sql.Composable:
        kind, place = self.kind(name), sql.Placeholder(name)
        if kind == "date":
            return sql.SQL("DATE '1970-01-01' + {}::integer").format(place)
        if kind == "timestamptz":
            return sql.SQL(
                "TIMESTAMPTZ 'epoch' + make_interval(days => ({0}::bigint[])[1]::integer) "
                "+ ({0}::bigint[])[2] * INTERVAL '1 microsecond'"
            ).format(place)
        cast = "text[]" if kind == "text[]" else "text"
        name_of_type = {"double": "double precision"}.get(kind, kind)
        return sql.SQL("{}::{}::{}").format(place, sql.SQL(cast), sql.SQL(name_of_type))

    def _parameter(self, name: str, value: Any) -> Any:
        kind = self.kind(name)
        if kind == "timestamptz":
            return list(divmod(value, DAY))
        return value if kind in ("date", "text[]", "text") else str(value)


@pytest.fixture
def judges(empty_database: str) -> Iterator[Judges]:
    files = {
        "atdm.yaml": "default_domain: odd\n",
        "odd/domain.yaml": DOMAIN,
        "odd/tables/thing.yaml": TABLE,
        "odd/one.yaml": SCENARIO,
    }
    registry = Registry.build([SpecFile(name, name, text) for name, text in files.items()])
    with connect(empty_database) as connection:
        initialise(connection, registry)
    with connect(empty_database) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        yield Judges(registry.domains["odd"], connection)


@pytest.mark.long
def test_single_values(judges: Judges) -> None:
    seen: dict[str, set[bool]] = {}

    @settings(
        max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        rows = [
            {name: value}
            for name, strategy in VALUES.items()
            for value in data.draw(st.lists(strategy, min_size=4, max_size=10), label=name)
        ]
        # Division by zero ends the judging of a whole batch: such rows are judged one by one below.
        rows = [row for row in rows if row.get("whole") != 0]
        for row, accepted in zip(rows, judges.pandera(rows), strict=True):
            assert accepted == judges.postgres(row), row
            seen.setdefault(next(iter(row)), set()).add(accepted)

    agree()
    # Texts that pass are rare here; test_odd_texts has both kinds for every column.
    for name in {name for name in VALUES if judges.kind(name) != "text"} - {"flag", "free_real"}:
        assert seen[name] == {True, False}, f"{name} was only ever {seen[name]}"


def test_odd_texts(judges: Judges) -> None:
    names = [
        name
        for name, spec in judges.domain.tables["thing"].columns.items()
        if spec.type == "text" and name != "thing_id"
    ]
    rows: list[dict[str, Any]] = [{name: text} for text in ODD_TEXTS for name in names]
    found = judges.pandera(rows)
    wanted = [judges.postgres(row) for row in rows]
    differing = [row for row, a, b in zip(rows, found, wanted, strict=True) if a != b]
    assert differing == []
    for name in names:
        verdicts = {found[place] for place, row in enumerate(rows) if name in row}
        assert verdicts == {True, False}, f"{name} was only ever {verdicts}"


@pytest.mark.long
def test_rows(judges: Judges) -> None:
    """Row checks: three-valued logic, integer division, errors while judging."""
    seen: set[bool] = set()

    @settings(
        max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(st.lists(ROWS, min_size=10, max_size=14))
    def agree(rows: list[dict[str, Any]]) -> None:
        together = [row for row in rows if row["whole"] != 0]
        verdicts = [
            *zip(together, judges.pandera(together), strict=True),
            *((row, judges.pandera_alone(row)) for row in rows if row["whole"] == 0),
        ]
        for row, accepted in verdicts:
            assert accepted == judges.postgres(row), row
            seen.add(accepted)

    agree()
    assert seen == {True, False}
