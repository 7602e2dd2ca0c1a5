"""A home with webserver and daemon: a day in small, and a baseline through every door."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg
import pytest

from atdm_assets import names
from atdm_resources.catalog import leases, seal
from atdm_resources.catalog import queue as queueing
from tests.e2e.conftest import ATDM, MINUTELY, Shell, new_home
from tests.support.baseline_zoo import make_zoo, state
from tests.support.waiting import until

GOOD = ("active_member_clean", "claim_denial_active_member", "expired_subscription")


# One worker runs all of them, so that the services are started once.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("team")]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A home with webserver and daemon, whose sensors look as often as Dagster lets them."""
    folder = tmp_path_factory.mktemp("work")
    datasets = folder / "scenarios" / "healthcare" / "datasets"
    datasets.mkdir(parents=True)
    (datasets / "minutely.yaml").write_text(MINUTELY, encoding="utf-8")
    variables = {"ATDM_SENSOR_SECONDS": "5", "ATDM_SCENARIO_PATH": str(folder / "scenarios")}
    with new_home() as home:
        shell = Shell(home, folder, variables)
        shell.json("init")
        shell.json("up")
        yield shell


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
                "ttl": "5 seconds",
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


def test_a_day(team: Shell) -> None:
    doors = Doors(team)
    schedule = doors.start_schedule()
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

        tokens = [leases.claim(conn, f"good-{number}")[0]["token"] for number in range(20)]
        leased = "SELECT count(*) FROM atdm.test_run WHERE status = 'leased'"
        until(lambda: scalar(conn, leased) == 0, 120)
        pools = (
            "SELECT bool_and(n BETWEEN pool_ready / 2 AND pool_ready) FROM (SELECT s.pool_ready,"
            " (SELECT count(*) FROM atdm.test_run AS r WHERE r.status = 'ready'"
            "  AND r.pool_key = s.default_pool_key) AS n"
            " FROM atdm.scenario AS s WHERE s.current AND s.pool_ready > 0) AS p"
        )
        until(lambda: scalar(conn, pools), 120)
        until(lambda: seal.unsealed(conn) == 0, 120)
        verdict = seal.verify(conn)
        assert verdict.intact
        assert verdict.sealed > 200
        # By the time that all this is over a refresh has been due.
        (version, *_) = until(lambda: team.json("baseline-list"), 120, pause=2)
        doors.stop_schedule(schedule)
        assert (version["kind"], version["intact"]) == ("generated", True)
        assert version["baseline_id"].startswith("minutely-")
        assert 3 < doors.runs() < 40, "the daemon gathers what is asked for"
        lost = (
            "SELECT count(*) FROM healthcare.claim AS c JOIN atdm.test_run AS r USING (test_run_id)"
            " WHERE r.status NOT IN ('ready', 'leased')"
        )
        assert scalar(conn, lost) == 0
    log = (team.home / "log/daemon.log").read_text(encoding="utf-8")
    assert not any(token in log for token in tokens)
    assert team.json("audit-verify")["intact"] is True


