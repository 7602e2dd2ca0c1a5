"""``sql``: a DuckDB expression over the rows of a batch.

Columns of the row are bare names; ``<table>.<column>`` is a column of the row it refers to,
``parent.<column>`` of the row it was made for; rows that refer to it stand in subqueries under
the names of their tables. Those columns are handed over by position, as columns of the row:
DuckDB joins nothing but what a subquery itself joins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Protocol

import duckdb
import pyarrow as pa
from pydantic import Field

from atdm_engine.arrow.duck import (
    SqlProblem,
    first_line,
    inspect_expression,
    quoted,
    reading,
    renamed,
)
from atdm_engine.arrow.types import arrow_type, canonical_json, column_kind
from atdm_engine.generators.base import GeneratorModel
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding

_PLAIN = re.compile(r"(?:[a-z][a-z0-9_]*\.)?[a-z][a-z0-9_]*\Z")
_ROWS = "_rows"
_INDEX = "_row"
_DUCKDB_TYPES = {
    "text": "VARCHAR",
    "uuid": "VARCHAR",
    "jsonb": "VARCHAR",
    "smallint": "SMALLINT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamptz": "TIMESTAMPTZ",
}


class Sql(GeneratorModel):
    """``{sql: quantity * unit_price}``: a DuckDB expression over the row.

    Columns of the row are bare names, columns of the row it refers to are ``<table>.<column>``,
    those of the row it was made for (``per``) are ``parent.<column>``; rows that refer to it are
    tables of their own names for a subquery.
    """

    sql: str = Field(min_length=1)

    def own_columns(self) -> Iterable[str]:
        try:
            used = inspect_expression(self.sql)
        except SqlProblem:
            return ()
        # In a subquery a bare name may be a column of the rows that it reads.
        return [] if used.tables else [column for table, column in used.columns if table == ""]

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        try:
            inspect_expression(self.sql)
        except SqlProblem as error:
            start = self.sql if len(self.sql) <= 60 else self.sql[:57] + "..."
            yield Finding(("sql",), repr(start), error.message)

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        return cells.around.expression(self.sql, column_type)


class SqlRows(Protocol):
    """Rows as an expression sees them."""

    def __len__(self) -> int: ...

    @property
    def table(self) -> str:
        """The table of the rows."""
        ...

    @property
    def own_names(self) -> Collection[str]:
        """The columns of the rows that are made without this expression."""
        ...

    @property
    def constraints(self) -> Collection[str]:
        """The constraints of the scenario."""
        ...

    def column(self, name: str) -> pa.Array:
        """A column of the rows, of the rows above them or of rows that they refer to."""
        ...

    def rows_of(self, table: str, names: Collection[str]) -> pa.Table:
        """All rows of a table, with those of its columns that are among ``names``."""
        ...


def evaluate(rows: SqlRows, sql: str, column_type: str) -> pa.Array:
    """The values of ``sql`` for rows, as a column type; ValueError says why there are none."""
    text = sql.strip()
    target = arrow_type(column_type)
    if _PLAIN.match(text) and text not in ("true", "false", "null"):
        column = rows.column(text)
        if column.type == target:
            return column
    inspected = inspect_expression(text)
    own: dict[str, pa.Array] = {}
    elsewhere: list[str] = []
    for table, name in sorted(inspected.columns):
        if table in ("", rows.table):
            if name in rows.own_names or (not table and name in rows.constraints):
                own[name] = rows.column(name)
        elif table not in inspected.tables:
            own[f"{table}.{name}"] = rows.column(f"{table}.{name}")
            elsewhere.append(table)
    query = _query(text, rows.table, tuple(elsewhere), _duckdb_type(column_type))
    children = {
        table: rows.rows_of(
            table, {name for owner, name in inspected.columns if owner in ("", table)}
        )
        for table in inspected.tables
    }
    own[_INDEX] = pa.array(range(len(rows)), pa.int64())
    values = _run(query, {_ROWS: pa.table(own), **children})
    if len(values) != len(rows):
        raise ValueError("the expression must give one value a row")
    return _as_column(values, column_type)


def _duckdb_type(column_type: str) -> str:
    kind = column_kind(column_type)
    name = (
        f"DECIMAL({kind.precision},{kind.scale})"
        if kind.base == "numeric"
        else _DUCKDB_TYPES[kind.base]
    )
    return f"{name}[]" if kind.array else name


@lru_cache(maxsize=256)
def _query(sql: str, own_table: str, elsewhere: tuple[str, ...], duckdb_type: str) -> str:
    """The query that makes the column: names of other rows' columns become columns of the row."""
    text = (
        f"SELECT CAST(({sql}\n) AS {duckdb_type}) AS value "
        f"FROM {_ROWS} AS {quoted(own_table)} ORDER BY {quoted(_INDEX)}"
    )
    return renamed(text, elsewhere) if elsewhere else text


def _run(query: str, tables: dict[str, pa.Table]) -> pa.Array:
    with reading(**tables) as reader:
        try:
            result: pa.Table = reader.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise SqlProblem(first_line(error)) from error
    return result.column(0).combine_chunks()


def _as_column(values: pa.Array, column_type: str) -> pa.Array:
    target = arrow_type(column_type)
    made = values if values.type == target else values.cast(target)
    kind = column_kind(column_type)
    if kind.base != "jsonb" or kind.array:
        return made
    encoded = made.dictionary_encode()
    distinct = [_canonical(text) for text in encoded.dictionary.to_pylist()]
    return pa.array(distinct, pa.string()).take(encoded.indices)


def _canonical(text: str | None) -> str | None:
    return None if text is None else canonical_json(json.loads(text))
