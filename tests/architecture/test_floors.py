"""Imports point down only, and each floor keeps to what it is for."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.support.source import (
    FLOORS,
    circles,
    import_graph,
    imported_names,
    module_name,
    modules,
    room,
)

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


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_circle_between_files() -> None:
    assert circles(import_graph()) == []


def test_no_circle_between_folders() -> None:
    rooms = {module_name(path): room(module_name(path), path) for path, _ in modules(*FLOORS)}
    reached: dict[str, set[str]] = {}
    for name, imported in import_graph().items():
        others = {rooms[other] for other in imported} - {rooms[name]}
        reached.setdefault(rooms[name], set()).update(others)
    assert circles(reached) == []


def test_dagster_is_known_to_its_face_alone() -> None:
    found = [
        f"{path}: {name}"
        for path, tree in modules("atdm_engine", "atdm_resources", "atdm_services")
        for name in imported_names(tree)
        if top(name).startswith("dagster")
    ]
    assert found == []


STREAMS = {
    "atdm_resources/telemetry/logs.py",  # writes log lines to stderr
    "atdm_services/baselines/row_encoder.py",  # a child process that answers through a pipe
}


def test_nothing_is_printed_below_the_faces() -> None:
    found = []
    for path, tree in modules("atdm_engine", "atdm_resources", "atdm_services", "atdm_assets"):
        if str(path) in STREAMS:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id == "print":
                found.append(f"{path}:{node.lineno}: print")
            if (
                isinstance(node, ast.Attribute)
                and node.attr in {"stdout", "stderr"}
                and (isinstance(node.value, ast.Name) and node.value.id == "sys")
            ):
                found.append(f"{path}:{node.lineno}: sys.{node.attr}")
    assert found == []


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
