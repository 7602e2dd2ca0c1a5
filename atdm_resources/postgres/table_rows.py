"""Rows between PostgreSQL and Arrow, without loss for any type.

A column is held as PostgreSQL writes it: the text of its output function under fixed settings,
which its input function reads back to the same value. Integers, booleans, dates and instants are
held as such. Columns of generated data are held as ``atdm_engine.arrow.types`` has them. NULL and
the empty text differ everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from psycopg import sql

from atdm_engine.arrow.types import arrow_type, column_kind, typed_array
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres import datetimes
from atdm_resources.postgres.columns import TableColumn
from atdm_resources.postgres.copy_binary import BEGIN, END, rows_as_binary
from atdm_resources.postgres.copy_csv import copy_csv
from atdm_resources.postgres.copy_stream import copied
from atdm_resources.postgres.prefetch import prefetch

CHUNK_ROWS: Final = 16_384
"""The most rows that are sent at once."""

_PLAIN = {
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
}
_MOMENTS = re.compile(r"(?P<date>date)|timestamp(\(\d\))? with time zone")
_ESCAPES = (
    ("\\b", "\b"),
    ("\\f", "\f"),
    ("\\n", "\n"),
    ("\\r", "\r"),
    ("\\t", "\t"),
    ("\\v", "\v"),
)
_SLASH = b"\\"[0]
_BACKSLASH = "\0"
"""Replaces a backslash during unescaping: no text of a database can hold it."""

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


def fix_text_form(conn: psycopg.Connection[Any]) -> None:
    """Fix how values are written and read in this transaction; takes no snapshot.

    Names in values (``regclass``) are written with their schema. Rows that row-level security hides
    raise an error.
    """
    for statement in _SETTINGS:
        conn.execute(statement.encode())
    conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")


def allow_bulk_load(conn: psycopg.Connection[Any]) -> None:
    """Let this transaction make large indexes in memory; compiling queries does not pay for it."""
    conn.execute("SET LOCAL maintenance_work_mem = '256MB'")
    conn.execute("SET LOCAL jit = off")


def typed(column: TableColumn) -> TableColumn:
    """``column`` as a captured baseline holds it: dates and instants are not texts."""
    match = _MOMENTS.fullmatch(column.type)
    if match is None:
        return column
    spec_type = "date" if match["date"] else "timestamptz"
    return column.model_copy(update={"spec_type": spec_type})


def arrow_schema(columns: Sequence[TableColumn]) -> pa.Schema:
    """The Arrow types of a table's stored columns."""
    return pa.schema(
        [pa.field(column.name, _arrow(column), nullable=column.nullable) for column in columns]
    )


def _arrow(column: TableColumn) -> pa.DataType:
    if column.spec_type is not None:
        return arrow_type(column.spec_type)
    return _PLAIN.get(column.type, pa.string())


def read_rows(
    conn: psycopg.Connection[Any], relation: sql.Composable, columns: Sequence[TableColumn]
) -> Iterator[pa.RecordBatch]:
    """Every row of one table (not of those that inherit from it), in the transaction of ``conn``.

    While the caller works on one batch, the next is fetched. ``columns`` must not be empty.
    """
    if any(_as_json(column) for column in columns):
        source = sql.SQL("(SELECT {} FROM ONLY {})").format(selected(columns), relation)
        return read_source(conn, source, columns)
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
    return read_source(conn, sql.SQL("{} ({})").format(relation, names), columns)


def selected(columns: Sequence[TableColumn]) -> sql.Composed:
    """The columns for a query that ``read_source`` reads."""
    return sql.SQL(", ").join(_selected(column) for column in columns)


def _selected(column: TableColumn) -> sql.Composable:
    name = sql.Identifier(column.name)
    if not _as_json(column):
        return name
    # JSON has one form for the elements of every type; the array's own text does not. Elements
    # that are JSON themselves go as text, or their null would be no different from NULL.
    json = column.spec_type == "jsonb[]"
    form = "array_to_json({}::text[])::text" if json else "array_to_json({})::text"
    return sql.SQL(form).format(name)


def read_source(
    conn: psycopg.Connection[Any], source: sql.Composable, columns: Sequence[TableColumn]
) -> Iterator[pa.RecordBatch]:
    """The rows of ``source``: a table with its columns, or a query in parentheses."""
    statement = sql.SQL("COPY {} TO STDOUT").format(source)
    checked = conn.info.parameter_status("server_encoding") != "SQL_ASCII"
    for text in prefetch(copied(conn, statement)):
        yield _parsed(columns, text, checked=checked)


def write_rows(
    conn: psycopg.Connection[Any],
    relation: sql.Composable,
    columns: Sequence[TableColumn],
    batches: Iterable[pa.RecordBatch],
) -> int:
    """COPY rows into a table, in the transaction of ``conn``; returns how many."""
    pieces = prefetch(encoded(batches, columns, binary=False))
    return send_rows(conn, relation, [column.name for column in columns], pieces)


def send_rows(
    conn: psycopg.Connection[Any],
    relation: sql.Composable,
    columns: Sequence[str],
    pieces: Iterable[tuple[int, Any]],
    *,
    binary: bool = False,
    frozen: bool = False,
) -> int:
    """COPY encoded rows into a table; returns how many.

    ``pieces`` have a number of rows and their bytes, as CSV or ``binary``. ``frozen`` writes the
    rows as if they were old already: for a table that this transaction has truncated.
    """
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {}{})").format(
        relation,
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL("binary" if binary else "csv"),
        sql.SQL(", FREEZE" if frozen else ""),
    )
    rows = 0
    with conn.cursor().copy(statement) as copy:
        if binary:
            copy.write(BEGIN)
        for count, content in pieces:
            copy.write(memoryview(content))
            rows += count
        if binary:
            copy.write(END)
    return rows


