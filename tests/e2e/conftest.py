"""The command line as its users run it: processes against a real PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import psycopg.sql
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_resources.local import postgres_server
from tests.conftest import HOME_PREFIX, session_folder
from tests.support.made_requests import Made, seeded

ATDM = Path(sys.executable).with_name("atdm")
MINUTELY = """description: A few runs, made anew every minute.
seed: 7
runs_per_shard: 10
retention: 2
cron: "* * * * *"
mix:
  - {scenario: active_member_clean, runs: 10}
"""
"""A dataset whose schedule is due every minute."""


def take_interrupts() -> None:
    """Before a program that a test interrupts: it must not inherit that interrupts are ignored, as
    they are in what a script has put into the background.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Answer:
    """What a command gave back."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


@dataclass(frozen=True)
class Shell:
    """Runs ``atdm`` in one home, in a working folder of its own."""

    home: Path
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ATDM_", "DAGSTER_", "PG", "PYTHONDONTWRITEBYTECODE"))
        }
        return {
            **kept,
            "ATDM_HOME": str(self.home),
            "ATDM_INVOKER": "human:tester",
            **self.variables,
            **variables,
        }

    def run(self, *arguments: str, timeout: float = 120, **variables: str) -> Answer:
        done = subprocess.run(
            [str(self.command), *arguments],
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str, **variables: str) -> Any:
        """The payload of a command that must succeed, in JSON mode."""
        answer = self.run("-o", "json", *arguments, **variables)
        assert answer.status == 0, (answer.out, answer.err)
        return answer.json

    def refused(self, *arguments: str, **variables: str) -> dict[str, Any]:
        """The error object of a command that must fail with exit status 1, in JSON mode."""
        answer = self.run("-o", "json", *arguments, **variables)
        assert answer.status == 1, (answer.out, answer.err)
        assert "Traceback" not in answer.err
        error: dict[str, Any] = answer.json["error"]
        assert set(error) == {"code", "message", "details"}
        assert error["message"]
        return error

    @property
    def command(self) -> Path:
        return ATDM

    @property
    def url(self) -> str:
        return postgres_server.start(self.home)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True)

    def rows_by_table(self, run: str | None = None) -> dict[str, int]:
        """Rows of test runs (of one, or of all) in every domain table."""
        counts: dict[str, int] = {}
        with self.connect() as connection:
            tables = connection.execute(
                "SELECT schema_name, table_name FROM atdm.domain_table"
            ).fetchall()
            for schema, name in tables:
                query = psycopg.sql.SQL(
                    "SELECT count(*) FROM {} WHERE test_run_id IS NOT NULL"
                    " AND (%(run)s::text IS NULL OR test_run_id = %(run)s)"
                ).format(psycopg.sql.Identifier(schema, name))
                row = connection.execute(query, {"run": run}).fetchone()
                assert row is not None
                counts[f"{schema}.{name}"] = row[0]
        return counts

    def make_ready(self, registry: Registry, scenario: str, runs: int = 1) -> Made:
        """Runs to lease, made without a process: for tests of what comes after the making."""
        with self.connect() as connection:
            return seeded(connection, self.home / "store", registry, scenario, runs=runs)

    def total_rows(self, run: str | None = None) -> int:
        return sum(self.rows_by_table(run).values())


@contextmanager
def new_home() -> Iterator[Path]:
    """A folder for a home whose server is stopped at the end, beside that of the session.

    Not below pytest's own folder: when root starts another session, pytest closes that folder to
    every other user, the one that the embedded server runs as included.
    """
    beside = session_folder().parent
    with tempfile.TemporaryDirectory(
        prefix=f"{HOME_PREFIX}{os.getpid()}-", dir=beside, ignore_cleanup_errors=True
    ) as folder:
        parent = Path(folder)
        parent.chmod(0o755)
        home = parent / "home"
        try:
            yield home
        finally:
            Shell(home, parent).run("down")


@pytest.fixture(scope="session")
def shared_home() -> Iterator[Path]:
    """A home whose server runs and whose target is initialised."""
    with new_home() as home:
        answer = Shell(home, home.parent).run("init")
        assert answer.status == 0, answer.err
        yield home


@pytest.fixture
def shell(shared_home: Path, tmp_path: Path) -> Shell:
    """``atdm`` in the shared home, in an empty folder."""
    return Shell(shared_home, tmp_path)


@pytest.fixture(scope="session")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shell, Answer]]:
    """A home that nobody had used when ``atdm demo`` ran in it, and what that answered.

    Tests that use it are of the xdist group "demo": one worker runs the demonstration for them.
    """
    with new_home() as home:
        shell = Shell(home, tmp_path_factory.mktemp("demo"))
        yield shell, shell.run("demo", timeout=300)


@pytest.fixture
def fresh_shell(tmp_path: Path) -> Iterator[Shell]:
    """``atdm`` in a home that nobody has used yet."""
    folder = tmp_path / "work"
    folder.mkdir()
    with new_home() as home:
        yield Shell(home, folder)
