"""A daemon's day in small: everything that runs by itself, together, in one home."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm_resources import leasing, queueing, sealing
from tests.e2e.conftest import Shell, new_home

GOOD = ("active_member_clean", "claim_denial_active_member", "expired_subscription")


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Shell]:
    """A home of its own with webserver and daemon."""
    folder = tmp_path / "work"
    folder.mkdir()
    with new_home() as home:
        shell = Shell(home, folder)
        shell.json("init")
        shell.json("up")
        yield shell


def until(what: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {seconds:g} s")
        time.sleep(1)
    return found


def drop(shell: Shell, name: str, text: str) -> None:
    inbox = shell.home / "store" / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    staged = inbox / f".{name}"
    staged.write_text(text, encoding="utf-8")
    staged.rename(inbox / name)


def submit_two_hundred(shell: Shell, conn: psycopg.Connection[Any]) -> None:
    """180 good ones, 20 bad ones of four kinds, by SQL and by file."""
    for number in range(150):
        queueing.submit(
            conn,
            {
                "idempotency_key": f"good-{number}",
                "scenario": GOOD[number % len(GOOD)],
                "ttl": "15 seconds",
            },
        )
    for number in range(30):
        drop(shell, f"good-{number}.json", json.dumps({"scenario": GOOD[0]}))
    for number in range(5):
        for bad in (
            {"scenario": "nobody"},
            {"scenario": GOOD[0], "constraints": {"claim_status": "lost"}},
            {"scenario": GOOD[1], "constraints": {"claim_status": "paid"}, "priority": number},
        ):
            key = f"bad-{number}-{len(str(bad))}"
            queueing.submit(conn, {"idempotency_key": key, **bad})
        drop(shell, f"torn-{number}.json", '{"scenario": ')


def scalar(conn: psycopg.Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.slow
def test_a_day(team: Shell) -> None:
    with team.connect() as conn:
        submit_two_hundred(team, conn)
        answered = "SELECT count(*) FROM atdm.submission WHERE answer IS NOT NULL"
        until(lambda: scalar(conn, answered) == 195, 240)
        by_status = dict(
            conn.execute("SELECT status, count(*) FROM atdm.submission GROUP BY 1").fetchall()
        )
        rejected = list((team.home / "store/inbox/rejected").rglob("*.reason.json"))
        assert by_status == {"fulfilled": 180, "rejected": 15}
        assert len(rejected) == 5
        reasons = "SELECT count(*) FROM atdm.submission WHERE answer #>> '{error,message}' <> ''"
        assert scalar(conn, reasons) == 15
        outbox = team.home / "store/outbox"
        until(lambda: len(list(outbox.glob("*.json"))) == 30, 60)

        tokens = [leasing.claim(conn, f"good-{number}")[0]["token"] for number in range(20)]
        leased = "SELECT count(*) FROM atdm.test_run WHERE status = 'leased'"
        until(lambda: scalar(conn, leased) == 0, 120)
        pools = (
            "SELECT bool_and(n BETWEEN pool_ready / 2 AND pool_ready) FROM (SELECT s.pool_ready,"
            " (SELECT count(*) FROM atdm.test_run AS r WHERE r.status = 'ready'"
            "  AND r.pool_key = s.default_pool_key) AS n"
            " FROM atdm.scenario AS s WHERE s.current AND s.pool_ready > 0) AS p"
        )
        until(lambda: scalar(conn, pools), 120)
        until(lambda: sealing.unsealed(conn) == 0, 120)
        verdict = sealing.verify(conn)
        assert verdict.intact
        assert verdict.sealed > 200
        assert scalar(conn, "SELECT count(*) FROM atdm.request") < 40, "a Dagster run each"
        lost = (
            "SELECT count(*) FROM healthcare.claim AS c JOIN atdm.test_run AS r USING (test_run_id)"
            " WHERE r.status NOT IN ('ready', 'leased')"
        )
        assert scalar(conn, lost) == 0
    log = (team.home / "log/daemon.log").read_text(encoding="utf-8")
    assert not any(token in log for token in tokens)
    assert team.json("audit-verify")["intact"] is True
