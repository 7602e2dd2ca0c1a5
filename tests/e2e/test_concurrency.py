"""Many at once: requests, leases and resets by eight processes, judged by a reader of its own.

The short run is part of the suite; ``ATDM_STRESS_SECONDS=30`` makes it the long one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from tests.e2e.conftest import ATDM, Shell

SECONDS = float(os.environ.get("ATDM_STRESS_SECONDS", "5"))
LEASERS = 6
REQUESTERS = 2
SCENARIO = "active_member_clean"

LEASER = """
import json, random, sys, time
import psycopg
from atdm_engine.errors import AtdmError
from atdm_resources import leasing

url, owner, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
told = {"leased": [], "empty": 0, "busy": 0, "wrong": []}
deadline = time.monotonic() + seconds
with psycopg.connect(url, autocommit=True) as conn:
    while time.monotonic() < deadline:
        try:
            run = leasing.lease(conn, None, sys.argv[4], owner=owner)
        except AtdmError as error:
            if error.code == "NONE_READY":
                told["empty"] += 1
                time.sleep(0.01)
                continue
            if error.code == "BUSY":
                told["busy"] += 1
                continue
            told["wrong"].append(str(error))
            continue
        told["leased"].append(run["test_run_id"])
        if random.random() < 0.05:
            continue  # left to the sweep by owner
        try:
            answer = leasing.reset_run(conn, run["test_run_id"], run["token"])
            if answer["status"] != "cleaned":
                told["wrong"].append(str(answer))
        except AtdmError as error:
            told["wrong"].append(str(error))
print(json.dumps(told))
"""


@pytest.mark.slow
def test_eight_processes_request_lease_and_reset(fresh_shell: Shell) -> None:
    shell = fresh_shell
    shell.json("request", SCENARIO, "--runs", "300", "--no-lease")
    leasers = [
        subprocess.Popen(
            [sys.executable, "-c", LEASER, shell.url, f"worker-{number}", str(SECONDS), SCENARIO],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(LEASERS)
    ]
    deadline = time.monotonic() + SECONDS
    requested, refused = 300, []
    while time.monotonic() < deadline:
        requesters = [
            subprocess.Popen(
                [str(ATDM), "-o", "json", "request", SCENARIO, "--runs", "200", "--no-lease"],
                env=shell.environment(),
                cwd=shell.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(REQUESTERS)
        ]
        for requester in requesters:
            out, err = requester.communicate(timeout=120)
            if requester.returncode == 0:
                requested += 200
            else:
                refused.append(out + err)
    told = []
    for leaser in leasers:
        out, err = leaser.communicate(timeout=120)
        assert leaser.returncode == 0, err
        told.append(json.loads(out))

    assert refused == []
    assert [wrong for one in told for wrong in one["wrong"]] == []
    leased = [run for one in told for run in one["leased"]]
    assert len(leased) > 50
    assert len(set(leased)) == len(leased), "a run was leased twice"

    for number in range(LEASERS):
        shell.json("reset", "--owner", f"worker-{number}")
    with shell.connect() as reader:
        states = dict(
            reader.execute("SELECT status, count(*) FROM atdm.test_run GROUP BY status").fetchall()
        )
        trail = reader.execute(
            "SELECT count(*), count(DISTINCT test_run_id) FROM atdm.audit_event"
            " WHERE action = 'leased'"
        ).fetchone()
        row = reader.execute(
            "SELECT (SELECT count(*) FROM healthcare.member WHERE test_run_id IS NOT NULL),"
            " (SELECT count(*) FROM healthcare.member m JOIN atdm.test_run r USING (test_run_id)"
            "  WHERE r.status = 'ready')"
        ).fetchone()
    assert states.get("leased", 0) == 0
    assert states["cleaned"] == len(leased)
    assert states["ready"] + states["cleaned"] == requested
    assert trail == (len(leased), len(leased))
    assert row == (states["ready"], states["ready"]), "rows and catalog disagree"
    print(f"{len(leased)} leases in {SECONDS:g} s by {LEASERS} processes, {requested} runs made")
