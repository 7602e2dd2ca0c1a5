"""Dagster's storage over a pool: connections, forks, errors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psycopg2
import pytest
from dagster_postgres.event_log import PostgresEventLogStorage

from atdm_assets.instance import storage
from atdm_assets.instance.local_instance import shipped_config

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


def upstream_instance(database: str, folder: Path) -> dg.DagsterInstance:
    folder.mkdir()
    (folder / "dagster.yaml").write_text(
        "storage:\n  postgres:\n    postgres_url:\n      env: ATDM_DAGSTER_DATABASE_URL\n"
        "telemetry:\n  enabled: false\n",
        encoding="utf-8",
    )
    return dg.DagsterInstance.from_config(str(folder))


def test_a_run_opens_no_connection_where_upstream_opens_one_an_operation(
    database: str,
    dagster_instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert JOB.execute_in_process(instance=dagster_instance, run_config=QUIET).success
    with counted_connections(monkeypatch) as pooled:
        assert JOB.execute_in_process(instance=dagster_instance, run_config=QUIET).success
    monkeypatch.setenv("ATDM_DAGSTER_DATABASE_URL", str(storage.psycopg2_url(database)))
    with (
        upstream_instance(database, tmp_path / "upstream") as instance,
        counted_connections(monkeypatch) as upstream,
    ):
        assert JOB.execute_in_process(instance=instance, run_config=QUIET).success
    assert len(pooled) == 0
    assert len(upstream) >= 50, "upstream pools by itself now: atdm_assets.instance.storage can go"


def test_the_pooled_classes_are_the_ones_that_dagster_yaml_yields(
    dagster_instance: dg.DagsterInstance,
) -> None:
    assert type(dagster_instance.run_storage) is storage.PooledRunStorage
    events = dagster_instance.event_log_storage
    assert type(events) is storage.PooledEventLogStorage


def test_every_storage_of_a_process_shares_one_engine(database: str) -> None:
    one = storage.PooledPostgresStorage(database)
    two = storage.PooledPostgresStorage(database)
    engines = {
        id(part._engine)  # type: ignore[attr-defined]
        for whole in (one, two)
        for part in (whole.run_storage, whole.event_log_storage, whole.schedule_storage)
    }
    assert len(engines) == 1


def test_tables_are_made_on_first_use_and_kept_on_the_second(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATDM_DAGSTER_DATABASE_URL", database)
    (tmp_path / "dagster.yaml").write_text(shipped_config(), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.add_dynamic_partitions("kept", ["k"])
    storage.close_pools()
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.get_dynamic_partitions("kept") == ["k"]


def test_a_forked_child_uses_no_connection_of_its_parent(
    dagster_instance: dg.DagsterInstance,
) -> None:
    dagster_instance.add_dynamic_partitions("forked", ["parent"])
    child = os.fork()
    if child == 0:
        try:
            dagster_instance.add_dynamic_partitions("forked", ["child"])
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert set(dagster_instance.get_dynamic_partitions("forked")) == {"parent", "child"}


def test_a_server_restart_between_operations_goes_unnoticed(
    database: str, dagster_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "IDLE_SECONDS", 0.0)
    dagster_instance.add_dynamic_partitions("restarted", ["before"])
    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    dagster_instance.add_dynamic_partitions("restarted", ["after"])
    assert set(dagster_instance.get_dynamic_partitions("restarted")) == {"before", "after"}


def test_the_webserver_gets_a_statement_timeout_and_still_the_pool(database: str) -> None:
    events = storage.PooledEventLogStorage(database)
    events.optimize_for_webserver(statement_timeout=4321, pool_recycle=60, max_overflow=5)
    with events._connect() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "4321ms"
    assert storage.engine_for(events._url, 4321) is events._engine


def test_another_driver_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=re.escape("not postgresql+psycopg://")):
        storage.psycopg2_url("postgresql+psycopg://localhost/dagster")
    assert storage.psycopg2_url("postgresql://localhost/d").drivername == "postgresql+psycopg2"


def test_upstream_names_its_own_class_when_it_is_configured(database: str) -> None:
    """Protects: ``from_config_value`` is overridden, else the subclasses would never be used."""

    class Subclass(PostgresEventLogStorage):
        """What a subclass without the override would be."""

    made = Subclass.from_config_value(None, {"postgres_url": str(storage.psycopg2_url(database))})
    assert type(made) is PostgresEventLogStorage
