"""Columns made of SQL: a DuckDB expression over the rows of a batch.

Columns of the row are bare names; ``<table>.<column>`` is a column of the row it refers to,
``parent.<column>`` of the row it was made for; rows that refer to it stand in subqueries under
the names of their tables. Those columns are handed over by position, as columns of the row:
DuckDB joins nothing but what a subquery itself joins.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from atdm_engine.arrow.duck import SqlProblem, connect, first_line, inspect_expression, quoted
from atdm_engine.arrow.types import arrow_type, canonical_json, column_kind

if TYPE_CHECKING:
    from atdm_engine.generation.batch import GroupView

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


def expression(view: GroupView, sql: str, column_type: str) -> pa.Array:
    """The values of ``sql`` for the rows of a group, as a column type; ValueError says why not."""
    text = sql.strip()
    target = arrow_type(column_type)
    if _PLAIN.match(text) and text not in ("true", "false", "null"):
        column = view.column(text)
        if column.type == target:
            return column
    inspected = inspect_expression(text)
    plan = view.batch.plan
    own_table = plan.table_name(view.group)
    own: dict[str, pa.Array] = {}
    elsewhere: dict[str, str] = {}
    for table, name in sorted(inspected.columns):
        if table in ("", own_table):
            usable = name in plan.table(view.group).columns and name != view.making
            if usable or (not table and name in plan.scenario.constraints):
                own[name] = view.column(name)
        elif table not in inspected.tables:
            own[f"{table}.{name}"] = view.column(f"{table}.{name}")
            elsewhere[table] = table
    query = _query(text, own_table, tuple(elsewhere), _duckdb_type(column_type))
    children = {
        table: _child(
            view, table, {name for owner, name in inspected.columns if owner in ("", table)}
        )
        for table in inspected.tables
    }
    own[_INDEX] = pa.array(range(len(view.rows)), pa.int64())
    values = _run(query, {_ROWS: pa.table(own), **children})
    if len(values) != len(view.rows):
        raise ValueError("the expression must give one value a row")
    return _as_column(values, column_type)


def _child(view: GroupView, table: str, names: set[str]) -> pa.Table:
    """The columns that a subquery may use of the rows of a table."""
    spec = view.batch.spec.domain.tables.get(table)
    if spec is None:
        raise ValueError(f"there is no table {table}")
    used = [name for name in spec.columns if name in names] or [spec.key_columns[0]]
    return pa.table({name: view.batch.all_rows(table, name) for name in used})


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
    if not elsewhere:
        return text
    row = _connection().execute("SELECT json_serialize_sql(?)", [text]).fetchone()
    assert row is not None
    tree = json.loads(row[0])
    _flatten(tree, set(elsewhere))
    row = _connection().execute("SELECT json_deserialize_sql(?)", [json.dumps(tree)]).fetchone()
    assert row is not None
    return str(row[0])


def _flatten(tree: Any, tables: set[str]) -> None:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, dict):
            waiting.extend(node.values())
            names = node.get("column_names") if node.get("class") == "COLUMN_REF" else None
            if names and len(names) == 2 and names[0].lower() in tables:
                node["column_names"] = [f"{names[0].lower()}.{names[1].lower()}"]


@lru_cache(maxsize=1)
def _connection() -> duckdb.DuckDBPyConnection:
    return connect()


def _run(query: str, tables: dict[str, pa.Table]) -> pa.Array:
    result: pa.Table
    cursor = _connection().cursor()
    try:
        for name, table in tables.items():
            cursor.register(name, table)
        result = cursor.sql(query).to_arrow_table()
    except duckdb.Error as error:
        raise SqlProblem(first_line(error)) from error
    finally:
        cursor.close()
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
