"""The built wheel in empty environments, used from another folder than the project's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import HOME_PREFIX
from tests.e2e.conftest import Shell, new_home

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]
UV = Path(sys.executable).with_name("uv")
OWN = """scenario_id: own_member
description: A member of our own suite.
default_constraints: {}
rows: {plan: 1, member: 1, eligibility: 1}
linked_requirement_ids: [OWN-1]
validators: []
"""
CLIENT_ONLY = """
import importlib.util, sys
import atdm
assert importlib.util.find_spec("dagster") is None
assert "site-packages" in atdm.__file__, atdm.__file__
print(atdm.AtdmClient.__name__, atdm.AtdmClientError.__name__)
"""


@dataclass(frozen=True)
class Installed(Shell):
    """``atdm`` of an environment of its own."""

    python: Path = Path(sys.executable)

    @property
    def command(self) -> Path:
        return self.python.with_name("atdm")


def run(*command: object, **options: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    run(sys.executable, *build, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def install(wheel: Path) -> Iterator[Callable[..., Path]]:
    # Not below pytest's own folder, for the reason that ``new_home`` has: PostgreSQL is in it.
    with tempfile.TemporaryDirectory(prefix=f"{HOME_PREFIX}{os.getpid()}-") as parent:
        Path(parent).chmod(0o755)

        def environment(extras: str = "") -> Path:
            """The interpreter of a new environment with the wheel in it."""
            folder = Path(parent) / "environment"
            python = folder / "bin" / "python"
            run(UV, "venv", "--quiet", "--python", sys.executable, folder)
            lock = ("--constraint", ROOT / "requirements.lock")
            run(UV, "pip", "install", "--quiet", "--python", python, *lock, f"{wheel}{extras}")
            return python

        yield environment


def test_every_sql_file_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("atdm_*/**/*.sql")}
    assert wanted
    assert wanted <= names


def test_the_client(install: Callable[..., Path], tmp_path: Path) -> None:
    python = install()
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ATDM_")}
    out = run(python, "-c", CLIENT_ONLY, cwd=tmp_path, env=plain)
    assert out.split() == ["AtdmClient", "AtdmClientError"]
    assert "lease" in run(python.with_name("atdm"), "--help", cwd=tmp_path, env=plain)


def test_everything_from_another_folder(install: Callable[..., Path], tmp_path: Path) -> None:
    python = install("[server,embedded]")
    own = tmp_path / "own"
    own.mkdir()
    (own / "own_member.yaml").write_text(OWN, encoding="utf-8")
    with new_home() as home:
        variables = {"ATDM_SCENARIO_PATH": str(own)}
        shell = Installed(home, tmp_path, variables, python)
        shipped = shell.json("request", "active_member_clean")
        mine = shell.json("request", "own_member")
        assert [shipped["status"], mine["status"]] == ["ready", "ready"]
        for made in (shipped, mine):
            token = made["cleanup"]["cleanup_token"]
            assert shell.json("reset", made["test_run_id"], "-t", token)["status"] == "cleaned"
        assert shell.total_rows() == 0
        assert "pip install pytest" in shell.refused("demo")["message"]
        dagster = python.with_name("dagster")
        exports = shell.json("env")
        checked = subprocess.run(
            [dagster, "definitions", "validate", "-m", "atdm_assets.definitions"],
            cwd=tmp_path,
            env=shell.environment(**exports),
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stderr
        assert "Validation successful" in checked.stderr + checked.stdout
        assert shell.json("down")["stopped"] == ["postgresql"]
