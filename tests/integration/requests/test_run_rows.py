"""Every column type, odd values included: what is loaded is what is read back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from atdm_engine.arrow.types import canonical_json
from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_engine.model import Domain
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.ddl import constraint_name
from atdm_resources.postgres.ownership import RunColumn
from atdm_resources.postgres.run_rows import rows_of_request, rows_of_run, shared_rows
from atdm_services.target.init import initialise

REQUEST = "01K0ABCDEF0123456789000000"
RUN = "01K0ABCDEF0123456789000001"
TYPES = {
    "words": "text",
    "small": "smallint",
    "whole": "integer",
    "big": "bigint",
    "money": "numeric(12,3)",
    "real": "double",
    "flag": "boolean",
    "day": "date",
    "moment": "timestamptz",
    "token": "uuid",
    "body": "jsonb",
}
VALUES: dict[str, list[Any]] = {
    "words": [
        "",
        "null",
        "NULL",
        "\\N",
        "\\.",
        'a"b',
        "c,d\n e\r\n",
        "\t",
        "ä\U0001f9ea",
        "{}",
        "'",
    ],
    "small": [-32768, 0, 32767],
    "whole": [-(2**31), 2**31 - 1],
    "big": [-(2**63), 2**63 - 1],
    "money": [Decimal("-999999999.999"), Decimal("0.000"), Decimal("0.001")],
    "real": [0.1, -0.0, 1e308, 5e-324, 1 / 3, float("inf"), float("-inf")],
    "flag": [True, False],
    "day": [date(1, 1, 1), date(1900, 2, 28), date(2026, 12, 31), date(9999, 12, 31)],
    "moment": [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
    "token": ["00000000-0000-0000-0000-000000000000", "123e4567-e89b-42d3-a456-426614174000"],
    "body": [
        canonical_json(value)
        for value in (
            None,
            {"b": [1, 2.5, None], "a": {"long key": 'x"y'}, "c": "\u2028"},
            [],
            "text",
            12345678901234567890,
        )
    ],
}


@pytest.fixture(scope="module")
def domain() -> Domain:
    columns = "".join(
        f"  {name}: {{type: '{kind}', nullable: true}}\n"
        f"  {name}_list: {{type: '{kind}[]', nullable: true}}\n"
        for name, kind in TYPES.items()
    )
    table = (
        "description: Everything\nkey: thing_id\ncolumns:\n"
        "  thing_id: {type: text, generate: {id: thing}}\n" + columns
    )
    return Registry.build(
        [
            SpecFile("d", "kinds/domain.yaml", "description: x"),
            SpecFile("t", "kinds/tables/thing.yaml", table),
            SpecFile("a", "atdm.yaml", "default_domain: kinds"),
        ]
    ).domains["kinds"]


@pytest.fixture
def conn(empty_database: str, domain: Domain) -> Iterator[psycopg.Connection[Any]]:
    with connect(empty_database) as connection:
        initialise(connection, Registry("kinds", {"kinds": domain}))
        # The session's own settings must not show in what is read.
        connection.execute("SET TimeZone = 'Asia/Kathmandu'")
        connection.execute("SET DateStyle = 'German'")
        connection.execute("SET extra_float_digits = -5")
        yield connection


def rows(domain: Domain) -> pa.Table:
    """A row a value, each beside a list of all values of its type, and NULL everywhere else."""
    schema = domain.tables["thing"].arrow_schema
    made: list[dict[str, Any]] = []
    for name, values in VALUES.items():
        for value in values:
            made.append({name: value, f"{name}_list": [value, None, *values]})
        made.append({f"{name}_list": []})
    for number, row in enumerate(made):
        row["thing_id"] = f"thing-{RUN}-{number}"
        row["test_run_id"] = RUN
    return pa.Table.from_pylist(made, schema=schema)


def test_every_value_comes_back_as_it_went(conn: psycopg.Connection[Any], domain: Domain) -> None:
    spec = domain.tables["thing"]
    made = rows(domain)
    loaded = RunColumn().load(conn, "kinds", "thing", made.to_batches(max_chunksize=7))
    assert loaded.rows == made.num_rows
    assert loaded.bytes > 0
    for found in (
        pa.concat_tables(rows_of_request(conn, "kinds", "thing", spec, REQUEST)),
        rows_of_run(conn, "kinds", "thing", spec, RUN),
    ):
        assert found.schema == made.schema
        ordered = found.sort_by("thing_id").combine_chunks()
        expected = made.sort_by("thing_id").combine_chunks()
        for name in made.schema.names:
            assert ordered.column(name).equals(expected.column(name)), name
    assert shared_rows(conn, "kinds", "thing", spec).num_rows == 0
    shown = conn.execute("SHOW TimeZone").fetchone()
    assert shown == ("Asia/Kathmandu",), "the caller's settings are the caller's again"


def test_a_failing_source_ends_the_copy_and_the_thread(
    conn: psycopg.Connection[Any], domain: Domain
) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from rows(domain).to_batches(max_chunksize=3)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        RunColumn().load(conn, "kinds", "thing", broken())
    assert shared_rows(conn, "kinds", "thing", domain.tables["thing"]).num_rows == 0
    row = conn.execute("SELECT count(*) FROM kinds.thing").fetchone()
    assert row == (0,)


def test_a_refused_row_ends_the_copy_while_more_are_being_encoded(
    conn: psycopg.Connection[Any], domain: Domain
) -> None:
    made = rows(domain)

    def twice() -> Iterator[pa.RecordBatch]:
        for _ in range(50):
            yield from made.to_batches()

    with pytest.raises(psycopg.errors.UniqueViolation):
        RunColumn().load(conn, "kinds", "thing", twice())
    assert conn.execute("SELECT count(*) FROM kinds.thing").fetchone() == (0,)


def test_nothing_to_load_is_nothing(conn: psycopg.Connection[Any]) -> None:
    assert RunColumn().load(conn, "kinds", "thing", []).rows == 0


CONDITIONS = """\
description: Conditions with signs that mean something to drivers
key: thing_id
columns:
  thing_id: {type: text, generate: {id: thing}}
  code: {type: text, nullable: true, pattern: "%[a-z]{2}:\\\\(x\\\\)"}
  share: {type: integer, nullable: true}
  a_column_with_a_very_long_name_of_fifty_one_chars__: {type: text, nullable: true, max_length: 3}
  another_one_with_a_very_long_name_of_fifty_one_char: {type: text, nullable: true, max_length: 3}
