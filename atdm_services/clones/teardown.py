"""Clone teardown: release, expiry, orphans. Light.

A process that makes or drops a database holds the lock on its name, in an open transaction of a
connection of its own: databases are not made and dropped inside one (ADR 0006). A row that is
``making`` or ``dropping`` while its lock is free was left by a dead process. Every database bears
a comment that names its target, so that one without a row is known for what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import clones
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres import databases
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.locks import keep_open, try_lock, wait_for_lock

SWEPT: Final = 50
"""Databases that one sweep drops at most."""
TEMPLATES_KEPT: Final = timedelta(days=7)
"""A template that was not copied for so long is dropped; the next lease makes it again."""
ROWS_KEPT: Final = timedelta(days=30)
"""How long the row of a dropped clone is kept; the audit trail has it for good."""

_SWEEPER: Final = Actor("agent:atdm-expiry", "expiry")
_NO_OWNER: Final = "it has no owner"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A database that a sweep dropped, and why."""

    database: str
    kind: str
    because: str


@contextmanager
def lock(conn: psycopg.Connection[Any], database: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock on a database's name while the block runs.

    Yields False when another process holds it; with ``wait`` waits for that process instead.
    """
    with connect(
        conn.info.dsn,
        autocommit=False,
        password=conn.info.password or None,
        application_name="atdm clone lock",
    ) as holder:
        name = f"clone {database}"
        if wait:
            wait_for_lock(holder, name)
        held = wait or try_lock(holder, name)
        keep_open(holder)
        yield held


def drop(conn: psycopg.Connection[Any], database: str, *, because: str, actor: Actor) -> None:
    """Drop a clone or a template; waits for a process that makes or drops it.

    Raises:
        AtdmError: CLONE_FAILED when PostgreSQL refuses; later sweeps try again.
    """
    with lock(conn, database, wait=True):
        kind = clones.begin_drop(conn, database)
        if kind is not None:
            _drop(conn, database, kind, because, actor)


def drop_made_from(
    conn: psycopg.Connection[Any], domain: str, baseline_id: str, actor: Actor
) -> None:
    """Drop templates and ready clones of a baseline that is deleted; leased ones stay."""
    for database in clones.made_from(conn, domain, baseline_id):
        drop(conn, database, because="its baseline is deleted", actor=actor)


def drop_ready(conn: psycopg.Connection[Any], database: str, *, because: str) -> bool:
    """Drop a clone of the pool; False when it is leased meanwhile or cannot be dropped."""
    with lock(conn, database) as held:
        kind = clones.begin_drop(conn, database, only="ready") if held else None
        return kind is not None and _try_drop(conn, database, kind, because)


def sweep(
    conn: psycopg.Connection[Any], *, most: int = SWEPT, thorough: bool = False
) -> list[Dropped]:
    """Drop expired clones, and databases that a dead process left half made or half dropped.

    One query when there is nothing to do. ``thorough`` also drops templates out of use, databases
    without a row, and rows that are history. A database that cannot be dropped is left alone for
    ten minutes. For the owner of the catalog, in autocommit mode.
    """
    found = clones.due(conn, most)
    if thorough:
        found += clones.templates_out_of_use(conn, TEMPLATES_KEPT, most)
    dropped = [item for item in (_drop_if_due(conn, *one) for one in found) if item is not None]
    if thorough:
        dropped += _drop_orphans(conn, most)
        clones.forget_old(conn, ROWS_KEPT)
    return dropped


def end_creation(conn: psycopg.Connection[Any], database: str) -> None:
    """End what the server still does for a process that was killed while it made a database.

    The caller holds the lock on the name, so no living process makes it. Raises CLONE_FAILED.
    """
    if not databases.end_creation(conn, database):
        raise AtdmError(
            ErrorCode.CLONE_FAILED,
            f"the server still makes database {database} for a process that is gone",
            {"database": database},
        )


def _drop_if_due(conn: psycopg.Connection[Any], database: str, because: str) -> Dropped | None:
    """Drop what a query found, if it is still due under the lock."""
    with lock(conn, database) as held:
        if not held:
            return None
        kind = clones.begin_drop(conn, database, only="due", kept=TEMPLATES_KEPT)
        if kind is None or not _try_drop(conn, database, kind, because):
            return None
        return Dropped(database, kind, because)


def _drop_orphans(conn: psycopg.Connection[Any], most: int) -> list[Dropped]:
    dropped = []
    for database in clones.orphans(conn, most):
        with lock(conn, database) as held:
            if not held or clones.is_registered(conn, database):
                continue
            kind = "template" if database.startswith(clones.TEMPLATE_PREFIX) else "clone"
            if _try_drop(conn, database, kind, _NO_OWNER):
                dropped.append(Dropped(database, kind, _NO_OWNER))
    return dropped


def _try_drop(conn: psycopg.Connection[Any], database: str, kind: str, because: str) -> bool:
    """Drop for a sweep: a database that cannot be dropped now does not stop the sweep."""
    try:
        _drop(conn, database, kind, because, _SWEEPER)
    except AtdmError as error:
        clones.postpone_drop(conn, database, kind, error, _SWEEPER)
        return False
    return True


def _drop(
    conn: psycopg.Connection[Any], database: str, kind: str, because: str, actor: Actor
) -> None:
    """Drop the database, then record it: a row that is ``dropping`` is found by the next sweep.

    A database that another owner made under the name of a dropped clone stays.
    """
    try:
        end_creation(conn, database)
        if clones.is_ours(conn, database):
            databases.drop(conn, database)
    except psycopg.Error as error:
        raise AtdmError(
            ErrorCode.CLONE_FAILED,
            f"database {database} could not be dropped: {error.diag.message_primary}",
            {"database": database, "sqlstate": error.sqlstate},
        ) from error
    clones.finish_drop(conn, database, kind, because, actor)
