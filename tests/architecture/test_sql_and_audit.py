"""SQL lives with the resources; the audit trail only grows (A-QLT-04, A-QLT-05, A-QLT-07)."""

from __future__ import annotations

import ast
import re

from tests.support.source import FLOORS, ROOT, modules, project_files, string_literals

SQL = re.compile(
    r"\b(insert\s+into|delete\s+from|update\s+\S+\s+set|truncate\s+table|select\s+.+\s+from"
    r"|create\s+(table|schema|index|role|database|function)|alter\s+table|drop\s+(table|schema))\b",
    re.IGNORECASE | re.DOTALL,
)
DUCKDB_MODULES = {
    "atdm_engine/arrow/duck.py",
    "atdm_engine/checks/rules.py",
    "atdm_engine/generators/sql.py",
}
"""They query Arrow tables in memory; no statement of theirs reaches a database."""


def test_the_pattern_finds_sql() -> None:
    statements = [
        "INSERT INTO t",
        "delete from x",
        "UPDATE a SET b",
        "SELECT a\nFROM b",
        "drop table x",
    ]
    assert all(SQL.search(text) for text in statements)
    assert not SQL.search("updated the settings")


def test_sql_stands_only_in_the_resources() -> None:
    found = [
        f"{path}:{line}: {text[:60]!r}"
        for path, tree in modules("atdm", "atdm_assets", "atdm_services", "atdm_engine")
        if str(path) not in DUCKDB_MODULES
        for line, text in string_literals(tree)
        if SQL.search(text)
    ]
    assert found == []


def test_no_driver_above_the_resources_opens_a_connection() -> None:
    found = []
    for path, tree in modules("atdm", "atdm_assets", "atdm_services", "atdm_engine"):
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"connect", "create_engine"}
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in {"psycopg", "psycopg2", "sqlalchemy"}
            ):
                found.append(f"{path}:{node.lineno}")
    assert found == []


def test_no_function_changes_or_removes_an_audit_event() -> None:
    mutator = re.compile(
        r"^(delete|update|mutate|set|edit|modify|remove|purge)_\w*event", re.IGNORECASE
    )
    found = [
        f"{path}:{node.lineno}: {node.name}"
        for path, tree in modules(*FLOORS)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and mutator.match(node.name)
    ]
    assert found == []


def test_no_statement_changes_or_removes_an_audit_event() -> None:
    statement = re.compile(
        r"\b(update|delete\s+from|truncate(\s+table)?)\s+(only\s+)?(atdm\.)?audit_event\b",
        re.IGNORECASE,
    )
    texts = [
        (f"{path}:{line}", text)
        for path, tree in modules(*FLOORS)
        for line, text in string_literals(tree)
    ]
    texts += [
        (str(path), (ROOT / path).read_text(encoding="utf-8"))
        for path in project_files()
        if path.suffix == ".sql"
    ]
    assert texts
    assert [where for where, text in texts if statement.search(text)] == []
