"""Reads the reference rows of a table from CSV, typed by the table file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pyarrow as pa

from atdm_engine.arrow.types import arrow_type, parse_value
from atdm_engine.errors import Problem, nearest_spelling
from atdm_engine.spec.table import TableSpec


def read_reference(spec: TableSpec, text: str, file: str) -> tuple[pa.Table, list[Problem]]:
    """The rows of ``text`` in the table's column order (without test_run_id), and the problems.

    The first line names the columns. An empty field is NULL where the column is nullable, the empty
    text elsewhere. Rows with a problem are left out.
    """
    problems: list[Problem] = []
    rows: list[list[Any]] = []
    names: list[str] | None = None
    try:
        for line, fields in _records(text):
            if names is None:
                names = fields
                problems.extend(_header_problems(spec, fields, file, line))
                if problems:
                    break
                continue
            row, wrong = _row(spec, names, fields, file, line)
            problems.extend(wrong)
            if not wrong:
                rows.append(row)
    except csv.Error as error:
        problems.append(Problem(file, 0, "(file)", str(error), "comma-separated values"))
    if names is None and not problems:
        problems.append(
            Problem(file, 1, "(file)", "an empty file", "a first line of " + ",".join(spec.columns))
        )
    problems.extend(_duplicate_keys(spec, names or [], rows, file))
    arrays = [
        pa.array([row[position] for row in rows], type=arrow_type(column.type))
        for position, column in enumerate(spec.columns.values())
    ]
    return pa.table(dict(zip(spec.columns, arrays, strict=True))), problems


def _records(text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    line = 1
    for fields in reader:
        if fields:
            yield line, fields
        line = reader.line_num + 1


def _header_problems(spec: TableSpec, names: list[str], file: str, line: int) -> Iterator[Problem]:
    for name in names:
        if name not in spec.columns:
            yield Problem(
                file, line, name, "an unknown column", "the columns " + ", ".join(spec.columns),
                nearest_spelling(name, spec.columns),
            )  # fmt: skip
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield Problem(file, line, name, "the column twice", "each column once")
    for name, column in spec.columns.items():
        if name not in names and not column.nullable:
            yield Problem(file, line, name, "nothing", f"the column {name}: it is not nullable")


def _row(
    spec: TableSpec, names: list[str], fields: list[str], file: str, line: int
) -> tuple[list[Any], list[Problem]]:
    if len(fields) != len(names):
        found = f"{len(fields)} fields"
        return [], [Problem(file, line, "(row)", found, f"{len(names)}, as in the first line")]
    given = dict(zip(names, fields, strict=True))
    row: list[Any] = []
    problems = []
    for name, column in spec.columns.items():
        text = given.get(name)
        if text is None or (text == "" and column.nullable):
            row.append(None)
            continue
        try:
            row.append(parse_value(column.type, text))
        except ValueError as error:
            problems.append(Problem(file, line, name, repr(text), str(error)))
    return row, problems


def _duplicate_keys(
    spec: TableSpec, names: list[str], rows: list[list[Any]], file: str
) -> Iterator[Problem]:
    columns = list(spec.columns)
    if not set(spec.key_columns) <= set(names):
        return
    positions = [columns.index(name) for name in spec.key_columns]
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        key = tuple(row[position] for position in positions)
        if key in seen:
            text = ", ".join(str(part) for part in key)
            yield Problem(file, 0, ",".join(spec.key_columns), f"{text!r} twice", "each key once")
        seen.add(key)
