"""The pytest plugin against a real target: leased, made, used, given back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from atdm_engine.bundle.registry import Registry
from tests.e2e.conftest import Shell

SUITE = """
import os
import psycopg
import pytest
from atdm.pytest import atdm_scenario

def claims(run):
    with psycopg.connect(os.environ["ATDM_DATABASE_URL"]) as connection:
        return connection.execute(
            "SELECT status FROM healthcare.claim WHERE test_run_id = %s", (run,)
        ).fetchall()

@pytest.mark.atdm_scenario("active_member_clean")
def test_leased(atdm_data, record_property):
    record_property("run", atdm_data["test_run_id"])
    assert claims(atdm_data["test_run_id"]) == [("paid",)]

@atdm_scenario("active_member_clean", {"claim_status": "pending"})
def test_made(atdm_data):
    assert claims(atdm_data["test_run_id"]) == [("pending",)]

@atdm_scenario("claim_denial_active_member", seed=3, as_of="2026-01-31")
def test_pinned_and_failing(atdm_data):
    assert atdm_data["seed"] == 3
    assert claims(atdm_data["test_run_id"]) == []

@atdm_scenario("no_such_scenario")
def test_unknown(atdm_data):
    pass
"""


def pytest_run(shell: Shell, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=shell.folder,
        env=shell.environment(**variables),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_suite_gets_its_data_and_leaves_nothing(shell: Shell, registry: Registry) -> None:
    shell.make_ready(registry, "active_member_clean")
    before = shell.total_rows()
    (shell.folder / "test_suite.py").write_text(SUITE, encoding="utf-8")

    done = pytest_run(shell, "-v", "--showlocals", ATDM_DATABASE_URL=shell.url)

    closing = done.stdout.splitlines()[-1]
    assert all(said in closing for said in ("1 failed", "2 passed", "1 error")), done.stdout
    assert "warning" not in closing
    assert "SCENARIO_NOT_FOUND" in done.stdout
    assert "seed 3, as of 2026-01-31T00:00:00" in done.stdout
    assert "the same data again: atdm replay " in done.stdout
    assert done.stdout.count("atdm: making a run of ") == 3
    assert "atdm_" not in _token_like(done.stdout)
    # One ready run was leased and given back; those made on the way are gone as well.
    assert shell.total_rows() == before - 5
    with shell.connect() as connection:
        events = connection.execute(
            "SELECT action, count(*) FROM atdm.audit_event WHERE source = 'pytest' GROUP BY 1"
        ).fetchall()
    assert dict(events)["leased"] == 3
    assert dict(events)["reset_completed"] == 3


def _token_like(text: str) -> str:
    """The words of a text that are long enough to be a token."""
    return " ".join(word for word in text.replace("'", " ").split() if len(word) == 48)


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "workers"])
def test_an_unreachable_target_ends_the_session_with_one_message(
    shell: Shell, arguments: tuple[str, ...]
) -> None:
    (shell.folder / "test_suite.py").write_text(SUITE, encoding="utf-8")
    done = pytest_run(
        shell, *arguments, ATDM_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing"
    )
    assert done.returncode in (1, 2)
    assert done.stdout.count("TARGET_UNREACHABLE") == 1, done.stdout
    closing = done.stdout.splitlines()[-1]
    assert "skipped" not in closing
    assert "passed" not in closing


OWN_DATABASE = """
import psycopg, pytest
from atdm.pytest import atdm_scenario

SEEN = []

@pytest.mark.parametrize("n", range(3))
@atdm_scenario("active_member_clean", {"claim_status": "pending"}, isolation="database")
def test_own(atdm_data, n):
    assert "postgres@" not in repr(atdm_data)
    with psycopg.connect(atdm_data["database_url"], autocommit=True) as own:
        assert own.execute("SELECT count(*), min(status) FROM healthcare.claim").fetchone() == (
            1, "pending",
        )
        SEEN.append(own.info.dbname)
        own.execute("DELETE FROM healthcare.claim")
    assert atdm_data.records["member"][0]["member_id"] == atdm_data.data["member_id"]
    assert "claim" not in atdm_data.records
    assert len(set(SEEN)) == len(SEEN) == n + 1
    assert n != 2

@atdm_scenario("active_member_clean", isolation="database", baseline="own-start")
def test_from_a_baseline(atdm_data):
    with psycopg.connect(atdm_data["database_url"], autocommit=True) as own:
        found = own.execute("SELECT plan_id FROM healthcare.plan WHERE plan_id = 'own-plan'")
        assert found.fetchone()
        member = atdm_data.data["member_id"]
        mine = own.execute("SELECT FROM healthcare.member WHERE member_id = %s", (member,))
        assert mine.rowcount == 1
