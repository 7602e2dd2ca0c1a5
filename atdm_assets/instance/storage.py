"""Dagster's own tables in PostgreSQL, over one connection pool a process.

dagster-postgres opens a connection for every operation, some 250 for one request, and took half of
its time so. These classes take its SQL unchanged and give it a pooled engine.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, Self

import sqlalchemy as db
from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.config import pg_config
from dagster._core.storage.event_log import EventLogStorage
from dagster._core.storage.runs import RunStorage
from dagster._core.storage.schedules import ScheduleStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.pool import QueuePool

POOL_SIZE: Final = 4
"""Connections that a process keeps open when idle; more are opened and closed as needed."""

RECYCLE_SECONDS: Final = 1800

IDLE_SECONDS = 1.0
"""A connection that idled for so long is tested before it is used again."""

_USED: Final = "atdm_used"

_engines: dict[tuple[str, int], Engine] = {}
_with_tables: set[str] = set()
_lock = threading.Lock()


def psycopg2_url(url: str) -> URL:
    """``url`` with the driver that dagster-postgres needs.

    SQLAlchemy 2.1 takes a bare ``postgresql://`` to mean psycopg 3, with which the event log's
    NOTIFY fails, so a bare scheme is read as psycopg2; any other driver is refused.

    Raises:
        ValueError: the URL names another database or driver.
    """
    parsed = make_url(url)
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg2")
    if parsed.drivername != "postgresql+psycopg2":
        raise ValueError(
            f"Dagster's storage needs a postgresql+psycopg2:// URL, not {parsed.drivername}://"
        )
    return parsed


def engine_for(url: str, statement_timeout: int = 0) -> Engine:
    """The pooled engine that every storage of this process with this URL shares.

    Args:
        url: PostgreSQL URL of Dagster's database.
        statement_timeout: milliseconds; 0: none.
    """
    with _lock:
        engine = _engines.get((url, statement_timeout))
        if engine is None:
            target = psycopg2_url(url)
            options = [str(target.query["options"])] if "options" in target.query else []
            if statement_timeout:
                options.append(f"-c statement_timeout={statement_timeout}")
            engine = db.create_engine(
                target,
                connect_args={"options": " ".join(options)} if options else {},
                isolation_level="AUTOCOMMIT",
                poolclass=QueuePool,
                pool_size=POOL_SIZE,
                max_overflow=-1,
                pool_recycle=RECYCLE_SECONDS,
                pool_use_lifo=True,
            )
            _ping_after_idling(engine)
            _engines[(url, statement_timeout)] = engine
        return engine


def _ping_after_idling(engine: Engine) -> None:
    """Have a connection that idled tested before it is used.

    The embedded server may be stopped and started while a webserver lives on. SQLAlchemy's own
    ``pool_pre_ping`` tests at every use, which for Dagster doubles the number of round trips.
    """

    def note(_connection: Any, record: Any) -> None:
        record.info[_USED] = time.monotonic()

    def test(connection: Any, record: Any, _proxy: Any) -> None:
        used = record.info.get(_USED)
        if used is None or time.monotonic() - used < IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise db.exc.DisconnectionError from error  # the pool opens another one

    db.event.listen(engine, "checkin", note)
    db.event.listen(engine, "checkout", test)


def close_pools() -> None:
    """Close this process's idle storage connections (before a database is dropped, say)."""
    with _lock:
        for engine in _engines.values():
            engine.dispose()
        _with_tables.clear()


def _forget_parent_connections() -> None:
    # A forked child must neither use nor close sockets that its parent goes on using.
    for engine in _engines.values():
        engine.dispose(close=False)


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_parent_connections)
os.register_at_fork(after_in_child=_renew_lock)


def _tables_exist(url: str) -> bool:
    """Whether Dagster's tables are there; asked once a process, not once a storage."""
    if url in _with_tables:
        return True
    wanted = {"runs", "instance_info", "event_logs", "jobs"}
    exist = wanted <= set(db.inspect(engine_for(url)).get_table_names())
    if exist:
        _with_tables.add(url)
    return exist


class _Pooled(ConfigurableClass):
    """What the three storages do alike: upstream's SQL, the process's engine."""

    _engine: Engine

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        url = psycopg2_url(postgres_url).render_as_string(hide_password=False)
        create = should_autocreate_tables and not _tables_exist(url)
        super().__init__(url, create, inst_data)  # type: ignore[call-arg]
        self.should_autocreate_tables = should_autocreate_tables
        self._url = url
        self._engine = engine_for(url)

    def optimize_for_webserver(
        self, statement_timeout: int, pool_recycle: int, max_overflow: int
    ) -> None:
        self._engine = engine_for(self._url, statement_timeout)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        # Upstream's names its own class here, so that a subclass would quietly not be used.
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data,
        )


class PooledRunStorage(_Pooled, PostgresRunStorage):
    """dagster-postgres' run storage over the process's pool."""


class PooledEventLogStorage(_Pooled, PostgresEventLogStorage):
    """dagster-postgres' event log over the process's pool."""


class PooledScheduleStorage(_Pooled, PostgresScheduleStorage):
    """dagster-postgres' schedule storage over the process's pool."""


class PooledPostgresStorage(DagsterStorage, ConfigurableClass):
    """The three storages as one, for ``storage: custom`` in ``dagster.yaml``."""

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        self._inst_data = inst_data
        self._run_storage = PooledRunStorage(postgres_url, should_autocreate_tables)
        self._event_log_storage = PooledEventLogStorage(postgres_url, should_autocreate_tables)
        self._schedule_storage = PooledScheduleStorage(postgres_url, should_autocreate_tables)
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return pg_config()

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> PooledPostgresStorage:
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data,
        )

    @property
    def run_storage(self) -> RunStorage:
        return self._run_storage

    @property
    def event_log_storage(self) -> EventLogStorage:
        return self._event_log_storage

    @property
    def schedule_storage(self) -> ScheduleStorage:
        return self._schedule_storage

    @property
    def run_storage_data(self) -> ConfigurableClassData | None:
        return self._data_of("PooledRunStorage")

    @property
    def event_storage_data(self) -> ConfigurableClassData | None:
        return self._data_of("PooledEventLogStorage")

    @property
    def schedule_storage_data(self) -> ConfigurableClassData | None:
        return self._data_of("PooledScheduleStorage")

    def _data_of(self, class_name: str) -> ConfigurableClassData | None:
        if self._inst_data is None:
            return None
        return ConfigurableClassData(__name__, class_name, self._inst_data.config_yaml)
