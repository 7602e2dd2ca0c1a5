"""Reads a rule file: its description, the table that it judges, and its checked query."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import duckdb

from atdm_engine.arrow import duck
from atdm_engine.bundle.spec_file import ParsedFile
from atdm_engine.errors import Problem, nearest_spelling
from atdm_engine.model import Rule
from atdm_engine.spec.table import TableSpec

RULE_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\Z")
RESERVED = frozenset({"schema", "references"})
_BINDER_LINE = re.compile(r"^LINE (\d+):", re.MULTILINE)


def description_of(sql: str) -> str:
    """The leading ``--`` comment of a rule, its lines joined."""
    lines: list[str] = []
    for line in sql.splitlines():
        text = line.strip()
        if not text.startswith("--"):
            if text or lines:
                break
            continue
        lines.append(text.removeprefix("--").strip())
    return " ".join(line for line in lines if line)


def read_rule(
    name: str,
    text: str,
    file: str,
    tables: Mapping[str, ParsedFile[TableSpec]],
    known: Collection[str],
    connection: duckdb.DuckDBPyConnection,
) -> tuple[Rule | None, list[Problem]]:
    """The rule in ``text``, or None and its problems.

    ``connection`` has every table of the domain registered, empty; ``known`` are the names of all
    table files, so that a broken table file is not reported here again.
    """
    if not RULE_NAME.match(name) or name in RESERVED:
        allowed = "lower-case words joined by dots, and not schema or references"
        return None, [Problem(file, 0, "(file name)", repr(name), allowed)]
    try:
        query = duck.inspect_query(text)
    except duck.SqlProblem as error:
        return None, [Problem(file, error.line, "(query)", error.message, "one plain SELECT")]
    problems = []
    for table in query.tables:
        if table not in known:
            listed = "the tables of the domain: " + ", ".join(sorted(known))
            problems.append(
                Problem(
                    file, _line_of(text, table), "(query)", f"the table {table!r}", listed,
                    nearest_spelling(table, known),
                )
            )  # fmt: skip
    if not query.tables:
        problems.append(Problem(file, 0, "(query)", "no table", "a query over the domain's tables"))
    if problems or not set(query.tables) <= set(tables):
        return None, problems
    try:
        bound = connection.execute(f"DESCRIBE {text}").fetchall()
    except duckdb.Error as error:
        found = _BINDER_LINE.search(str(error))
        # DuckDB counts the lines of the whole statement; DESCRIBE stands on the first one.
        line = int(found[1]) if found else 0
        allowed = "columns and functions that exist"
        return None, [Problem(file, line, "(query)", duck.first_line(error), allowed)]
    types = {str(row[0]).lower(): str(row[1]) for row in bound}
    if types.get("holds") != "BOOLEAN":
        found_type = types.get("holds")
        text_found = f"holds of type {found_type}" if found_type else "no column holds"
        problems.append(Problem(file, 0, "(query)", text_found, "a boolean column named holds"))
    judged = _judged_table(query, str(bound[0][0]).lower(), tables)
    if judged is None:
        keys = ", ".join(f"{t}.{'/'.join(tables[t].model.key_columns)}" for t in query.tables)
        problems.append(
            Problem(file, 0, "(query)", f"{bound[0][0]} selected first", f"a key first: {keys}")
        )
    if problems or judged is None:
        return None, problems
    return Rule(name, description_of(text), text, judged, query.tables), []


def _judged_table(
    query: duck.InspectedQuery, first: str, tables: Mapping[str, ParsedFile[TableSpec]]
) -> str | None:
    """The table whose key the query selects first; None if there is none, or more than one."""
    qualifier, column = query.first_column or ("", first)
    if qualifier in tables:
        return qualifier if column in tables[qualifier].model.key_columns else None
    owners = [table for table in query.tables if column in tables[table].model.key_columns]
    return owners[0] if len(owners) == 1 else None


def _line_of(text: str, word: str) -> int:
    for number, line in enumerate(text.splitlines(), start=1):
        if re.search(rf"\b{re.escape(word)}\b", line.split("--")[0], re.IGNORECASE):
            return number
    return 0
