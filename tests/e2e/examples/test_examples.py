"""The Playwright package in a real browser, and what the example script makes sure of.

`make examples` runs the suites of the application. Skipped where Chromium or Node is missing; where
ATDM_REQUIRE_BROWSER is set, that is a failure.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import psycopg
import pytest

from atdm_engine.bundle.registry import Registry
from tests.support.made_requests import seeded
from tests.support.source import ROOT

# Both install into the same folder: one worker does both.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("node")]

TOKEN = re.compile(rb"atdm_[A-Za-z0-9_-]{43}")


@pytest.fixture(scope="module")
def examples() -> ModuleType:
    """``examples/run.py``, with everything there that it needs."""
    spec = importlib.util.spec_from_file_location("examples_run", ROOT / "examples" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    missing = module.missing_tools()
    if missing and os.environ.get("ATDM_REQUIRE_BROWSER"):
        pytest.fail(f"missing: {missing}")
    if missing:
        pytest.skip(f"missing: {'; '.join(missing)}")
    return module


def written(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below, those in archives too."""
    for path in folder.rglob("*"):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f"{path.name}/{name}", archive.read(name)
        elif path.is_file():
            yield path.name, path.read_bytes()


def test_the_playwright_package(
    examples: ModuleType, target: str, tmp_path: Path, registry: Registry
) -> None:
    """Its own tests, and that the traces of the suites which they run hold no token."""
    with psycopg.connect(target, autocommit=True) as conn:
        seeded(conn, tmp_path / "store", registry, "active_member_clean", runs=12)
    environment = {**os.environ, "ATDM_DATABASE_URL": target}
    examples.install(examples.PACKAGE, environment, examples.PACKAGE)
    done = subprocess.run(
        ["npm", "test"],
        cwd=examples.PACKAGE,
        env={**environment, "SUITE_OUTPUT": str(tmp_path / "output")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ *\d+ passed", done.stdout, re.MULTILINE)
    assert "skipped" not in done.stdout
    found = list(written(tmp_path / "output"))
    assert any("trace" in name for name, _ in found)
    assert [name for name, content in found if TOKEN.search(content)] == []
    with psycopg.connect(target) as conn:
        statuses = conn.execute("SELECT DISTINCT status FROM atdm.test_run").fetchall()
    assert sorted(status for (status,) in statuses) == ["cleaned", "ready"]


def test_a_row_that_is_left_is_found(
    examples: ModuleType, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(target, autocommit=True) as conn:
        conn.execute("CREATE TABLE public.note (note_id bigint)")

    def leave_one(environment: dict[str, str]) -> None:
        with psycopg.connect(environment["ATDM_DATABASE_URL"], autocommit=True) as conn:
            conn.execute("INSERT INTO public.note VALUES (1)")

    monkeypatch.setattr(examples, "run_pytest", leave_one)
    with pytest.raises(examples.FailedError, match=r"rows are left: .*public\.note.*0 -> 1"):
        examples.show({"ATDM_DATABASE_URL": target}, "pytest")
    monkeypatch.setattr(examples, "run_pytest", lambda environment: None)
    with pytest.raises(examples.FailedError, match="0 resets"):
        examples.show({"ATDM_DATABASE_URL": target}, "pytest")
