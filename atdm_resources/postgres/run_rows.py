"""Rows of runs as PostgreSQL holds them, typed as the generator made them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv
from psycopg import sql

from atdm_engine.arrow.types import column_kind, typed_array
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_engine.spec.table import TableSpec

_ROWS_A_BATCH = 65_536


def rows_of_request(
    conn: psycopg.Connection[Any],
    schema: str,
    table: str,
    spec: TableSpec,
    request_id: str,
    *,
    batch_rows: int = _ROWS_A_BATCH,
) -> Iterator[pa.Table]:
    """The rows of every run of a request, ordered by run."""
    condition = sql.SQL("{run} > {low} AND {run} <= {high} ORDER BY {run}").format(
        run=sql.Identifier(RUN_COLUMN),
        low=sql.Literal(request_id),
        high=sql.Literal(request_id[:20] + "ZZZZZZ"),
    )
    return _rows(conn, schema, table, spec, condition, batch_rows)


def rows_of_run(
    conn: psycopg.Connection[Any], schema: str, table: str, spec: TableSpec, test_run_id: str
) -> pa.Table:
    """The rows of one run."""
    condition = sql.SQL("{} = {}").format(sql.Identifier(RUN_COLUMN), sql.Literal(test_run_id))
    return _whole(conn, schema, table, spec, condition)


def shared_rows(
    conn: psycopg.Connection[Any], schema: str, table: str, spec: TableSpec
) -> pa.Table:
    """The rows that belong to no run: reference rows, and what the application wrote."""
    condition = sql.SQL("{} IS NULL").format(sql.Identifier(RUN_COLUMN))
    return _whole(conn, schema, table, spec, condition)


def keys_of_request(
    conn: psycopg.Connection[Any],
    schema: str,
    table: str,
    key_columns: Sequence[str],
    request_id: str,
) -> list[str]:
    """The primary keys of a request's rows, sorted; the columns of a key are joined by commas."""
    query = sql.SQL(
        "SELECT concat_ws(',', {}) FROM {} WHERE {run} > %(request)s"
        " AND {run} <= left(%(request)s, 20) || 'ZZZZZZ' ORDER BY 1"
    ).format(
        sql.SQL(", ").join(map(sql.Identifier, key_columns)),
        sql.Identifier(schema, table),
        run=sql.Identifier(RUN_COLUMN),
    )
    return [key for (key,) in conn.execute(query, {"request": request_id})]


def _whole(
    conn: psycopg.Connection[Any],
    schema: str,
    table: str,
    spec: TableSpec,
    condition: sql.Composable,
) -> pa.Table:
    parts = list(_rows(conn, schema, table, spec, condition, _ROWS_A_BATCH))
    return pa.concat_tables(parts) if parts else spec.arrow_schema.empty_table()


def _rows(
    conn: psycopg.Connection[Any],
    schema: str,
    table: str,
    spec: TableSpec,
    condition: sql.Composable,
    batch_rows: int,
) -> Iterator[pa.Table]:
    selected = [_selected(name, column.type) for name, column in spec.columns.items()]
    statement = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT (FORMAT csv)").format(
        sql.SQL(", ").join([*selected, sql.Identifier(RUN_COLUMN)]),
        sql.Identifier(schema, table),
        condition,
    )
    with conn.transaction():
        # Timestamps come in the session's zone, floats in its precision.
        conn.execute("SET LOCAL TimeZone = 'UTC'")
        conn.execute("SET LOCAL DateStyle = 'ISO, YMD'")
        conn.execute("SET LOCAL extra_float_digits = 1")
        with conn.cursor().copy(statement) as copy:
            lines: list[bytes] = []
            for line in copy:
                lines.append(bytes(line))
                if len(lines) == batch_rows:
                    yield _parsed(spec, lines)
                    lines = []
            if lines:
                yield _parsed(spec, lines)


def _selected(name: str, column_type: str) -> sql.Composable:
    kind = column_kind(column_type)
    if kind.array:
        # JSON has one form for the elements of every type; the array's own text does not. Elements
        # that are JSON themselves go as text, or their null would be no different from NULL.
        form = (
            "array_to_json({}::text[])::text" if kind.base == "jsonb" else "array_to_json({})::text"
        )
        return sql.SQL(form).format(sql.Identifier(name))
    return sql.Identifier(name)


def _parsed(spec: TableSpec, lines: list[bytes]) -> pa.Table:
    """CSV lines as a table. JSON and arrays are read as text and brought to their one form."""
    schema = spec.arrow_schema
    as_text = {
        name
        for name, column in spec.columns.items()
        if column_kind(column.type).array or column_kind(column.type).base == "jsonb"
    }
    table = pyarrow.csv.read_csv(
        io.BytesIO(b"".join(lines)),
        read_options=pyarrow.csv.ReadOptions(column_names=schema.names, use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={
                field.name: pa.string() if field.name in as_text else field.type for field in schema
            },
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        ),
    )
    columns = [
        typed_array(spec.columns[name].type, table.column(name).to_pylist())
        if name in as_text
        else table.column(name)
        for name in schema.names
    ]
    return pa.table(columns, schema=schema)