unique:
  - [code, share]
checks:
  percent: share % 7 <> 3 OR code LIKE '%:%'
  cast_and_colon: CAST(share AS text) <> ':12' AND share::text <> '13'
"""


def test_signs_in_conditions_reach_postgresql_as_they_are(empty_database: str) -> None:
    registry = Registry.build(
        [
            SpecFile("d", "signs/domain.yaml", "description: x"),
            SpecFile("t", "signs/tables/thing.yaml", CONDITIONS),
            SpecFile("a", "atdm.yaml", "default_domain: signs"),
        ]
    )
    with connect(empty_database) as conn:
        initialise(conn, registry)
        assert not initialise(conn, registry).changed

        def insert(code: str | None, share: int) -> None:
            conn.execute(
                "INSERT INTO signs.thing (thing_id, code, share) VALUES (%s, %s, %s)",
                (f"{code}{share}", code, share),
            )

        insert("%ab:(x)", 3)
        for code, share, constraint in (
            ("%ab:x", 1, "ck_thing_code_pattern"),
            ("ab:(x)", 1, "ck_thing_code_pattern"),
            (None, 13, "ck_thing_cast_and_colon"),
            ("%ab:(x)", 3, "pk_thing"),
        ):
            with pytest.raises(psycopg.errors.IntegrityError) as caught:
                insert(code, share)
            assert caught.value.diag.constraint_name == constraint


def test_long_names_stay_apart() -> None:
    first = constraint_name("ck", "t" * 51, "c" * 51, "max_length")
    second = constraint_name("ck", "t" * 51, "c" * 51, "min_length")
    assert first != second
    assert len(first) == len(second) == 63
    assert constraint_name("ck", "claim", "status", "values") == "ck_claim_status_values"
