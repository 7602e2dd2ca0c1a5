"""Rows between PostgreSQL and Arrow, without loss for any type.

Belongs here: how a baseline's columns stand in Arrow, reading a table into it and writing it back.
Does not belong here: which tables (``structure``), files (``part_files``), transactions.

A column stands as PostgreSQL writes it itself: the text of its output function under fixed
settings, which its input function reads back to the same value. Integers and booleans stand as
such. Columns of generated data stand as ``atdm_engine.types`` has them. NULL and the empty text
differ throughout.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import psycopg
import pyarrow as pa
import pyarrow.csv
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.types import arrow_type, column_kind, typed_array
from atdm_resources.baselines.copy_stream import copied
from atdm_resources.baselines.manifest import BaselineColumn
from atdm_resources.encoding import copy_csv

Item = TypeVar("Item")

CHUNK_ROWS: Final = 32_768
"""So many rows are sent at once at most."""

_PLAIN = {
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
}
_SETTINGS = (
    "SET LOCAL client_encoding = 'UTF8'",
    "SET LOCAL TimeZone = 'UTC'",
    "SET LOCAL DateStyle = 'ISO, YMD'",
    "SET LOCAL IntervalStyle = 'postgres'",
    "SET LOCAL extra_float_digits = 1",
    "SET LOCAL bytea_output = 'hex'",
    "SET LOCAL lc_monetary = 'C'",
    "SET LOCAL xmloption = 'content'",
    "SET LOCAL row_security = off",
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
)
_END = object()


def fix_text_form(conn: psycopg.Connection[Any]) -> None:
    """Fix, for this transaction, how values are written and read; takes no snapshot.

    Names in values (``regclass``) are written with their schema. Rows hidden by row-level security
    are an error instead of a gap.
    """
    for statement in _SETTINGS:
        conn.execute(statement.encode())
    conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")


def arrow_schema(columns: Sequence[BaselineColumn]) -> pa.Schema:
    """The Arrow types of a table's stored columns."""
    return pa.schema([pa.field(column.name, _arrow(column)) for column in columns])


def _arrow(column: BaselineColumn) -> pa.DataType:
    if column.spec_type is not None:
        return arrow_type(column.spec_type)
    return _PLAIN.get(column.type, pa.string())


def read_rows(
    conn: psycopg.Connection[Any], relation: sql.Composable, columns: Sequence[BaselineColumn]
) -> Iterator[pa.RecordBatch]:
    """Every row of one table (not of those that inherit from it), in the transaction of ``conn``.

    While one batch is worked on, the next is being fetched. ``columns`` must not be empty.
    """
    if any(_as_json(column) for column in columns):
        selected = sql.SQL(", ").join(_selected(column) for column in columns)
        return read_source(
            conn, sql.SQL("(SELECT {} FROM ONLY {})").format(selected, relation), columns
        )
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
    return read_source(conn, sql.SQL("{} ({})").format(relation, names), columns)


def read_source(
    conn: psycopg.Connection[Any], source: sql.Composable, columns: Sequence[BaselineColumn]
) -> Iterator[pa.RecordBatch]:
    """What COPY reads from ``source``: a table with its columns, or a query in parentheses."""
    statement = sql.SQL("COPY {} TO STDOUT (FORMAT csv)").format(source)
    for text in ahead(copied(conn, statement)):
        yield from _parsed(columns, text).to_batches()


def write_rows(
    conn: psycopg.Connection[Any],
    relation: sql.Composable,
    columns: Sequence[BaselineColumn],
    batches: Iterable[pa.RecordBatch],
    *,
    freeze: bool = False,
) -> int:
    """COPY rows into a table, in the transaction of ``conn``; returns how many.

    ``freeze`` writes them as if they were old already: only for a table that this transaction has
    truncated.
    """
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv{})").format(
        relation, names, sql.SQL(", FREEZE" if freeze else "")
    )
    rows = 0
    with conn.cursor().copy(statement) as copy:
        for count, text in ahead(_encoded(batches)):
            copy.write(memoryview(text))
            rows += count
    return rows


def as_columns(
    batch: pa.RecordBatch, have: Sequence[BaselineColumn], want: Sequence[BaselineColumn]
) -> pa.RecordBatch:
    """``batch``, whose columns are ``have``, with the columns ``want`` alone, in their form.

    Raises:
        AtdmError: BASELINE_INVALID when the one form cannot be read as the other (an array).
    """
    names = [column.name for column in want]
    chosen = batch.select(names)
    there = {column.name: column for column in have}
    if chosen.schema.equals(arrow_schema(want)):
        return chosen
    if any(_as_json(column) or _as_json(there[column.name]) for column in want):
        raise AtdmError(
            ErrorCode.BASELINE_INVALID,
            "a captured and a generated baseline with array columns cannot be compared; restore "
            "one and compare it with live",
            {"columns": names},
        )
    (converted,) = _parsed(want, copy_csv(chosen).to_pybytes()).combine_chunks().to_batches()
    return converted


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """``items``, each being made in a thread while the one before it is worked on."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="atdm-baseline") as pool:
        coming = pool.submit(next, iterator, _END)
        try:
            while (item := coming.result()) is not _END:
                coming = pool.submit(next, iterator, _END)
                yield item  # type: ignore[misc]
        finally:
            coming.exception()
            close = getattr(iterator, "close", None)
            if close is not None:
                close()


def _encoded(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.Buffer]]:
    for batch in batches:
        for start in range(0, batch.num_rows, CHUNK_ROWS):
            part = batch.slice(start, CHUNK_ROWS)
            yield part.num_rows, copy_csv(part)


def _as_json(column: BaselineColumn) -> bool:
    return column.spec_type is not None and column_kind(column.spec_type).array


def _selected(column: BaselineColumn) -> sql.Composable:
    name = sql.Identifier(column.name)
    # JSON has one form for the elements of every type; the array's own text does not.
    return sql.SQL("array_to_json({})::text").format(name) if _as_json(column) else name


def _parsed(columns: Sequence[BaselineColumn], text: bytes) -> pa.Table:
    schema = arrow_schema(columns)
    by_value = {
        column.name: column.spec_type
        for column in columns
        if column.spec_type is not None
        and (column_kind(column.spec_type).array or column_kind(column.spec_type).base == "jsonb")
    }
    table = pyarrow.csv.read_csv(
        io.BytesIO(text),
        read_options=pyarrow.csv.ReadOptions(
            # One block: a row that is larger than the usual block would be an error.
            column_names=schema.names,
            use_threads=False,
            block_size=len(text) + 1,
        ),
        parse_options=pyarrow.csv.ParseOptions(
            # Line breaks only stand in quotes; looking for them costs half as much again.
            newlines_in_values=b'"' in text,
            ignore_empty_lines=False,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={
                field.name: pa.string() if field.name in by_value else field.type
                for field in schema
            },
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t", "true"],
            false_values=["f", "false"],
        ),
    )
    if not by_value:
        return table
    arrays = [
        typed_array(by_value[name], table.column(name).to_pylist())
        if name in by_value
        else table.column(name)
        for name in schema.names
    ]
    return pa.table(arrays, schema=schema)
