"""A process that dies while it loads: nothing of it stays, and the next command puts things right.

The short run is part of the suite; ``ATDM_KILL_RUNS=200000`` makes it the long one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.e2e.conftest import ATDM, Shell

RUNS = int(os.environ.get("ATDM_KILL_RUNS", "20000"))
SCENARIO = "active_member_clean"


def _waits_for_copy(shell: Shell, seconds: float) -> int:
    """Rows that a COPY into a domain table has taken so far, as soon as there is one."""
    deadline = time.monotonic() + seconds
    with shell.connect() as reader:
        while time.monotonic() < deadline:
            row = reader.execute(
                "SELECT p.tuples_processed FROM pg_stat_progress_copy p"
                " JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname IN (SELECT schema_name FROM atdm.domain_table)"
                " AND p.tuples_processed > 100"
            ).fetchone()
            if row is not None:
                return int(row[0])
            time.sleep(0.002)
    raise AssertionError("no COPY was seen")


@pytest.mark.slow
def test_kill_during_the_load_leaves_nothing(fresh_shell: Shell) -> None:
    shell = fresh_shell
    shell.json("init")
    process = subprocess.Popen(
        [str(ATDM), "request", SCENARIO, "--runs", str(RUNS), "--no-lease", "--id", "doomed"],
        env=shell.environment(),
        cwd=shell.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    copied = _waits_for_copy(shell, 120)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert process.returncode == -signal.SIGKILL
    assert copied > 100

    assert shell.total_rows() == 0, "an aborted load shows no row to anybody"
    again = shell.json("request", SCENARIO)
    assert again["status"] == "ready"
    with shell.connect() as reader:
        died = reader.execute(
            "SELECT status, error IS NOT NULL, dagster_run_id FROM atdm.request"
            " WHERE label = 'doomed'"
        ).fetchone()
        runs = reader.execute(
            "SELECT count(*) FROM atdm.test_run t JOIN atdm.request r USING (request_id)"
            " WHERE r.label = 'doomed'"
        ).fetchone()
        trail = [
            action
            for (action,) in reader.execute(
                "SELECT e.action FROM atdm.audit_event e JOIN atdm.request r USING (request_id)"
                " WHERE r.label = 'doomed' ORDER BY e.event_id"
            ).fetchall()
        ]
    assert died is not None
    assert died[:2] == ("rolled_back", True)
    assert runs == (0,)
    assert "seed_failed" in trail
    assert "seed_completed" not in trail
    store = shell.home / "store"
    left = [path for path in store.rglob("*.parquet") if "doomed" in str(path)]
    assert left == []
    assert shell.total_rows() == shell.total_rows(again["test_run_id"])

    repeated = shell.json("request", SCENARIO, "--runs", "50", "--no-lease", "--id", "doomed-again")
    assert repeated["status"] == "ready"