@dataclass(frozen=True)
class Doors:
    """The ways to a job: the command line, the launchpad, ``dagster job launch``, ``job execute``.

    Each takes the job's config and returns when it has succeeded.
    """

    shell: Shell

    @cached_property
    def _dagster(self) -> dict[str, str]:
        return {str(name): str(value) for name, value in self.shell.json("env").items()}

    @cached_property
    def _web(self) -> str:
        return str(self.shell.json("status")["webserver"]["url"])

    def start_schedule(self) -> str:
        """Start the schedule that refreshes the dataset; its id, to stop it by."""
        answer = self._asked(
            "mutation($s: ScheduleSelector!) { startSchedule(scheduleSelector: $s) { __typename"
            " ... on ScheduleStateResult { scheduleState { id } } } }",
            s={
                "repositoryLocationName": "atdm",
                "repositoryName": "__repository__",
                "scheduleName": names.dataset_schedule_name("healthcare", "minutely"),
            },
        )["startSchedule"]
        assert answer["__typename"] == "ScheduleStateResult", answer
        return str(answer["scheduleState"]["id"])

    def stop_schedule(self, schedule: str) -> None:
        stop = "mutation($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
        answer = self._asked(stop, id=schedule)["stopRunningSchedule"]
        assert answer["__typename"] == "ScheduleStateResult", answer

    def runs(self) -> int:
        """How many runs there have been."""
        found = self._asked("{ runsOrError { ... on Runs { count } } }")
        return int(found["runsOrError"]["count"])

    def cli(self, job: str, config: dict[str, Any]) -> None:
        command = {"snapshot_baseline": "baseline-snapshot", "restore_baseline": "baseline-restore"}
        revoked = ["--revoke-leases"] if config.get("revoke_leases") else []
        self.shell.json(command[job], "-b", config["baseline_id"], *revoked)

    def launchpad(self, job: str, config: dict[str, Any]) -> None:
        answer = self._asked(
            "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename"
            " ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }"
            " ... on RunConfigValidationInvalid { errors { message } } } }",
            p={
                "selector": {
                    "repositoryLocationName": "atdm",
                    "repositoryName": "__repository__",
                    "jobName": job,
                },
                "runConfigData": self._config(job, config),
            },
        )["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        self._succeeded(answer["run"]["runId"])

    def launch(self, job: str, config: dict[str, Any]) -> None:
        workspace = str(self.shell.home / "run/workspace.yaml")
        said = self._ran("launch", "-w", workspace, "-j", job, config=self._config(job, config))
        found = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", said)
        assert found is not None, said
        self._succeeded(found[0])

    def execute(self, job: str, config: dict[str, Any]) -> None:
        where = ["-m", "atdm_assets.definitions"]
        self._ran("execute", *where, "-j", job, config=self._config(job, config))

    def _config(self, job: str, config: dict[str, Any]) -> dict[str, Any]:
        return {"ops": {job.removesuffix("_baseline"): {"config": config}}}

    def _ran(self, *arguments: str, config: dict[str, Any]) -> str:
        file = self.shell.folder / "config.yaml"
        file.write_text(json.dumps(config), encoding="utf-8")
        done = subprocess.run(
            [ATDM.with_name("dagster"), "job", *arguments, "-c", str(file)],
            env=self.shell.environment(**self._dagster),
            cwd=self.shell.folder,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def _asked(self, query: str, **variables: Any) -> Any:
        request = urllib.request.Request(
            f"{self._web}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def _succeeded(self, run_id: str) -> None:
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        ended = ("SUCCESS", "FAILURE", "CANCELED")

        def status() -> str | None:
            found = str(self._asked(query, id=run_id)["runOrError"]["status"])
            return found if found in ended else None

        assert until(status, 120) == "SUCCESS"


def everything(conn: psycopg.Connection[Any]) -> dict[str, Any]:
    """Rows, sequences and definitions of the domain, and what the catalog knows of its runs."""
    runs = "SELECT test_run_id, status, pool_key, data::text FROM atdm.test_run WHERE status IN"
    requests = "SELECT request_id, label, runs, seed, tables::text FROM atdm.request WHERE status ="
    return {
        **state(conn, "healthcare"),
        "runs": conn.execute(f"{runs} ('ready', 'leased') ORDER BY 1".encode()).fetchall(),
        "requests": conn.execute(f"{requests} 'ready' ORDER BY 1".encode()).fetchall(),
    }


def test_a_baseline_comes_back_to_the_bit_through_every_door(team: Shell) -> None:
    """With tables of the application's own: every type, every kind of dependency."""
    doors = Doors(team)
    with team.connect() as conn:
        # The pools would fill up again while this test looks.
        conn.execute("UPDATE atdm.scenario SET pool_ready = 0")
        team.json("request", GOOD[0], "--runs", "5", "--no-lease")
        make_zoo(conn, "healthcare")
        captures = {"cli": doors.cli, "launchpad": doors.launchpad, "launch": doors.launch}
        for number, (name, restore) in enumerate(
            [
                ("cli", doors.launchpad),
                ("launchpad", doors.launch),
                ("launch", doors.execute),
                ("launch", doors.cli),
            ]
        ):
            baseline = f"by-{name}"
            if name in captures:
                conn.execute("INSERT INTO healthcare.node (label) VALUES (%s)", (baseline,))
                captures.pop(name)("snapshot_baseline", {"baseline_id": baseline})
            captured = everything(conn)
            leased = leases.lease(conn, None, GOOD[0])["test_run_id"]
            conn.execute(
                "DELETE FROM healthcare.note; UPDATE healthcare.claim SET submitted_at ="
                " submitted_at - interval '1 day'; TRUNCATE healthcare.everything;"
                " INSERT INTO healthcare.node (label) VALUES ('since');"
                " SELECT nextval('healthcare.lonely')"
            )
            if number % 2:
                team.json("reset-all", "--confirm", "--revoke-leases")
            assert everything(conn) != captured
            restore("restore_baseline", {"baseline_id": baseline, "revoke_leases": True})
            assert everything(conn) == captured, name
            assert conn.execute(
                "SELECT status FROM atdm.test_run WHERE test_run_id = %s", (leased,)
            ).fetchone() == ("ready",)
