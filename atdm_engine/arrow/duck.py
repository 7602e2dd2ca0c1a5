"""Guarded DuckDB: SQL of specification files is read and run here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_TABLE_FUNCTIONS = frozenset(
    {"generate_series", "range", "unnest", "repeat", "json_each", "json_tree"}
)
_MACROS = ("array_", "list_", "json", "md5_number")
_PLAIN_MACROS = frozenset(
    {
        "date_add", "days_in_month", "fdiv", "fmod", "generate_subscripts", "geomean",
        "geometric_mean", "if", "nullif", "regexp_split_to_table", "split_part", "wavg",
        "weighted_avg",
    }
)  # fmt: skip
_UNSTABLE_AGGREGATES = frozenset({"reservoir_quantile", "approx_quantile", "approx_top_k"})
_UNSTABLE_WORDS = frozenset(
    {
        "current_catalog", "current_date", "current_role", "current_schema", "current_time",
        "current_timestamp", "current_user", "localtime", "localtimestamp", "session_user", "user",
    }
)  # fmt: skip


class SqlProblem(ValueError):  # noqa: N818 - a problem of a file, not a failure
    """Why a query is refused. ``line`` counts from 1 in the query's text, 0 when unknown."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass(frozen=True)
class InspectedQuery:
    """What a query's text uses.

    ``tables`` are the tables it reads, sorted. ``columns`` are (table, column) pairs; the table is
    "" where the text does not say which one is meant, and the name as written where it is none of
    ``tables`` (a subquery, or the parent of a generated row). ``first_column`` is such a pair for
    the first selected expression, None when that is no plain column. ``aggregates`` says whether it
    looks at several rows at once (aggregates or windows).
    """

    tables: tuple[str, ...]
    columns: frozenset[tuple[str, str]]
    first_column: tuple[str, str] | None
    aggregates: bool


def connect(*, threads: int = 1) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that reads no file, no network and no Python variable.

    The session's time zone is UTC, ``/`` between integers is PostgreSQL's, and nothing of this can
    be changed by SQL that runs in it. Arrow tables come in through ``register``.
    """
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": threads,
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "temp_directory": "",
        },
    )
    # GLOBAL: a cursor is a session of its own and would otherwise start with the machine's zone.
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute("SET GLOBAL integer_division = true")
    connection.execute("SET lock_configuration = true")
    return connection


@contextmanager
def reading(**tables: pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection on the process's one guarded database that sees ``tables``, and it alone does.

    It is some milliseconds cheaper than ``connect``.
    """
    reader = _database().cursor()
    try:
        for name, table in tables.items():
            reader.register(name, table)
        yield reader
    finally:
        reader.close()