"""


def test_a_database_of_the_tests_own(shell: Shell) -> None:
    before = shell.total_rows()
    with shell.connect() as connection:
        connection.execute(
            "INSERT INTO healthcare.plan (plan_id, name, coverage_type, effective_date)"
            " VALUES ('own-plan', 'FAKE_Own', 'hmo', '2020-01-01')"
        )
        shell.json("baseline-snapshot", "-b", "own-start")
        connection.execute("DELETE FROM healthcare.plan WHERE plan_id = 'own-plan'")
    (shell.folder / "test_own.py").write_text(OWN_DATABASE, encoding="utf-8")
    done = pytest_run(shell)
    closing = done.stdout.splitlines()[-1]
    assert "3 passed" in closing, done.stdout
    assert "1 failed" in closing
    assert "warning" not in closing
    assert (
        "making a database with a run of active_member_clean (claim_status=pending)" in done.stdout
    )
    assert (
        "atdm request healthcare/active_member_clean -c claim_status=pending --seed" in done.stdout
    )
    assert shell.total_rows() == before
    with shell.connect() as connection:
        left = connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'atdm_clone_%'"
        ).fetchall()
        told = connection.execute(
            "SELECT outcome, count(*) FROM atdm.test_outcome WHERE nodeid LIKE 'test_own.py::%'"
            " AND scenario_id = 'active_member_clean' GROUP BY outcome ORDER BY outcome"
        ).fetchall()
    assert left == []
    assert told == [("failed", 1), ("passed", 3)]


BASELINE = """
import pytest
from atdm.pytest import atdm_scenario

@pytest.fixture(scope="session", autouse=True)
def golden(atdm_baseline):
    return atdm_baseline("golden-suite")

@pytest.mark.parametrize("n", range(8))
@atdm_scenario("active_member_clean")
def test_on_top(atdm_data, golden, n):
    assert golden["baseline_id"] == "golden-suite"
"""


def test_one_worker_restores_the_baseline_of_all(shell: Shell, registry: Registry) -> None:
    shell.make_ready(registry, "active_member_clean", 8)
    shell.json("baseline-snapshot", "-b", "golden-suite")
    (shell.folder / "test_baseline.py").write_text(BASELINE, encoding="utf-8")
    done = pytest_run(shell, "-n", "2")
    assert "8 passed" in done.stdout.splitlines()[-1], done.stdout
    with shell.connect() as connection:
        restored = connection.execute(
            "SELECT count(*) FROM atdm.audit_event WHERE action = 'restore_completed'"
            " AND source = 'pytest'"
        ).fetchone()
    assert restored == (1,)


def test_an_example_suite_reads_a_fixture_file(shell: Shell, registry: Registry) -> None:
    """The way without the plugin: a file by ATDM_FIXTURE_FILE (requirement A-FIX-06)."""
    shell.make_ready(registry, "active_member_clean")
    answer = shell.json("request", "active_member_clean", "--pytest")
    (shell.folder / "test_file.py").write_text(
        "import os, runpy\n"
        "def test_data():\n"
        "    module = runpy.run_path(os.environ['ATDM_FIXTURE_FILE'])\n"
        "    assert module['scenario_data']()['data']['member_id'].startswith('m-')\n",
        encoding="utf-8",
    )
    done = pytest_run(shell, "-q", ATDM_FIXTURE_FILE=answer["fixtures"]["pytest"])
    assert done.returncode == 0, done.stdout
    shell.json("reset", answer["test_run_id"], "-t", answer["cleanup"]["cleanup_token"])


def test_parallel_workers_get_runs_of_their_own(
    shell: Shell, registry: Registry, tmp_path: Path
) -> None:
    shell.make_ready(registry, "active_member_clean", 4)
    (shell.folder / "test_parallel.py").write_text(
        "import json, os, pathlib, time, pytest\n"
        "@pytest.mark.parametrize('n', range(4))\n"
        "@pytest.mark.atdm_scenario('active_member_clean')\n"
        "def test_one(atdm_data, n):\n"
        "    pathlib.Path(os.environ['SEEN'], str(n)).write_text(atdm_data['test_run_id'])\n"
        "    time.sleep(0.3)\n",
        encoding="utf-8",
    )
    seen = tmp_path / "seen"
    seen.mkdir()
    done = pytest_run(shell, "-q", "-n", "2", SEEN=str(seen))
    assert done.returncode == 0, done.stdout
    runs = {path.read_text(encoding="utf-8") for path in seen.iterdir()}
    assert len(runs) == 4, json.dumps(sorted(runs))
    assert sum(shell.total_rows(run) for run in runs) == 0


CLEANUPS = """
import pytest
from atdm.pytest import atdm_scenario

@atdm_scenario("active_member_clean", cleanup="after_suite")
def test_suite(atdm_data):
    print("SUITE", atdm_data["test_run_id"])

@atdm_scenario("active_member_clean", cleanup="leave")
def test_left(atdm_data, atdm_client):
    print("LEFT", atdm_data["test_run_id"])

@atdm_scenario("active_member_clean", cleanup="sometimes")
def test_wrong(atdm_data):
    pass
"""


def test_a_marker_says_when_its_rows_go_and_the_session_can_seal_the_trail(
    shell: Shell, registry: Registry, tmp_path: Path
) -> None:
    shell.make_ready(registry, "active_member_clean", 2)
    (shell.folder / "test_cleanups.py").write_text(CLEANUPS, encoding="utf-8")
    store = tmp_path / "store"
    store.mkdir()
    done = pytest_run(shell, "-q", "-s", "--atdm-seal", ATDM_STORE_URL=store.as_uri())
    assert "2 passed" in done.stdout, done.stdout
    assert "allowed: after_test, after_suite, leave" in done.stdout
    runs = dict(line.lstrip(".E").split() for line in done.stdout.splitlines()
                if line.lstrip(".E").startswith(("SUITE ", "LEFT ")))  # fmt: skip
    assert shell.total_rows(runs["SUITE"]) == 0
    assert shell.total_rows(runs["LEFT"]) == 5
    assert list(store.glob("audit/dt=*/events-*.parquet"))
    assert shell.json("audit-verify")["intact"] is True
    shell.json("reset", "--owner", "human:tester")
