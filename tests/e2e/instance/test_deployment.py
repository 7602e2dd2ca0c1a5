"""The processes of docker-compose.yml, without containers: each service's own command, by itself.

Code server, webserver and daemon share nothing but the two databases and the store.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from atdm_assets import names
from atdm_resources.catalog import leases
from atdm_resources.catalog import queue as queueing
from atdm_resources.local import dagster_http
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services.baselines import listing
from tests.conftest import new_database
from tests.e2e.conftest import MINUTELY
from tests.support.waiting import until

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SCENARIO = "active_member_clean"
USER_HEADER = "X-Forwarded-User"
SCHEDULE = names.dataset_schedule_name("healthcare", "minutely")
LAUNCH = """mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message } } }"""
RUN = "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
START = """mutation Start($schedule: ScheduleSelector!) {
  startSchedule(scheduleSelector: $schedule) { __typename
    ... on PythonError { message } } }"""


@dataclass(frozen=True)
class Deployment:
    """What the running services share."""

    web: str
    target: str
    store: Store
    healthy: Callable[[str], bool]

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        answer = httpx.post(
            f"{self.web}/graphql",
            json={"query": query, "variables": variables},
            headers={USER_HEADER: "ada lovelace"},  # as a proxy before the webserver says it
            timeout=30,
            trust_env=False,
        ).json()
        assert "errors" not in answer, answer
        found: dict[str, Any] = answer["data"]
        return found


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def here(arguments: list[str], ports: dict[str, str]) -> list[str]:
    """A command of docker-compose.yml with this machine's address, ports and paths."""
    changed = {"0.0.0.0": "127.0.0.1", "/etc/atdm/workspace.yaml": workspace(), **ports}
    name, *rest = arguments
    for found, put in changed.items():
        rest = [argument.replace(found, put) for argument in rest]
    return [str(Path(sys.executable).with_name(name)), *rest]


def workspace() -> str:
    return str(ROOT / "deploy" / "compose" / "workspace.yaml")


@pytest.fixture
def deployment(postgres_server_url: str, tmp_path: Path) -> Iterator[Deployment]:
    scenarios = tmp_path / "scenarios"
    (scenarios / "healthcare" / "datasets").mkdir(parents=True)
    dataset = scenarios / "healthcare" / "datasets" / "minutely.yaml"
    dataset.write_text(MINUTELY, encoding="utf-8")
    home = tmp_path / "home"
    (home / "dagster").mkdir(parents=True)
    config = (ROOT / "dagster.yaml").read_text(encoding="utf-8")
    (home / "dagster" / "dagster.yaml").write_text(config, encoding="utf-8")
    store = Store((tmp_path / "store").as_uri())
    ports = {"3000": free_port(), "4000": free_port()}
    with ExitStack() as stack:
        target, own = (stack.enter_context(new_database(postgres_server_url)) for _ in range(2))
        named = {
            "ATDM_DATABASE_URL": target,
            "ATDM_DAGSTER_DATABASE_URL": own.replace("postgresql:", "postgresql+psycopg2:", 1),
            "ATDM_STORE_URL": store.url,
            "ATDM_SCENARIO_PATH": str(scenarios),
            "ATDM_INVOKER": "agent:compose",
            "ATDM_USER_HEADER": USER_HEADER,
            "ATDM_CODE_HOST": "127.0.0.1",
            "ATDM_CODE_PORT": ports["4000"],
            "ATDM_HOME": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }
        foreign = ("ATDM_", "DAGSTER_", "PG")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        environment = {**kept, **named}

        def command(service: str) -> list[str]:
            return here(COMPOSE["services"][service]["command"], ports)

        def healthy(service: str) -> bool:
            (_, *check) = COMPOSE["services"][service]["healthcheck"]["test"]
            done = subprocess.run(
                here(check, ports), env=environment, check=False, capture_output=True
            )
            return done.returncode == 0

        subprocess.run(command("init"), env=environment, check=True, capture_output=True)
        for service in ("code", "webserver", "daemon"):
            sink = stack.enter_context((tmp_path / f"{service}.log").open("wb"))
            process = subprocess.Popen(
                command(service),
                env=environment,
                cwd=tmp_path,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(end, process)
            if service == "code":  # the others depend on its health
                until(lambda: healthy("code"), 60)
        until(lambda: healthy("webserver"), 60)
        yield Deployment(f"http://127.0.0.1:{ports['3000']}", target, store, healthy)


def end(process: subprocess.Popen[bytes]) -> None:
    """The whole group: Dagster's processes start some of their own."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def test_three_processes_serve_a_launch_a_submission_and_a_refresh(deployment: Deployment) -> None:
    repository = {
        "repositoryName": "__repository__",
        "repositoryLocationName": "atdm",
    }
    until(lambda: dagster_http.load_errors(deployment.web) is not None, 60, pause=0.5)
    assert dagster_http.load_errors(deployment.web) == {}

    schedule = {**repository, "scheduleName": SCHEDULE}
    started = deployment.ask(START, schedule=schedule)["startSchedule"]
    assert started["__typename"] == "ScheduleStateResult", started

    with connect(deployment.target) as conn:
        submitted = queueing.submit(conn, {"idempotency_key": "k", "scenario": SCENARIO})
        assert submitted["status"] == "waiting"
        launched = deployment.ask(
            LAUNCH,
            params={
                "selector": {**repository, "jobName": "request_data"},
                "runConfigData": {
                    "ops": {"request": {"config": {"scenario": SCENARIO, "label": "by-hand"}}}
                },
            },
        )["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run = launched["run"]["runId"]

        def status() -> str:
            return str(deployment.ask(RUN, id=run)["runOrError"]["status"])

        until(lambda: status() in {"SUCCESS", "FAILURE", "CANCELED"}, 90, pause=0.5)
        assert status() == "SUCCESS"
        assert requests(conn)["by-hand"] == ("ready", "dagster", "human:ada-lovelace")

        until(lambda: queueing.submission_status(conn, "k")["status"] == "fulfilled", 90, pause=0.5)
        (lease,) = leases.claim(conn, "k")
        assert lease["data"]["member_id"]
    assert deployment.healthy("daemon")
    (version, *_) = until(lambda: listing.baselines(deployment.store, "healthcare"), 150, pause=1)
    assert version.problem is None
    assert version.manifest is not None
    assert {table.name: table.rows for table in version.manifest.tables}["member"] == 10


def requests(conn: psycopg.Connection[Any]) -> dict[str, tuple[str, str, str]]:
    rows = conn.execute("SELECT label, status, source, invoker FROM atdm.request").fetchall()
    return {label: (status, source, invoker) for label, status, source, invoker in rows}
