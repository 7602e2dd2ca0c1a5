"""The health report: what it finds, what it says to do, and that missing parts do not stop it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo

from atdm.cli import health as status_command
from atdm.cli.output import Output
from atdm_engine.bundle.registry import Registry
from atdm_resources.catalog import health, leases
from atdm_resources.catalog import queue as queueing
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.locks import RequestLock
from atdm_resources.settings import S3Settings, Settings
from atdm_resources.store.files import Store
from atdm_services.health import report as judging
from tests.support.made_requests import recorded, seeded
from tests.support.s3_server import BUCKET, Fault, Faults
from tests.support.waiting import until

pytest_plugins = ["tests.support.dagster_fixtures", "tests.support.s3_server"]


@pytest.fixture
def conn(target: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def settings(target: str, tmp_path: Path) -> Settings:
    """A target and a store that are well, in a home where nothing runs."""
    return Settings.from_environment(
        {"ATDM_HOME": str(tmp_path / "home"), "ATDM_DATABASE_URL": target}
    )


def only_problem(settings: Settings) -> str:
    report = judging.report(settings)
    assert not report["ok"]
    (problem,) = report["problems"]
    return str(problem)


def limited(url: str, role: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}options=-crole%3D{role}"


def test_all_is_well_without_dagster(settings: Settings) -> None:
    report = judging.report(settings)
    assert report["problems"] == []
    assert report["ok"]
    assert report["store"]["note"].startswith("not there yet")
    assert not settings.home.exists()
    (settings.home / "store").mkdir(parents=True)
    assert judging.report(settings)["store"]["usable"]
    assert report["database"]["work"]["leased"] == 0
    assert {pool["size"] for pool in report["database"]["pools"]} == {50}
    assert not report["daemon"]["running"]
    json.dumps(report, default=str)
    # The probe of the store leaves nothing behind.
    assert list((settings.home / "store").rglob("*")) == []


def test_nothing_runs(tmp_path: Path) -> None:
    settings = Settings.from_environment({"ATDM_HOME": str(tmp_path)})
    report = judging.report(settings)
    assert report["database"]["reachable"] is False
    assert "`atdm init`" in report["problems"][0]


def test_a_database_that_is_gone_and_one_without_catalog(
    settings: Settings, empty_database: str
) -> None:
    gone = replace(settings, database_url="postgresql://u:hunter22@127.0.0.1:1/none")
    assert "cannot connect" in only_problem(gone)
    assert "hunter22" not in json.dumps(judging.report(gone), default=str)
    assert "atdm init" in only_problem(replace(settings, database_url=empty_database))


def test_an_older_catalog(settings: Settings, conn: psycopg.Connection[Any]) -> None:
    conn.execute("DROP TABLE atdm.top_up")
    conn.execute("DROP TABLE atdm.clone CASCADE")
    report = judging.report(settings)
    assert report["database"]["outdated"] == ["pools", "clones"]
    assert report["database"]["work"]["pending"] == 0
    assert "`atdm init` brings it up to date" in report["problems"][0]


def test_a_role_that_may_only_lease(settings: Settings, target: str) -> None:
    only = replace(settings, database_url=limited(target, "atdm_client"))
    report = judging.report(only)
    assert report["problems"] == []
    assert "work" in report["database"]["unreadable"]
    assert "summary" in report["database"]["unreadable"]
    shown = "\n".join(map(str, rows_of(report)))
    assert "not readable" in shown


def test_a_store_that_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    problem = only_problem(replace(settings, store_url=(tmp_path / "file" / "x").as_uri()))
    assert problem.startswith("the store cannot be made in ")
    assert "ATDM_STORE_URL" in problem
    problem = only_problem(replace(settings, store_url=(tmp_path / "file").as_uri()))
    assert problem.startswith("the store cannot be used: ")


def test_an_object_store_and_one_that_stalls(
    settings: Settings, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "PART_SECONDS", 8)
    there = replace(
        settings, store_url=f"s3://{BUCKET}/probed", s3=S3Settings(endpoint_url=faults.url)
    )
    report = judging.report(there)
    assert report["problems"] == []
    assert report["store"]["usable"]
    assert Store(f"s3://{BUCKET}", s3=there.s3).files("probed") == []
    faults.inject(Fault(status=403))
    assert "the store cannot be used" in only_problem(there)
    faults.clear()
    monkeypatch.setattr(judging, "PART_SECONDS", 0.5)
    monkeypatch.setattr("atdm_resources.catalog.health.probe_store", lambda store: time.sleep(5))
    report = judging.report(there)
    assert "the store did not answer within 0.5 s" in report["problems"]


def test_a_dead_request_and_one_that_is_worked_on(
    settings: Settings, target: str, conn: psycopg.Connection[Any], registry: Registry
) -> None:
    _, record = recorded(conn, registry)
    with RequestLock(target, record.domain, record.request_id):
        work = health.work(conn)
        assert (work.pending, work.dead) == (1, 0)
    until(lambda: health.work(conn).dead == 1)
    assert "1 pending requests were left by dead processes" in only_problem(settings)


def test_leases_that_are_over(
    settings: Settings, conn: psycopg.Connection[Any], registry: Registry, tmp_path: Path
) -> None:
    made = seeded(conn, tmp_path / "s", registry, runs=2)
    leases.lease_request(conn, made.request_id, count=2)
    work = health.work(conn)
    assert (work.leased, work.overdue, work.stuck) == (2, 0, 0)
    assert work.oldest_lease is not None
    assert judging.report(settings)["ok"]
    late = "UPDATE atdm.test_run SET expires_at = now() - interval '2 h' WHERE test_run_id = %s"
    conn.execute(late, (made.run(1),))
    assert "1 test runs are past their time, the longest by 2 h" in only_problem(settings)
    conn.execute("UPDATE atdm.test_run SET retry_at = now() WHERE expires_at < now()")
    assert "could not be reset" in only_problem(settings)


def test_a_queue_that_nobody_works_on(settings: Settings, conn: psycopg.Connection[Any]) -> None:
    queueing.submit(conn, {"idempotency_key": "k", "scenario": "active_member_clean"})
    assert judging.report(settings)["ok"]
    conn.execute("UPDATE atdm.submission SET submitted_at = now() - interval '10 min'")
    problem = only_problem(settings)
    assert "1 submissions wait, the oldest for 10 min: `atdm up` starts the daemon" in problem


def test_a_pool_that_cannot_be_filled(settings: Settings, conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "INSERT INTO atdm.top_up (domain, scenario_id, failures, retry_at)"
        " VALUES ('healthcare', 'active_member_clean', 3, now() + interval '1 h')"
    )
    problem = only_problem(settings)
    assert "has 0 of 50 runs and could not be filled, 3 times in a row" in problem
    assert "the next attempt in 60 min" in problem


def test_a_mark_of_another_database(settings: Settings, conn: psycopg.Connection[Any]) -> None:
    conn.execute("UPDATE atdm.target SET database_name = 'other'")
    assert "is not marked disposable" in only_problem(settings)


# --- Dagster -------------------------------------------------------------------------------------


def origin(name: str) -> RemoteInstigatorOrigin:
    location = ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(module_name="m"), location_name="atdm"
    )
    return RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)


def sensor(
    instance: dg.DagsterInstance, name: str, status: InstigatorStatus, tick: TickStatus, age: float
) -> None:
    state = InstigatorState(
        origin(name), InstigatorType.SENSOR, status, SensorInstigatorData(min_interval=30)
    )
    instance.add_instigator_state(state)
    error = SerializableErrorInfo("KeyError: 'x'\nmore\n", [], None)
    instance.create_tick(
        TickData(
            state.instigator_origin_id,
            name,
            InstigatorType.SENSOR,
            tick,
            time.time() - age,
            selector_id=state.selector_id,
            error=error if tick is TickStatus.FAILURE else None,
        )
    )


def beat(instance: dg.DagsterInstance, kind: str, age: float) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - age, kind, "id", []))


def test_what_is_read_of_dagster_is_what_dagster_wrote(
    settings: Settings, dagster_instance: dg.DagsterInstance, empty_database: str
) -> None:
    """Pins Dagster's tables and their contents, which ``health.dagster_state`` reads itself."""
    running, stopped = InstigatorStatus.DECLARED_IN_CODE, InstigatorStatus.STOPPED
    for kind in ("SENSOR", "SCHEDULER"):
        beat(dagster_instance, kind, 5)
    sensor(dagster_instance, "well", running, TickStatus.SKIPPED, 4)
    sensor(dagster_instance, "broken", running, TickStatus.SKIPPED, 100)
    sensor(dagster_instance, "halted", stopped, TickStatus.FAILURE, 30)
    watched = replace(settings, dagster_database_url=empty_database)

    report = judging.report(watched)
    assert report["problems"] == []
    daemon = report["daemon"]
    assert {kind: round(seconds, -1) for kind, seconds in daemon["heartbeats"].items()} == {
        "SENSOR": pytest.approx(10, abs=10),
        "SCHEDULER": pytest.approx(10, abs=10),
    }
    found = {item["name"]: item for item in daemon["instigators"]}
    assert (found["well"]["status"], found["well"]["tick"]) == ("running", "skipped")
    assert found["well"]["kind"] == "sensor"
    assert found["well"]["tick_age"] == pytest.approx(4, abs=60)
    assert (found["halted"]["status"], found["halted"]["error"]) == ("stopped", "KeyError: 'x'")
    assert judging.alive(daemon)

    sensor_again = next(
        state for state in dagster_instance.all_instigator_state() if state.name == "broken"
    )
    dagster_instance.create_tick(
        TickData(
            sensor_again.instigator_origin_id,
            "broken",
            InstigatorType.SENSOR,
            TickStatus.FAILURE,
            time.time(),
            selector_id=sensor_again.selector_id,
            error=SerializableErrorInfo("KeyError: 'x'\nmore\n", [], None),
        )
    )
    assert only_problem(watched).startswith("sensor broken fails: KeyError: 'x' (")

    beat(dagster_instance, "SENSOR", 400)
    problem = judging.report(watched)["problems"][0]
    assert problem.startswith("parts of the daemon have given no sign of life: SENSOR for 7 min")

    beat(dagster_instance, "SCHEDULER", 4000)
    # What ticked before the daemon died is old news; that it died is the problem.
    assert "the daemon has given no sign of life for 7 min" in only_problem(watched)