def truncate(conn: psycopg.Connection[Any], relations: Sequence[sql.Composable]) -> None:
    """Empty tables, and no others that refer to them."""
    conn.execute(sql.SQL("TRUNCATE ONLY {}").format(sql.SQL(", ONLY ").join(relations)))


def add_empty_rows(conn: psycopg.Connection[Any], relation: sql.Composable, rows: int) -> None:
    """Insert rows into a table without columns that could be sent."""
    conn.execute(
        sql.SQL("INSERT INTO {} SELECT FROM generate_series(1, {})").format(
            relation, sql.Literal(rows)
        )
    )


def count_rows(conn: psycopg.Connection[Any], relation: sql.Composable) -> int:
    """How many rows a table holds, without those of tables that inherit from it."""
    row = conn.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(relation)).fetchone()
    assert row is not None
    return int(row[0])


def as_columns(
    batch: pa.RecordBatch, have: Sequence[TableColumn], want: Sequence[TableColumn]
) -> pa.RecordBatch:
    """``batch``, whose columns are ``have``, with only the columns ``want``, in their form.

    Raises:
        AtdmError: BASELINE_INVALID when one form cannot be read as the other (an array).
    """
    there = {column.name: column for column in have}
    arrays = [_as_column(batch.column(column.name), there[column.name], column) for column in want]
    return pa.record_batch(arrays, names=[column.name for column in want])


def _as_column(array: pa.Array, have: TableColumn, want: TableColumn) -> pa.Array:
    kind = _arrow(want)
    if array.type == kind:
        return array
    if _as_json(want) or _as_json(have):
        raise AtdmError(
            ErrorCode.BASELINE_INVALID,
            "a captured and a generated baseline with array columns cannot be compared; restore "
            "one and compare it with live",
            {"column": want.name},
        )
    if pa.types.is_temporal(array.type):
        array = datetimes.as_text(array)
    elif pa.types.is_floating(array.type):
        # CSV has the shortest text of a number, as PostgreSQL does.
        text = copy_csv(pa.record_batch([array], names=["number"])).to_pybytes().decode("ascii")
        array = pa.array([line or None for line in text.splitlines()], pa.string())
    if pa.types.is_temporal(kind):
        return datetimes.from_text(array, kind)
    return array.cast(kind)


def encoded(
    batches: Iterable[pa.RecordBatch], columns: Sequence[TableColumn], *, binary: bool
) -> Iterator[tuple[int, pa.Buffer]]:
    """Rows as COPY reads them, CHUNK_ROWS at a time: their number and their bytes."""
    for batch in batches:
        for start in range(0, batch.num_rows, CHUNK_ROWS):
            part = batch.slice(start, CHUNK_ROWS)
            if binary:
                yield part.num_rows, rows_as_binary(part, columns)
            else:
                yield part.num_rows, copy_csv(_readable(part))


def _readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """``batch`` with moments as text where PostgreSQL would not read what Arrow writes."""
    arrays = [
        array if not pa.types.is_temporal(array.type) or datetimes.usual(array)
        else datetimes.as_text(array)
        for array in batch.columns
    ]  # fmt: skip
    return pa.record_batch(arrays, names=batch.schema.names)


def _as_json(column: TableColumn) -> bool:
    return column.spec_type is not None and column_kind(column.spec_type).array


def _parsed(columns: Sequence[TableColumn], text: pa.Buffer, *, checked: bool) -> pa.RecordBatch:
    """Rows from COPY's text: tabs between columns, backslashes before special characters."""
    schema = arrow_schema(columns)
    by_value = {
        column.name: column.spec_type
        for column in columns
        if column.spec_type is not None
        and (column_kind(column.spec_type).array or column_kind(column.spec_type).base == "jsonb")
    }
    types = [pa.string() if field.name in by_value else field.type for field in schema]
    try:
        table = _split(text, types, checked)
    except pa.ArrowInvalid:
        # A moment that Arrow has no text for: infinity, or a year of five digits.
        readable = [pa.string() if pa.types.is_temporal(kind) else kind for kind in types]
        table = _split(text, readable, checked)
    arrays = []
    for field, column in zip(schema, table.combine_chunks().columns, strict=True):
        array = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        if pa.types.is_string(array.type):
            array = _unescaped(array)
        if field.name in by_value:
            array = typed_array(by_value[field.name], array.to_pylist())
        elif pa.types.is_temporal(field.type) and pa.types.is_string(array.type):
            array = datetimes.from_text(array, field.type)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _split(text: pa.Buffer, types: Sequence[pa.DataType], checked: bool) -> pa.Table:
    names = [str(place) for place in range(len(types))]
    return pyarrow.csv.read_csv(
        pa.BufferReader(text),
        read_options=pyarrow.csv.ReadOptions(
            # One block, because a row that is larger than a block is an error.
            column_names=names,
            use_threads=False,
            block_size=text.size + 1,
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter="\t", quote_char=False, ignore_empty_lines=False
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict(zip(names, types, strict=True)),
            null_values=["\\N"],
            strings_can_be_null=True,
            # A server that knows its encoding sends valid UTF-8.
            check_utf8=not checked,
            true_values=["t"],
            false_values=["f"],
        ),
    )


def _unescaped(texts: pa.StringArray) -> pa.StringArray:
    """Texts without the backslashes that COPY has put into them."""
    data = texts.buffers()[2]
    if data is None or not np.any(np.frombuffer(data, np.uint8) == _SLASH):
        return texts
    texts = pc.replace_substring(texts, "\\\\", _BACKSLASH)
    for escape, character in _ESCAPES:
        texts = pc.replace_substring(texts, escape, character)
    return pc.replace_substring(texts, _BACKSLASH, "\\")
