"""Connections to the database of Dagster's own tables, which dagster-postgres stores (ADR 0092)."""

from __future__ import annotations

from typing import Any, Final

import dagster as dg
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

RECYCLE_SECONDS: Final = 1800
MOST_CONNECTIONS: Final = 20
"""Of one of the three storages, at once; one of them stays open when idle."""


def psycopg2_url(url: str) -> str:
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
    return parsed.render_as_string(hide_password=False)


def keep_connections(instance: dg.DagsterInstance) -> None:
    """Let the storages of an instance keep their connections open, as in Dagster's webserver.

    By default dagster-postgres opens a connection for each operation: some 250 for one request,
    which more than doubles its time. Storages that pool already stay as they are.
    """
    if any(isinstance(engine.pool, NullPool) for engine in _engines(instance)):
        instance.optimize_for_webserver(
            statement_timeout=0,
            pool_recycle=RECYCLE_SECONDS,
            max_overflow=MOST_CONNECTIONS - 1,
        )


def close_connections(instance: dg.DagsterInstance) -> None:
    """Close what ``keep_connections`` has kept open: Dagster itself leaves it to the garbage."""
    for engine in _engines(instance):
        engine.dispose()


def _engines(instance: dg.DagsterInstance) -> list[Any]:
    """The SQLAlchemy engines of the storages; none where they are in memory."""
    storages: tuple[Any, ...] = (
        instance.run_storage, instance.event_log_storage, instance.schedule_storage,
    )  # fmt: skip
    return [storage._engine for storage in storages if hasattr(storage, "_engine")]