def test_a_dagster_database_that_is_gone_or_empty(settings: Settings, empty_database: str) -> None:
    gone = replace(settings, dagster_database_url="postgresql+psycopg2://u:hunter22@127.0.0.1:1/x")
    problem = only_problem(gone)
    assert problem.startswith("Dagster's database: cannot connect")
    assert "hunter22" not in problem
    empty = judging.report(replace(settings, dagster_database_url=empty_database))
    assert empty["ok"]


# --- the table -----------------------------------------------------------------------------------


def rows_of(report: dict[str, Any]) -> list[str]:
    from rich.console import Console

    console = Console(width=250)
    with console.capture() as capture:
        for part in status_command.status_parts(report):
            console.print(part)
    return capture.get().splitlines()


def test_the_table_names_every_part(
    settings: Settings,
    conn: psycopg.Connection[Any],
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = seeded(conn, tmp_path / "s", registry, "claim_denial_active_member", runs=2)
    leases.lease_request(conn, made.request_id, count=1)
    conn.execute(
        "INSERT INTO atdm.baseline (domain, baseline_id, kind, status, store_url, invoker, source,"
        " finished_at) VALUES ('healthcare', 'bl-1', 'captured', 'complete', 'x', 'y', 'z',"
        " now() - interval '3 d')"
    )
    shown = "\n".join(" ".join(line.split()) for line in rows_of(judging.report(settings)))
    for expected in (
        "database reachable", "catalog revision", "store not there yet file://",
        "webserver not running", "daemon not running", "leases 1 leased the oldest for",
        "queue 0 waiting, 0 being made",
        "requests 0 pending", "unsealed", "baseline 3 d old healthcare/bl-1, captured",
        "pool healthcare/claim_denial_active_member 1 of 50 ready", "all well",
    ):  # fmt: skip
        assert expected in shown

    monkeypatch.setattr(Settings, "from_environment", lambda: settings)
    assert status_command.status(Output()) == 0
    conn.execute("UPDATE atdm.target SET database_name = 'other'")
    assert status_command.status(Output()) == 1
    assert "problem: " in capsys.readouterr().out
