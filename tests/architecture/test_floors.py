"""Imports point down only, and each floor keeps to what it is for."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.support.source import FLOORS, imported_names, modules

HEAVY = (
    "dagster",
    "pandas",
    "pandera",
    "pyarrow",
    "duckdb",
    "numpy",
    "sqlalchemy",
    "alembic",
    "faker",
    "httpx",
    "structlog",
    "pydantic",
)


def top(name: str) -> str:
    return name.split(".", 1)[0]


def test_imports_point_down_only() -> None:
    upward = [
        f"{path}: {name}"
        for height, floor in enumerate(FLOORS)
        for path, tree in modules(floor)
        for name in imported_names(tree)
        if top(name) in FLOORS[height + 1 :]
    ]
    assert upward == []


def test_no_module_imports_tests_or_benchmarks() -> None:
    wrong = [
        f"{path}: {name}"
        for path, tree in modules(*FLOORS)
        for name in imported_names(tree)
        if top(name) in {"tests", "benchmarks", "examples"}
    ]
    assert wrong == []


def test_the_engine_does_no_input_or_output() -> None:
    banned_modules = {
        "dagster", "psycopg", "psycopg2", "sqlalchemy", "alembic", "fsspec", "s3fs", "socket",
        "subprocess", "requests", "httpx", "urllib", "http", "shutil", "tempfile", "os",
    }  # fmt: skip
    banned_calls = {
        "open",
        "print",
        "input",
        "read_text",
        "write_text",
        "read_bytes",
        "write_bytes",
    }
    found = []
    for path, tree in modules("atdm_engine"):
        found += [f"{path}: {name}" for name in imported_names(tree) if top(name) in banned_modules]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                function = node.func
                name = (
                    function.id
                    if isinstance(function, ast.Name)
                    else function.attr
                    if isinstance(function, ast.Attribute)
                    else ""
                )
                if name in banned_calls:
                    found.append(f"{path}:{node.lineno}: {name}()")
    assert found == []


def test_the_engine_reads_no_clock_and_no_global_randomness() -> None:
    found = []
    for path, tree in modules("atdm_engine"):
        found += [
            f"{path}: {n}" for n in imported_names(tree) if top(n) in {"random", "secrets", "time"}
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}:
                found.append(f"{path}:{node.lineno}: .{node.attr}")
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "hash"
            ):
                found.append(f"{path}:{node.lineno}: hash() is salted by the process")
    assert found == []


def test_among_the_resources_only_configurable_imports_dagster() -> None:
    found = {
        str(path)
        for path, tree in modules("atdm_resources")
        for name in imported_names(tree)
        if top(name).startswith("dagster")
    }
    assert found <= {"atdm_assets/resources.py"}


def test_no_vague_module_names() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    assert [str(path) for path, _ in modules(*FLOORS) if path.stem in vague] == []


def test_every_module_says_what_belongs_in_it() -> None:
    silent = [
        str(path)
        for path, tree in modules(*FLOORS)
        if tree.body and not (ast.get_docstring(tree) or "").strip()
    ]
    assert silent == []


@pytest.mark.parametrize(
    "module", ["atdm.client.sync", "atdm.client.asyncio", "atdm.pytest", "atdm.cli"]
)
def test_what_a_lease_needs_loads_nothing_heavy(module: str) -> None:
    script = (
        f"import sys, {module}; "
        f"print(' '.join(sorted(set(name.split('.')[0] for name in sys.modules) & set({HEAVY!r}))))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    assert loaded == []
