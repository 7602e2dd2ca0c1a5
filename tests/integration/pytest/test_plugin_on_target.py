"""The pytest plugin against a real target: roles, the queue, what is kept, what the dead left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from atdm.pytest import restores
from atdm.pytest.client import SessionClient
from atdm.pytest.orphans import reap_others
from atdm.pytest.session_files import SessionFolder, sessions_of
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases, suites
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import Settings
from tests.support.made_requests import seeded

pytest_plugins = ["pytester"]

SCENARIO = "active_member_clean"
INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
Connection = psycopg.Connection[Any]


@pytest.fixture
def conn(target: str) -> Iterator[Connection]:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def suite(
    pytester: pytest.Pytester, target: str, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A folder for a suite that leases from ``target``, with a home of its own."""
    for name in [name for name in os.environ if name.startswith("ATDM_")]:
        if not name.startswith("ATDM_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ATDM_HOME", str(pytester.path / "home"))
    monkeypatch.setenv("ATDM_DATABASE_URL", target)
    monkeypatch.setenv("ATDM_INVOKER", "human:tester")
    pytester.makeini(INI)
    return pytester


@pytest.fixture
def client_url(conn: Connection, target: str) -> Iterator[str]:
    """The target's URL for a user who may do nothing but lease and reset."""
    role = f"c_{uuid.uuid4().hex[:12]}"
    conn.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE atdm_client").format(sql.Identifier(role)))
    parts = urlsplit(target)
    host = parts.netloc.rpartition("@")[2]
    try:
        yield urlunsplit(parts._replace(netloc=f"{role}@{host}"))
    finally:
        conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def rows(conn: Connection) -> int:
    """Rows of test runs in one table; each run has one there."""
    row = conn.execute(
        "SELECT count(*) FROM healthcare.member WHERE test_run_id IS NOT NULL"
    ).fetchone()
    assert row is not None
    return int(row[0])


def requests(conn: Connection) -> int:
    row = conn.execute("SELECT count(*) FROM atdm.request").fetchone()
    assert row is not None
    return int(row[0])


FIVE = """
import pytest
from atdm.pytest import atdm_scenario

@pytest.mark.parametrize("n", range(4))
@atdm_scenario("active_member_clean")
def test_one(atdm_data, n):
    assert n != 2

@atdm_scenario("active_member_clean")
def test_records(atdm_data, atdm_lease):
    other = atdm_lease("healthcare/active_member_clean")
    assert other.test_run_id != atdm_data.test_run_id
    assert atdm_data.records["member"]
"""


def test_with_a_warm_pool_the_client_role_is_enough(
    suite: pytest.Pytester,
    conn: Connection,
    client_url: str,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = seeded(conn, tmp_path, registry, SCENARIO, runs=9)
    monkeypatch.setenv("ATDM_DATABASE_URL", client_url)
    suite.makepyfile(FIVE)
    result = suite.runpytest_inprocess("--strict-markers", "-o", "atdm_queue_seconds=1")
    # Records need the right to read; whoever has none is told, and everything else works.
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["*may read no table of healthcare*GRANT*"])
    assert "making" not in result.stdout.str()
    assert "queue" not in result.stdout.str()
    assert requests(conn) == 1
    # Nothing was taken by looking what is ready, and no more than was leased is gone.
    assert rows(conn) == 9 - 6
    told = conn.execute(
        "SELECT outcome, count(*), count(DISTINCT session) FROM atdm.test_outcome"
        " WHERE test_run_id BETWEEN %s AND %s GROUP BY 1 ORDER BY 1",
        (made.run(1), made.run(9)),
    ).fetchall()
    assert told == [("failed", 3, 1), ("passed", 3, 1)]
    assert list((suite.path / "home" / "sessions").glob("*/")) == []


