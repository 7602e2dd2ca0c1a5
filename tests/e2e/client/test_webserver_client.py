"""A client that has its data made by a Dagster webserver, and leases it over the database."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from atdm import AsyncAtdmClient, AtdmClient, AtdmClientError
from atdm.client.graphql import DagsterWebserver
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.connection import libpq_url
from atdm_resources.settings import Settings
from tests.e2e.conftest import Shell
from tests.support.source import ROOT

pytestmark = pytest.mark.long

SCENARIO = "claim_denial_active_member"
ANSWER_SECONDS = 90.0


@pytest.fixture
def team(shell: Shell, target: str) -> dict[str, str]:
    """The environment of everybody who works on one target."""
    exports: dict[str, str] = shell.json("env", ATDM_DATABASE_URL=target)
    return shell.environment(**exports, ATDM_OWNER="team")


@pytest.fixture
def webserver(team: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """A webserver of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = Path(sys.executable).with_name("dagster-webserver")
    with (
        (tmp_path / "webserver.log").open("w") as log,
        subprocess.Popen(
            [command, "-h", "127.0.0.1", "-p", str(port), "-w", str(ROOT / "workspace.yaml")],
            env=team, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
        ) as process,
    ):  # fmt: skip
        try:
            _wait_for(url, time.monotonic() + ANSWER_SECONDS)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(url: str, deadline: float) -> None:
    asked = DagsterWebserver(url)
    while True:
        try:
            assert asked.asset_keys()
            return
        except AtdmError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def test_made_by_the_webserver_leased_by_the_database(
    webserver: str, team: dict[str, str], target: str
) -> None:
    settings = Settings.from_environment(team)

    async def asked_by_two() -> list[str]:
        async with AsyncAtdmClient(dagster_url=webserver, settings=settings) as client:
            made = await asyncio.gather(
                client.request_scenario(SCENARIO, {"denial_reason": "not_covered"}),
                client.request_scenario(SCENARIO, seed=7, as_of="2026-01-01"),
            )
            for data in made:
                token = data["cleanup"]["cleanup_token"]
                assert (await client.reset_run(data["test_run_id"], token))["status"] == "cleaned"
            return [str(data["cleanup"]["cleanup_token"]) for data in made]

    tokens = asyncio.run(asked_by_two())

    with AtdmClient(dagster_url=webserver, settings=settings) as client:
        with pytest.raises(AtdmClientError, match="did you mean") as caught:
            client.request_scenario(f"{SCENARIO}s")
        assert caught.value.code is ErrorCode.SCENARIO_NOT_FOUND
        assert caught.value.details["dagster_run_id"]
        trail = client.get_audit(client.catalog(limit=1)[0]["test_run_id"])
        assert {event["source"] for event in trail["events"]} == {"client"}

    # What needs no token needs no database either: this client has none.
    alone = Settings.from_environment({**team, "ATDM_DATABASE_URL": ""})
    with AtdmClient(webserver, settings=alone) as client:
        assert client.request_scenario(SCENARIO, runs=2, lease=False)["ready_runs"] == 2
        captured = client.baseline_snapshot("bl-web", reason="why")
        assert (captured["reason"], captured["tables"]["claim"]) == ("why", 2)
        done = client.reset_all(confirm=True)
        assert (done["cleared_record_count"], done["deleted"]["healthcare"]["claim"]) == (2, 2)
        restored = client.baseline_restore("bl-web")
        assert (restored["runs"]["ready"], restored["tables"]["claim"]) == (2, 2)

    dagster = libpq_url(team["ATDM_DAGSTER_DATABASE_URL"])
    with psycopg.connect(dagster) as conn:
        rows = conn.execute("SELECT event FROM event_logs UNION ALL SELECT run_body FROM runs")
        recorded = "".join(text for (text,) in rows)
    assert json.dumps(captured["baseline_id"]) in recorded
    assert [token for token in tokens if token in recorded] == []
    with psycopg.connect(target) as conn:
        sources = conn.execute("SELECT DISTINCT source FROM atdm.request").fetchall()
    assert sources == [("client",)]
