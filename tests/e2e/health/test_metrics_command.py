"""``atdm metrics`` and the log lines of commands, as processes."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import ATDM, Shell


def test_printed_once(shell: Shell) -> None:
    answer = shell.run("metrics")
    assert (answer.status, answer.err) == (0, "")
    names = {family.name for family in text_string_to_metric_families(answer.out)}
    assert {"atdm_up", "atdm_audit_events", "atdm_pool_ready"} <= names
    families = shell.json("metrics")
    assert families[0]["samples"] == [{"name": "atdm_up", "labels": {}, "value": 1.0}]

    gone = shell.run("metrics", ATDM_DATABASE_URL="postgresql://u:hunter22@127.0.0.1:1/none")
    assert gone.status == 1
    assert "atdm_up 0.0" in gone.out
    assert "cannot connect" in gone.err
    assert "hunter22" not in gone.out + gone.err


def test_served_until_told_to_stop(shell: Shell) -> None:
    process = subprocess.Popen(
        [str(ATDM), "-o", "json", "metrics", "--port", "0"],
        env=shell.environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = ""
        while not told.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, process.communicate()
            told += line
        where = json.loads(told)
        with urllib.request.urlopen(where["url"], timeout=30) as scraped:
            assert b"atdm_up 1.0" in scraped.read()
        with urllib.request.urlopen(where["healthz"], timeout=30) as health:
            assert health.read() == b"ok\n"
        taken = shell.refused("metrics", "--port", where["url"].rpartition(":")[2].split("/")[0])
        assert taken["code"] == "REQUEST_INVALID"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "")
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events == ["metrics_serving", "metrics_stopped"]


def test_a_command_that_works_writes_one_line(shell: Shell) -> None:
    answer = shell.run("-o", "json", "audit-seal", "--no-export")
    assert answer.json["unsealed"] >= 0
    line = json.loads(answer.err.splitlines()[-1])
    assert line.items() >= {
        "event": "audit-seal", "status": "ok", "method": "cli", "invoker": "human:tester",
    }.items()  # fmt: skip
    assert line["latency_ms"] > 0

    quiet = shell.run("audit-seal", "--no-export", ATDM_LOG_LEVEL="error")
    assert not any(line.startswith("{") for line in quiet.err.splitlines())