def test_ready_runs_are_counted_alike_with_and_without_the_right_to_read(
    conn: Connection, client_url: str, registry: Registry, tmp_path: Path
) -> None:
    seeded(conn, tmp_path, registry, SCENARIO, runs=3)
    constraints: dict[str, Any] = {"claim_status": "paid"}
    with connect(client_url) as client:
        for most, expected in ((2, 2), (3, 3), (5, 3), (0, 0)):
            assert suites.ready(conn, SCENARIO, constraints, most) == suites.Ready(expected, True)
            assert suites.ready(client, SCENARIO, constraints, most) == suites.Ready(
                expected, False
            )
        for connection in (conn, client):
            with pytest.raises(AtdmError) as caught:
                suites.ready(connection, "active_membr_clean", {}, 1)
            assert caught.value.code is ErrorCode.SCENARIO_NOT_FOUND
            with pytest.raises(AtdmError) as caught:
                suites.ready(connection, SCENARIO, {"claim_status": "eaten"}, 1)
            assert caught.value.code is ErrorCode.CONSTRAINT_INVALID
    assert suites.ready(conn, "contradictory_eligibility", {}, 1).violates
    row = conn.execute("SELECT count(*) FROM atdm.test_run WHERE status = 'ready'").fetchone()
    assert row == (3,)


def daemon(target: str, folder: Path, registry: Registry, stop: threading.Event) -> None:
    """Answer the queue as the daemon does: waiting runs are made by one request."""
    with connect(target) as conn:
        while not stop.wait(0.05):
            waiting = conn.execute(
                "SELECT submission_id, runs, payload FROM atdm.submission WHERE status = 'waiting'"
            ).fetchall()
            for submission, runs, payload in waiting:
                made = seeded(
                    conn, folder, registry, payload["scenario"], runs=runs, pooled=False,
                    constraints=payload["constraints"],
                )  # fmt: skip
                conn.execute(
                    "UPDATE atdm.submission SET status = 'launched', request_id = %s,"
                    " first_run = 1 WHERE submission_id = %s",
                    (made.request_id, submission),
                )
                conn.execute("SELECT atdm.settle(%s)", (made.request_id,))


