"""Databases made from a baseline: one for each test that wants a whole database.

Belongs here: templates, clones, their leases and their end. Does not belong here: filling a
database with a baseline (``restore``).

A baseline gets a template database, made once: catalog, tables, rows, the mark. Nobody may connect
to it, so that PostgreSQL can copy it at any time. A clone is a copy with a mark of its own, in
which leases and resets work as in the target. A clone is always a new database, never the target.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.registry import Registry
from atdm_resources.baselines import comparing, records
from atdm_resources.baselines.manifest import Manifest, read_manifest
from atdm_resources.baselines.records import Actor
from atdm_resources.baselines.restore import restore
from atdm_resources.connection import connect
from atdm_resources.store import Store
from atdm_resources.target import current_database, ensure_disposable, initialise, refuse_real_name

DEFAULT_TTL: Final = timedelta(hours=4)

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")
_TEMPLATE_PREFIX = "atdm_template_"
_SCRATCH_PREFIX = "atdm_scratch_"
_RESERVED = {"postgres", "template0", "template1"}


@dataclass(frozen=True, slots=True)
class Clone:
    """A database made from a baseline."""

    database: str
    domain: str
    baseline_id: str
    owner: str | None
    created_at: datetime
    expires_at: datetime | None
    url: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def clone(
    url: str,
    store: Store,
    registry: Registry,
    domain: str,
    baseline_id: str,
    database: str,
    *,
    ttl: timedelta = DEFAULT_TTL,
    owner: str | None = None,
    actor: Actor,
) -> Clone:
    """Make database ``database`` from a baseline; it is dropped by the first sweep after ``ttl``.

    ``url`` is the target's; the clone is made on its server. The first clone of a baseline makes
    the template.

    Raises:
        AtdmError: REQUEST_INVALID for a name that cannot be used; REQUEST_CONFLICT when there is a
            database of that name; BASELINE_NOT_FOUND, BASELINE_INVALID; TARGET_DRIFT when the
            baseline holds tables that no table file describes; BUSY; CLONE_FAILED.
    """
    if not _NAME.match(database) or database in _RESERVED or database.startswith("pg_"):
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{database!r} cannot name a clone; allowed: a-z 0-9 _, 63 of them at most",
            {"database": database[:200]},
        )
    refuse_real_name(database)
    if ttl <= timedelta(0):
        raise AtdmError(
            ErrorCode.REQUEST_INVALID, "a clone lives for more than nothing", {"ttl": str(ttl)}
        )
    manifest = read_manifest(store, domain, baseline_id)
    with connect(url) as conn:
        ensure_disposable(conn)
        sweep(conn, url)
        if database == current_database(conn) or _exists(conn, database):
            raise AtdmError(
                ErrorCode.REQUEST_CONFLICT,
                f"there is a database {database!r} already; a clone is always a new one",
                {"database": database},
            )
        template = _template(conn, url, store, registry, manifest, actor)
        with _lock(url, database):
            _register(conn, database, manifest, "clone", "making", owner or actor.invoker, ttl)
            try:
                _copy(conn, template, database)
                with connect(_sibling(url, database)) as fresh:
                    # The mark names the database it was made for: this one is disposable too.
                    fresh.execute("UPDATE atdm.target SET database_name = current_database()")
            except BaseException:
                _drop(conn, database)
                raise
        with conn.transaction():
            conn.execute(
                "UPDATE atdm.clone SET status = 'leased', leased_at = clock_timestamp(),"
                " expires_at = clock_timestamp() + %s WHERE database_name = %s",
                (ttl, database),
            )
            records.add_event(
                conn, "baseline_cloned", domain, baseline_id, actor, outputs={"database": database}
            )
        return next(item for item in clones(conn, url) if item.database == database)


def clones(conn: psycopg.Connection[Any], url: str) -> list[Clone]:
    """The clones that are there, newest first."""
    rows = conn.execute(
        "SELECT database_name, domain, baseline_id, owner, created_at, expires_at FROM atdm.clone"
        " WHERE kind = 'clone' AND status = 'leased' ORDER BY created_at DESC"
    ).fetchall()
    return [
        Clone(database, domain, baseline_id, owner, created, expires, _sibling(url, database))
        for database, domain, baseline_id, owner, created, expires in rows
    ]


def drop(conn: psycopg.Connection[Any], database: str, *, actor: Actor) -> None:
    """Drop a clone. Raises AtdmError RUN_NOT_FOUND for any database that is no clone."""
    row = conn.execute(
        "SELECT domain, baseline_id FROM atdm.clone WHERE database_name = %s AND kind = 'clone'",
        (database,),
    ).fetchone()
    if row is None or database == current_database(conn):
        raise AtdmError(
            ErrorCode.RUN_NOT_FOUND, f"there is no clone {database!r}", {"database": database}
        )
    _drop(conn, database)
    domain, baseline_id = row
    records.add_event(
        conn, "clone_dropped", domain, baseline_id, actor, outputs={"database": database}
    )


def sweep(conn: psycopg.Connection[Any], url: str) -> list[str]:
    """Drop clones whose time is over, and databases whose making died; returns their names."""
    gone = []
    for database, domain, baseline_id, kind in conn.execute(
        "SELECT database_name, domain, baseline_id, kind FROM atdm.clone"
        " WHERE expires_at < clock_timestamp() OR status = 'making'"
        " AND created_at < clock_timestamp() - interval '1 minute'"
    ).fetchall():
        with _lock(url, database) as held:
            if not held:
                continue
            _drop(conn, database)
        records.add_event(
            conn,
            "clone_dropped" if kind == "clone" else "template_dropped",
            domain,
            baseline_id,
            Actor("agent:sweep", "sweep"),
            outputs={"database": database},
        )
        gone.append(database)
    return gone


def drop_templates(conn: psycopg.Connection[Any], domain: str, baseline_id: str) -> None:
    """Drop what is kept for cloning a baseline that goes away."""
    for (database,) in conn.execute(
        "SELECT database_name FROM atdm.clone WHERE domain = %s AND baseline_id = %s"
        " AND kind = 'template'",
        (domain, baseline_id),
    ).fetchall():
        _drop(conn, database)


def hashes_of_two_restores(
    url: str,
    store: Store,
    registry: Registry,
    domain: str,
    baseline_id: str,
    *,
    actor: Actor,
) -> list[str]:
    """The state hash after restoring a baseline once, and after restoring it again.

    Done in a new database beside the target, which is dropped (requirement A-OPS-07).
    """
    database = f"{_SCRATCH_PREFIX}{secrets.token_hex(6)}"
    manifest = read_manifest(store, domain, baseline_id)
    with connect(url) as conn:
        ensure_disposable(conn)
        with _lock(url, database):
            _register(conn, database, manifest, "clone", "making", actor.invoker, DEFAULT_TTL)
            try:
                conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
                scratch = _sibling(url, database)
                with connect(scratch) as fresh:
                    initialise(fresh, registry)
                hashes = []
                for _ in range(2):
                    restore(scratch, store, domain, baseline_id, actor=actor)
                    hashes.append(comparing.state_hash(scratch, manifest))
            finally:
                _drop(conn, database)
    return hashes


def _template(
    conn: psycopg.Connection[Any],
    url: str,
    store: Store,
    registry: Registry,
    manifest: Manifest,
    actor: Actor,
) -> str:
    """The template of a baseline, made when there is none."""
    shape = f"{current_database(conn)}/{manifest.domain}/{manifest.baseline_id}/"
    shape += manifest.content_hash
    name = f"{_TEMPLATE_PREFIX}{hashlib.sha256(shape.encode()).hexdigest()[:16]}"
    with _lock(url, name, wait=True):
        row = conn.execute(
            "SELECT status FROM atdm.clone WHERE database_name = %s", (name,)
        ).fetchone()
        if row is not None and row[0] == "ready" and _exists(conn, name):
            return name
        _drop(conn, name)
        _register(conn, name, manifest, "template", "making", None, None)
        try:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            made = _sibling(url, name)
            with connect(made) as fresh:
                initialise(fresh, registry)
            restore(made, store, manifest.domain, manifest.baseline_id, actor=actor)
            conn.execute(
                sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(
                    sql.Identifier(name)
                )
            )
        except BaseException:
            _drop(conn, name)
            raise
        conn.execute("UPDATE atdm.clone SET status = 'ready' WHERE database_name = %s", (name,))
    return name


def _copy(conn: psycopg.Connection[Any], template: str, database: str) -> None:
    try:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(database), sql.Identifier(template)
            )
        )
    except psycopg.errors.DuplicateDatabase as error:
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"there is a database {database!r} already; a clone is always a new one",
            {"database": database},
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise AtdmError(
            ErrorCode.CLONE_FAILED,
            f"this user may not make databases: ALTER ROLE {conn.info.user} CREATEDB",
            {"user": conn.info.user},
        ) from error


def _register(
    conn: psycopg.Connection[Any],
    database: str,
    manifest: Manifest,
    kind: str,
    status: str,
    owner: str | None,
    ttl: timedelta | None,
) -> None:
    cursor = conn.execute(
        "INSERT INTO atdm.clone (database_name, domain, baseline_id, kind, status, owner,"
        " expires_at) VALUES (%s, %s, %s, %s, %s, %s, clock_timestamp() + %s)"
        " ON CONFLICT DO NOTHING",
        (database, manifest.domain, manifest.baseline_id, kind, status, owner, ttl),
    )
    if cursor.rowcount == 0:
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"a clone {database!r} is being made by somebody else",
            {"database": database},
        )


def _drop(conn: psycopg.Connection[Any], database: str) -> None:
    conn.execute(
        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
    )
    conn.execute("DELETE FROM atdm.clone WHERE database_name = %s", (database,))


def _exists(conn: psycopg.Connection[Any], database: str) -> bool:
    return (
        conn.execute("SELECT FROM pg_database WHERE datname = %s", (database,)).fetchone()
        is not None
    )


@contextmanager
def _lock(url: str, database: str, *, wait: bool = False) -> Iterator[bool]:
    """Be the only one who makes or drops a database; False when somebody else is.

    On a connection of its own, in an open transaction (ADR 0006): databases are not made in one.
    """
    with connect(url, autocommit=False, application_name="atdm clone lock") as holder:
        name = f"clone {database}"
        holder.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        if wait:
            holder.execute("SELECT pg_advisory_xact_lock(atdm.request_lock_key(%s))", (name,))
            yield True
            return
        row = holder.execute(
            "SELECT pg_try_advisory_xact_lock(atdm.request_lock_key(%s))", (name,)
        ).fetchone()
        yield bool(row and row[0])


def _sibling(url: str, database: str) -> str:
    """``url`` with another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))
