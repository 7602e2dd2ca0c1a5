"""Dagster's own storage: which connections it opens, and which of them stay open."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
from sqlalchemy.exc import OperationalError

from atdm_assets.instance.storage import close_connections, keep_connections, psycopg2_url
from atdm_engine.bundle.registry import Registry
from atdm_resources.postgres.connection import connect
from tests.support.dagster_world import World

pytest_plugins = ["tests.support.dagster_fixtures"]


@dg.asset
def first() -> None:
    """Empty."""


@dg.asset(deps=[first])
def second() -> None:
    """Empty."""


@dg.asset(deps=[second])
def third() -> None:
    """Empty."""


@dg.asset(deps=[third])
def fourth() -> None:
    """Empty."""


JOB = dg.Definitions(
    assets=[first, second, third, fourth],
    jobs=[dg.define_asset_job("four_steps", executor_def=dg.in_process_executor)],
).resolve_job_def("four_steps")
QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


@contextmanager
def counted_connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    opened: list[int] = []
    original = psycopg2.connect

    def connect(*args: object, **kwargs: object) -> object:
        opened.append(1)
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg2, "connect", connect)
        yield opened


def user_instance(folder: Path) -> dg.DagsterInstance:
    """An instance over a file that a user wrote: Dagster's storage and nothing of ATDM."""
    folder.mkdir()
    (folder / "dagster.yaml").write_text(
        "storage:\n  postgres:\n    postgres_url:\n      env: USERS_DATABASE_URL\n"
        "telemetry:\n  enabled: false\n",
        encoding="utf-8",
    )
    return dg.DagsterInstance.from_config(str(folder))


@pytest.fixture
def plain_instance(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("USERS_DATABASE_URL", psycopg2_url(empty_database))
    with user_instance(tmp_path / "users") as instance:
        yield instance
        close_connections(instance)


def test_kept_connections_are_used_where_dagster_opens_one_an_operation(
    plain_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted_connections(monkeypatch) as upstream:
        assert JOB.execute_in_process(instance=plain_instance, run_config=QUIET).success
    assert len(upstream) >= 50, "upstream pools by itself now: keep_connections can go"
    keep_connections(plain_instance)
    with counted_connections(monkeypatch) as first:
        assert JOB.execute_in_process(instance=plain_instance, run_config=QUIET).success
    with counted_connections(monkeypatch) as second:
        assert JOB.execute_in_process(instance=plain_instance, run_config=QUIET).success
    assert len(second) <= len(first) <= 10


def test_connections_are_kept_once_and_without_a_statement_timeout(
    plain_instance: dg.DagsterInstance,
) -> None:
    storage: Any = plain_instance.event_log_storage
    keep_connections(plain_instance)
    engine = storage._engine
    keep_connections(plain_instance)
    assert storage._engine is engine
    with storage._connect() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "0"


def test_the_webserver_s_statement_timeout_stays(plain_instance: dg.DagsterInstance) -> None:
    plain_instance.optimize_for_webserver(statement_timeout=4321, pool_recycle=60, max_overflow=5)
    keep_connections(plain_instance)
    storage: Any = plain_instance.event_log_storage
    with storage._connect() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "4321ms"


def test_closed_connections_are_gone_from_the_server(
    plain_instance: dg.DagsterInstance, empty_database: str
) -> None:
    keep_connections(plain_instance)
    plain_instance.add_dynamic_partitions("closed", ["k"])
    others = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with connect(empty_database) as conn:
        assert conn.execute(others).fetchone() != (0,)
        close_connections(plain_instance)
        deadline = time.monotonic() + 20
        while conn.execute(others).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert plain_instance.get_dynamic_partitions("closed") == ["k"]


def test_an_instance_in_memory_has_no_connections_to_keep() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        keep_connections(instance)
        assert JOB.execute_in_process(instance=instance, run_config=QUIET).success
        close_connections(instance)


def test_after_a_server_restart_one_operation_fails_and_the_next_succeeds(
    plain_instance: dg.DagsterInstance, empty_database: str
) -> None:
    """Protects nothing of ours: it says what a webserver that outlives its server does."""
    keep_connections(plain_instance)
    plain_instance.add_dynamic_partitions("restarted", ["before"])
    with connect(empty_database) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with pytest.raises(OperationalError):
        plain_instance.add_dynamic_partitions("restarted", ["lost"])
    plain_instance.add_dynamic_partitions("restarted", ["after"])
    assert set(plain_instance.get_dynamic_partitions("restarted")) == {"before", "after"}


def test_a_request_runs_on_a_users_own_storage(
    target: str,
    plain_instance: dg.DagsterInstance,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its job keeps the connections of the process that executes it, also a launched one."""
    (tmp_path / "store").mkdir()
    world = World(target, tmp_path / "store", plain_instance, registry)
    world.defs.get_repository_def()
    with counted_connections(monkeypatch) as opened:
        outcome = world.ask("active_member_clean", runs=2)
    assert outcome.error is None
    assert world.request(outcome.request_id).status == "ready"
    assert len(opened) < 100
    recorded = plain_instance.get_run_by_id(outcome.dagster_run_id)
    assert recorded is not None
    assert recorded.status is dg.DagsterRunStatus.SUCCESS


def test_another_driver_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=re.escape("not postgresql+psycopg://")):
        psycopg2_url("postgresql+psycopg://localhost/dagster")
    assert psycopg2_url("postgresql://u:p%40ss@h/d") == "postgresql+psycopg2://u:p%40ss@h/d"