def quoted(name: str) -> str:
    """``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def inspect_query(sql: str) -> InspectedQuery:
    """Read a query's text: exactly one SELECT, deterministic, from plain tables.

    Raises SqlProblem for a syntax error, several or other statements, and for anything whose
    result could differ between two runs over the same rows (clock, randomness, samples, session).
    """
    return _inspected(sql, _statement(sql))


@lru_cache(maxsize=1024)
def inspect_expression(sql: str) -> InspectedQuery:
    """Read an SQL expression (row check, generated column) by the rules of ``inspect_query``."""
    query = f"SELECT ({sql}\n) AS value"
    try:
        node = _statement(query)
        inspected = _inspected(query, node)
    except SqlProblem as problem:
        raise SqlProblem(problem.message, min(problem.line, sql.count("\n") + 1)) from None
    selected = node.get("select_list") or []
    source = (node.get("from_table") or {}).get("type")
    if len(selected) != 1 or selected[0].get("function_name") == "row" or source != "EMPTY":
        raise SqlProblem("exactly one expression is allowed", 1)
    return inspected


def _statement(sql: str) -> dict[str, Any]:
    """The syntax tree of the one SELECT of a text."""
    parsed = _syntax_tree(sql)
    if parsed["error"]:
        if parsed.get("error_type") == "parser":
            position = int(parsed.get("position") or 0)
            raise SqlProblem(str(parsed["error_message"]), _line(sql, position))
        raise SqlProblem("only a SELECT is allowed", 1)
    statements = parsed["statements"]
    if len(statements) != 1:
        raise SqlProblem(f"exactly one SELECT is allowed, there are {len(statements)}", 1)
    node: dict[str, Any] = statements[0]["node"]
    return node


def _syntax_tree(sql: str) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = json.loads(_text_of("json_serialize_sql", sql))
    except RecursionError as error:
        raise SqlProblem("the query is nested too deeply") from error
    return tree


def _text_of(function: str, argument: str) -> str:
    """What a function of DuckDB makes of a text."""
    with reading() as reader:
        try:
            return str(reader.execute(f"SELECT {function}(?)", [argument]).fetchall()[0][0])
        except duckdb.Error as error:
            raise SqlProblem(first_line(error)) from error


def renamed(sql: str, tables: Collection[str]) -> str:
    """A query in which each column of ``tables`` is one column: ``a.b`` becomes ``"a.b"``."""
    tree = _syntax_tree(sql)
    for node in _nodes(tree):
        names = node["column_names"] if node.get("class") == "COLUMN_REF" else []
        if len(names) == 2 and names[0].lower() in tables:
            names[:] = [f"{names[0].lower()}.{names[1].lower()}"]
    return _text_of("json_deserialize_sql", json.dumps(tree))


def _inspected(sql: str, node: Mapping[str, Any]) -> InspectedQuery:
    _refuse_unstable(sql, node)
    tables, aliases = _tables(node)
    columns = frozenset(
        pair
        for part in _nodes(node)
        if part.get("class") == "COLUMN_REF"
        for pair in _resolved(part, aliases)
    )
    return InspectedQuery(tables, columns, _first_column(node, aliases), _aggregates(node))


def first_line(error: Exception) -> str:
    """A DuckDB error's first line, without its class."""
    text = str(error).strip().splitlines()[0]
    return text.split(" Error: ", 1)[-1]


@lru_cache(maxsize=1)
def _database() -> duckdb.DuckDBPyConnection:
    return connect()


@lru_cache(maxsize=1)
def _functions() -> tuple[frozenset[str], frozenset[str]]:
    """The functions of this DuckDB whose results do not follow from their arguments, and its
    aggregates.
    """
    with reading() as reader:
        rows = reader.execute(
            "SELECT function_name, function_type, "
            "bool_and(coalesce(stability = 'CONSISTENT', false)) "
            "FROM duckdb_functions() GROUP BY ALL"
        ).fetchall()
    unstable = set(_UNSTABLE_AGGREGATES)
    for name, kind, consistent in rows:
        pure = kind in ("scalar", "aggregate", "window") and consistent
        known = kind in ("macro", "table_macro") and (
            name.startswith(_MACROS) or name in _PLAIN_MACROS
        )
        if not pure and not known and name not in _TABLE_FUNCTIONS:
            unstable.add(name)
    return frozenset(unstable), frozenset(name for name, kind, _ in rows if kind == "aggregate")


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(reversed(node.values()))
        elif isinstance(node, list):
            waiting.extend(reversed(node))


def _line(sql: str, position: int) -> int:
    return sql.encode()[:position].count(b"\n") + 1


def _refuse_unstable(sql: str, tree: Any) -> None:
    for node in _nodes(tree):
        kind = node.get("class") or node.get("type")
        line = _line(sql, int(node.get("query_location") or 0))
        if node.get("sample") is not None:
            raise SqlProblem("a sample is random and not allowed", line)
        if kind == "SHOW_REF":
            raise SqlProblem("only a SELECT is allowed", line)
        if kind == "TABLE_FUNCTION":
            name = str(node["function"]["function_name"]).lower()
            if name not in _TABLE_FUNCTIONS:
                raise SqlProblem(f"table function {name} is not allowed", line)
        elif "function_name" in node:
            name = str(node["function_name"]).lower()
            clock = name == "age" and len(node.get("arguments") or ()) == 1
            if clock or name in _functions()[0]:
                raise SqlProblem(
                    f"function {name} is not allowed: its result is not given by the rows", line
                )
        elif kind == "COLUMN_REF":
            names = node["column_names"]
            if len(names) == 1 and str(names[0]).lower() in _UNSTABLE_WORDS:
                raise SqlProblem(
                    f"{names[0]} is not allowed: its result is not given by the rows", line
                )


