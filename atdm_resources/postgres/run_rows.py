"""Rows of runs as PostgreSQL holds them, typed as the generator made them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_engine.spec.table import TableSpec
from atdm_resources.postgres.columns import TableColumn
from atdm_resources.postgres.table_rows import read_source, selected


def rows_of_request(
    conn: psycopg.Connection[Any],
    schema: str,
    table: str,
    spec: TableSpec,
    request_id: str,
) -> Iterator[pa.Table]:
    """The rows of every run of a request, ordered by run."""
    condition = sql.SQL("{run} > {low} AND {run} <= {high} ORDER BY {run}").format(
        run=sql.Identifier(RUN_COLUMN),
        low=sql.Literal(request_id),
        high=sql.Literal(request_id[:20] + "ZZZZZZ"),
    )
    return _rows(conn, schema, table, spec, condition)


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
    parts = list(_rows(conn, schema, table, spec, condition))
    return pa.concat_tables(parts) if parts else spec.arrow_schema.empty_table()


def _rows(
    conn: psycopg.Connection[Any],
    schema: str,
    table: str,
    spec: TableSpec,
    condition: sql.Composable,
) -> Iterator[pa.Table]:
    columns = [
        TableColumn(name=name, type=column.type, spec_type=column.type)
        for name, column in spec.columns.items()
    ]
    columns.append(TableColumn(name=RUN_COLUMN, type="text", spec_type="text"))
    source = sql.SQL("(SELECT {} FROM {} WHERE {})").format(
        selected(columns), sql.Identifier(schema, table), condition
    )
    with conn.transaction():
        # Timestamps come in the session's zone, floats in its precision.
        conn.execute("SET LOCAL TimeZone = 'UTC'")
        conn.execute("SET LOCAL DateStyle = 'ISO, YMD'")
        conn.execute("SET LOCAL extra_float_digits = 1")
        for batch in read_source(conn, source, columns):
            yield pa.Table.from_arrays(batch.columns, schema=spec.arrow_schema)