def test_what_is_missing_comes_through_the_queue_where_it_cannot_be_made(
    suite: pytest.Pytester,
    conn: Connection,
    client_url: str,
    target: str,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeded(conn, tmp_path, registry, SCENARIO, runs=1)
    monkeypatch.setenv("ATDM_DATABASE_URL", client_url)
    suite.makepyfile(FIVE)
    stop = threading.Event()
    thread = threading.Thread(target=daemon, args=(target, tmp_path, registry, stop))
    thread.start()
    try:
        result = suite.runpytest_inprocess("-k", "test_one")
    finally:
        stop.set()
        thread.join()
    result.assert_outcomes(passed=3, failed=1, deselected=1)
    result.stdout.fnmatch_lines(["atdm: asking the queue for 3 runs of active_member_clean ... *s"])
    submitted = conn.execute("SELECT runs, claimed_at IS NOT NULL FROM atdm.submission").fetchall()
    assert submitted == [(3, True)]
    assert rows(conn) == 0


def test_without_a_daemon_the_tests_that_lack_data_say_so(
    suite: pytest.Pytester, conn: Connection, client_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATDM_DATABASE_URL", client_url)
    suite.makepyfile(FIVE + "\ndef test_without(): pass\n")
    result = suite.runpytest_inprocess("-o", "atdm_queue_seconds=0.3")
    result.assert_outcomes(passed=1, errors=5)
    result.stdout.fnmatch_lines(["*no run is ready, and the queue made none in 0.3 s*atdm up*"])
    # What is made later for a session that is over, the next one gives back.
    (folder,) = sessions_of(suite.path / "home")
    assert [note for note in folder.notes() if "submission" in note]


def test_kept_data_of_failed_tests_is_shown_and_stays(
    suite: pytest.Pytester, conn: Connection, registry: Registry, tmp_path: Path
) -> None:
    seeded(conn, tmp_path, registry, SCENARIO, runs=12)
    suite.makepyfile(FIVE)
    options = ("--junitxml=report.xml", "-rA", "-k", "test_one")
    result = suite.runpytest_inprocess("--atdm-keep-failed", *options)
    result.assert_outcomes(passed=3, failed=1, deselected=1)
    shown = result.stdout.str()
    (found,) = re.findall(r"give back: atdm reset (\w{26}) --token (atdm_\S+)", shown)
    run, token = found
    assert f"-c \"SELECT * FROM healthcare.member WHERE test_run_id = '{run}'\"" in shown
    assert f"m-{run}" in shown
    assert token not in (suite.path / "report.xml").read_text(encoding="utf-8")
    assert shown.count(token) == 1, "where it is to be read, and nowhere else"
    assert rows(conn) == 12 - 3
    # The session after it leaves them alone, and keeps nothing itself.
    again = suite.runpytest_inprocess(*options)
    again.assert_outcomes(passed=3, failed=1, deselected=1)
    assert "kept data" not in again.stdout.str()
    assert rows(conn) == 12 - 7
    assert leases.reset_run(conn, run, token)["status"] == "cleaned"


def test_a_reset_that_fails_is_a_warning_and_the_next_session_tries_again(
    suite: pytest.Pytester, conn: Connection, registry: Registry, tmp_path: Path
) -> None:
    seeded(conn, tmp_path, registry, SCENARIO, runs=4)
    # What the application hangs on the rows of two runs cannot be taken apart.
    suite.makepyfile(
        """
        import os, psycopg
        from atdm.pytest import atdm_scenario

        @atdm_scenario("active_member_clean")
        def test_knots(atdm_data, atdm_lease):
            other = atdm_lease("active_member_clean")
            with psycopg.connect(os.environ["ATDM_DATABASE_URL"], autocommit=True) as conn:
                conn.execute(
                    "UPDATE healthcare.claim SET member_id = %s WHERE test_run_id = %s",
                    (other.data["member_id"], atdm_data.test_run_id),
                )
        """
    )
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*AtdmResetWarning: the rows of test run * RESET_FAILED*"])
    result.stdout.fnmatch_lines(["atdm: *1 lease, p50*"])
    # Both rows of the knot are this session's, so its end undoes it.
    assert rows(conn) == 4 - 2


def test_without_a_database_the_session_ends_with_one_message(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATDM_DATABASE_URL", "postgresql://nobody:hush@127.0.0.1:1/nothing")
    suite.makepyfile(FIVE + "\ndef test_without(): pass\n")
    began = time.monotonic()
    result = suite.runpytest_inprocess()
    assert time.monotonic() - began < 10
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {}
    shown = result.stdout.str()
    assert shown.count("TARGET_UNREACHABLE") == 1
    assert "atdm up" in shown
    assert "hush" not in shown


def test_a_database_without_a_catalog_ends_the_session_too(
    suite: pytest.Pytester, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATDM_DATABASE_URL", empty_database)
    suite.makepyfile(FIVE)
    result = suite.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["! atdm TARGET_NOT_INITIALISED: *run atdm init*"])


@pytest.mark.parametrize("options", ["--collect-only", "--setup-plan"])
def test_looking_at_a_suite_opens_no_connection(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.setenv("ATDM_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    suite.makepyfile(FIVE)
    assert suite.runpytest_inprocess(options).ret == pytest.ExitCode.OK
    assert not (suite.path / "home").exists()


def abandoned(
    conn: Connection, target: SessionClient, folder: SessionFolder, *, owner: str, **header: Any
) -> str:
    """A run that a process of another session holds, and its journal, as if it had died."""
    folder.create()
    journal = folder.journal("gw0", target=target.database, owner=owner, secret="s", **header)
    held = leases.lease(conn, None, SCENARIO, owner=owner, owner_secret="s")
    journal.write(leased=held["test_run_id"], token=held["token"])
    journal.close(remove=False)
    return held["test_run_id"]


@pytest.fixture
def reaper(suite: pytest.Pytester, target: str) -> Iterator[SessionClient]:
    opened = SessionClient(Settings.from_environment())
    yield opened
    opened.close()


@pytest.mark.parametrize("shared", [False, True])
def test_what_the_dead_hold_is_given_back(
    reaper: SessionClient, conn: Connection, registry: Registry, tmp_path: Path, shared: bool
) -> None:
    made = seeded(conn, tmp_path, registry, SCENARIO, runs=4, label="pytest-dead-1")
    dead = SessionFolder(reaper.settings.home, "dead")
    abandoned(conn, reaper, dead, owner="build", shared=shared)
    dead.note(target=reaper.database, label="pytest-dead-1", database=None)
    living = SessionFolder(reaper.settings.home, "living")
    living.create()
    journal = living.journal("main", target=reaper.database, owner="build", secret="s", shared=True)
    mine = leases.lease(conn, None, SCENARIO, owner="build", owner_secret="other")
    assert reap_others(reaper.settings.home, "own", reaper) == []
    # Its lease went, and so did the runs that it had made and nobody came for; ours did not.
    left = conn.execute("SELECT test_run_id FROM healthcare.member").fetchall()
    assert left == [(mine["test_run_id"],)]
    assert made.run(1)[:20] == mine["test_run_id"][:20]
    assert [folder.session_id for folder in sessions_of(reaper.settings.home)] == ["living"]
    journal.close(remove=True)


def test_what_was_leased_elsewhere_is_left_to_those_who_are_there(
    reaper: SessionClient, conn: Connection, registry: Registry, tmp_path: Path
) -> None:
    seeded(conn, tmp_path, registry, SCENARIO, runs=1)
    folder = SessionFolder(reaper.settings.home, "elsewhere")
    folder.create()
    journal = folder.journal("main", target="host:1/other", owner="x", secret="s", shared=False)
    journal.close(remove=False)
    assert reap_others(reaper.settings.home, "own", reaper) == []
    assert folder.path.exists()
    (path,) = folder.journals()
    long_ago = time.time() - timedelta(days=8).total_seconds()
    os.utime(path, (long_ago, long_ago))
    assert reap_others(reaper.settings.home, "own", reaper) == []
    assert not folder.path.exists()


def test_a_journal_that_was_cut_off_is_read_as_far_as_it_goes(
    reaper: SessionClient, conn: Connection, registry: Registry, tmp_path: Path
) -> None:
    seeded(conn, tmp_path, registry, SCENARIO, runs=1)
    folder = SessionFolder(reaper.settings.home, "cut")
    run = abandoned(conn, reaper, folder, owner="x", shared=False)
    (path,) = folder.journals()
    with path.open("ab") as file:
        file.write(b'{"leased": "01K')
    empty = folder.path / "gw1-1.journal"
    empty.touch()
    assert reap_others(reaper.settings.home, "own", reaper) == []
    assert rows(conn) == 0
    assert run
    assert not folder.path.exists()


RESTORER = """
import pathlib, sys, time
from atdm.pytest.restores import once
from atdm.pytest.session_files import SessionFolder
folder = SessionFolder(pathlib.Path(sys.argv[1]), "s")
def restore():
    pathlib.Path(sys.argv[2]).touch()
    time.sleep(float(sys.argv[3]))
    return {"by": sys.argv[2]}
print(once(folder, "golden", restore, patient=False)["by"])
"""


def started(home: Path, mark: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RESTORER, str(home), str(mark), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_baseline_is_restored_once_also_when_whoever_restores_is_killed(tmp_path: Path) -> None:
    folder = SessionFolder(tmp_path, "s")
    folder.create()
    first, second = tmp_path / "first", tmp_path / "second"
    dying = started(tmp_path, first, 60)
    until(first.exists)
    waiting = started(tmp_path, second, 0)
    assert folder.is_marked("restoring")
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    assert waiting.communicate(timeout=30)[0].strip() == str(second)
    # It is restored: nobody restores again, and nobody waits to lease.
    late = restores.once(folder, "golden", lambda: pytest.fail("again"), patient=True)
    assert late == {"by": str(second)}
    restores.wait_while_restoring(folder)
    assert not folder.is_marked("restoring")


def test_a_restore_that_waits_for_its_own_leases_fails_at_once(tmp_path: Path) -> None:
    folder = SessionFolder(tmp_path, "s")
    folder.create()
    calls = []

    def busy() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise AtdmError(ErrorCode.BUSY, "leases are out")

    with pytest.raises(AtdmError, match="leases are out"):
        restores.once(folder, "golden", busy, patient=False)
    assert len(calls) == 1
    restores.once(folder, "silver", busy, patient=True)
    assert len(calls) == 3


def test_what_is_in_stock_is_taken_once(tmp_path: Path) -> None:
    folder = SessionFolder(tmp_path, "s")
    folder.create()
    for number in range(3):
        folder.stock("pair", {"number": number})
    folder.stock("other", {"number": 9})
    assert [folder.take("pair") for _ in range(4)] == [
        {"number": 0}, {"number": 1}, {"number": 2}, None,
    ]  # fmt: skip
    assert folder.take("unknown") is None
    private = [path for path in folder.path.rglob("*") if path.is_file()]
    assert private
    assert all(path.stat().st_mode & 0o077 == 0 for path in private)
    assert folder.path.stat().st_mode & 0o077 == 0