def _tables(tree: Any) -> tuple[tuple[str, ...], dict[str, set[str]]]:
    """The tables that are read, and which tables each name in the query stands for."""
    derived: set[str] = set()
    aliases: dict[str, set[str]] = {}
    tables: set[str] = set()
    for node in _nodes(tree):
        if isinstance(node.get("cte_map"), dict):
            derived.update(str(entry["key"]).lower() for entry in node["cte_map"].get("map", ()))
    for node in _nodes(tree):
        if node.get("type") == "BASE_TABLE":
            name = str(node["table_name"]).lower()
            if node.get("schema_name") or node.get("catalog_name"):
                raise SqlProblem(f"{name}: only the domain's own tables are allowed, by bare name")
            if name not in derived:
                tables.add(name)
                aliases.setdefault(str(node.get("alias") or name).lower(), set()).add(name)
    return tuple(sorted(tables)), aliases


def _resolved(node: Mapping[str, Any], aliases: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    names = [str(name).lower() for name in node["column_names"]]
    if len(names) == 1:
        return [("", names[0])]
    return [(table, names[1]) for table in sorted(aliases.get(names[0], (names[0],)))]


def _first_column(
    node: Mapping[str, Any], aliases: Mapping[str, set[str]]
) -> tuple[str, str] | None:
    while "select_list" not in node and node.get("children"):
        node = node["children"][0]
    selected = node.get("select_list") or [{}]
    if selected[0].get("class") != "COLUMN_REF":
        return None
    resolved = _resolved(selected[0], aliases)
    return resolved[0] if len(resolved) == 1 else None


def _aggregates(tree: Any) -> bool:
    aggregates = _functions()[1]
    return any(
        node.get("class") == "WINDOW" or str(node.get("function_name")).lower() in aggregates
        for node in _nodes(tree)
    )


def condition_type(connection: duckdb.DuckDBPyConnection, table: str, condition: str) -> str:
    """The type of an expression over a table that is registered; duckdb.Error when it has none."""
    bound = connection.execute(
        f"DESCRIBE SELECT ({condition}\n) AS holds FROM {quoted(table)}"
    ).fetchall()
    return str(bound[0][1])


def condition_holds(rows: pa.Table, condition: str) -> NDArray[np.bool_] | None:
    """For each row, in order, whether ``condition`` is true or NULL; None when it is for all.

    duckdb.Error when it cannot be computed for some row, a division by zero for instance.
    """
    with reading(given=rows) as reader:
        # fetchall: a result fetched in part keeps the connection busy.
        counted = reader.execute(f"SELECT count(*) FROM given WHERE NOT ({condition}\n)").fetchall()
        if counted[0][0] == 0:
            return None
        query = f"SELECT coalesce(({condition}\n), true) AS holds FROM given"
        return np.asarray(reader.execute(query).fetchnumpy()["holds"], bool)


def row_hashes(rows: pa.Table) -> NDArray[np.uint64]:
    """A 64-bit hash of each row."""
    names = ", ".join(quoted(name) for name in rows.column_names)
    with reading(given=rows) as reader:
        found = reader.execute(f"SELECT hash({names}) AS hashed FROM given").fetchnumpy()
        return np.asarray(found["hashed"], np.uint64)


def json_verdicts(texts: pa.Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether DuckDB reads each text as JSON, and whether PostgreSQL may refuse what it reads.

    The second is so for NaN, Infinity, trailing commas and ``\\u`` escapes. NULL is JSON.
    """
    with reading(given=pa.table({"value": texts})) as reader:
        found = reader.execute(
            "SELECT coalesce(json_valid(value), true) AS valid, "
            r"coalesce(regexp_matches(value, '(?i)nan|inf|\\u|,\s*[\]}]'), false) AS doubtful "
            "FROM given"
        ).fetchnumpy()
        return np.array(found["valid"], bool), np.asarray(found["doubtful"], bool)
