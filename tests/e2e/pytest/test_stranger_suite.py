"""A stranger's test suite: many tests, several workers, failures, Ctrl-C, and kills.

Whatever happens to it, the report is right and no row is left, at the latest when the next session
starts; no daemon runs.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atdm_engine.bundle.registry import Registry
from tests.e2e.conftest import Shell, take_interrupts

pytestmark = pytest.mark.xdist_group("stranger")

ROWS_A_RUN = 5

MANY = """
import pytest
from atdm.pytest import atdm_scenario

@pytest.mark.parametrize("n", range(70))
@atdm_scenario("inactive_member_with_history")
def test_member(atdm_data, n):
    assert atdm_data.records["member"][0]["member_id"] == atdm_data["data"]["member_id"]
    assert n % 20 != 7

@pytest.mark.parametrize("n", range(30))
@atdm_scenario("active_member_clean", {"claim_status": "pending"})
def test_pending(atdm_data, n):
    assert [row["status"] for row in atdm_data.records["claim"]] == ["pending"]
    assert n != 29

@pytest.mark.parametrize("n", range(100))
def test_without_data(n):
    assert n != 50
"""

FEW = """
import os, pathlib, signal, time
import pytest
from atdm.pytest import atdm_scenario

WORD = pathlib.Path(os.environ["WORD"])

@atdm_scenario("active_member_clean", per="module")
def test_shared(atdm_data):
    pass

@pytest.mark.parametrize("n", range(12))
@atdm_scenario("active_member_clean")
def test_one(atdm_data, n):
    (WORD / f"{n}-{os.getpid()}").touch()
    if os.environ["HOW"] == "sleep" and n >= 4:
        time.sleep(60)
    if os.environ["HOW"] == "die" and n == 5:
        os.kill(os.getpid(), signal.SIGKILL)
"""

NEXT = """
from atdm.pytest import atdm_scenario

@atdm_scenario("active_member_clean")
def test_next(atdm_data):
    pass
"""


class Session:
    """A pytest process in a process group of its own, with a folder where its tests leave word."""

    def __init__(self, shell: Shell, suite: str, *arguments: str, how: str = "") -> None:
        self.word = shell.folder / f"word-{how}"
        self.word.mkdir(exist_ok=True)
        (shell.folder / "test_suite.py").write_text(suite, encoding="utf-8")
        self._out = shell.folder / f"out-{how}.txt"
        with self._out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
                cwd=shell.folder,
                env=shell.environment(WORD=str(self.word), HOW=how),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=take_interrupts,
            )

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    def ended(self, seconds: float = 120) -> int:
        """The exit status; kills the group when it does not end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise

    def until(self, what: Callable[[], bool], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.out
            assert self.process.poll() is None, self.out
            time.sleep(0.05)

    def sleeping(self) -> list[Path]:
        return [path for path in self.word.iterdir() if int(path.name.partition("-")[0]) >= 4]


@pytest.fixture(scope="module")
def pool(shared_home: Path, registry: Registry) -> None:
    """Ready runs, so that a session starts at once."""
    Shell(shared_home, shared_home.parent).make_ready(registry, "active_member_clean", 60)


@pytest.fixture
def before(shell: Shell) -> int:
    """Rows that others have left; and there is no session."""
    assert sessions(shell) == []
    return rows_in_use(shell)


def rows_in_use(shell: Shell) -> int:
    """Rows of test runs that are not ready for anybody to lease."""
    with shell.connect() as connection:
        row = connection.execute(
            "SELECT count(*) FROM atdm.test_run WHERE status = 'ready'"
        ).fetchone()
        assert row is not None
    return shell.total_rows() - ROWS_A_RUN * int(row[0])


def sessions(shell: Shell) -> list[str]:
    return sorted(path.name for path in (shell.home / "sessions").glob("*/"))


def requests_made(shell: Shell) -> int:
    with shell.connect() as connection:
        row = connection.execute("SELECT count(*) FROM atdm.request").fetchone()
        assert row is not None
        return int(row[0])


def test_two_hundred_tests_on_four_workers(shell: Shell, before: int) -> None:
    known = requests_made(shell)
    session = Session(shell, MANY, "-n", "4", "--junitxml=report.xml")
    assert session.ended() == 1, session.out
    closing = session.out.splitlines()[-1]
    assert "6 failed" in closing, session.out
    assert "194 passed" in closing
    assert "error" not in closing
    assert "warning" not in closing
    assert requests_made(shell) == known + 2, "one request for each scenario and constraints"
    assert re.search(r"atdm: 100 leases, p50 \d+\.\d ms", session.out)
    assert session.out.count("the same data again: atdm replay ") == 5
    report = (shell.folder / "report.xml").read_text(encoding="utf-8")
    runs = re.findall(r'name="atdm_test_run_id" value="(\w{26})"', report)
    assert len(runs) == len(set(runs)) == 100, "no two tests share a run"
    assert rows_in_use(shell) == before
    assert sessions(shell) == []
    with shell.connect() as connection:
        told = connection.execute(
            "SELECT outcome, count(*) FROM atdm.test_outcome WHERE test_run_id = ANY (%s)"
            " GROUP BY 1 ORDER BY 1",
            (runs,),
        ).fetchall()
    assert told == [("failed", 5), ("passed", 95)]


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "workers"])
def test_ctrl_c_in_the_middle(
    shell: Shell, pool: None, before: int, arguments: tuple[str, ...]
) -> None:
    session = Session(shell, FEW, *arguments, how="sleep")
    session.until(lambda: len(session.sleeping()) >= (2 if arguments else 1))
    assert rows_in_use(shell) > before
    os.killpg(session.process.pid, signal.SIGINT)
    assert session.ended() == 2, session.out
    assert "KeyboardInterrupt" in session.out
    assert rows_in_use(shell) == before, session.out
    assert sessions(shell) == []


def test_a_worker_killed_in_a_test(shell: Shell, pool: None, before: int) -> None:
    session = Session(shell, FEW, "-n", "2", how="die")
    assert session.ended() == 1, session.out
    closing = session.out.splitlines()[-1]
    assert "1 failed" in closing, session.out
    assert "12 passed" in closing
    assert re.search(r"worker 'gw\d' crashed while running '.*test_one\[5\]'", session.out)
    assert rows_in_use(shell) == before, session.out
    assert sessions(shell) == []


def test_a_whole_session_killed(shell: Shell, pool: None, before: int) -> None:
    session = Session(shell, FEW, "-n", "2", how="sleep")
    session.until(lambda: len(session.sleeping()) >= 2)
    os.killpg(session.process.pid, signal.SIGKILL)
    session.process.wait(10)
    assert rows_in_use(shell) > before
    assert len(sessions(shell)) == 1
    following = Session(shell, NEXT, "-q", how="next")
    assert following.ended() == 0, following.out
    assert rows_in_use(shell) == before, following.out
    assert sessions(shell) == []
