"""How databases that were made for cloning end: given back, past their time, left by the dead.

Light.

Whoever makes or drops a database holds the lock on its name, in an open transaction of a connection
of its own: databases are not made and dropped inside one (ADR 0006). A row that says ``making`` or
``dropping`` without a holder is what a dead process left. Every database bears a comment that names
its target, so that one without a row is known for what it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.target import current_database

CLONE_PREFIX: Final = "atdm_clone_"
TEMPLATE_PREFIX: Final = "atdm_template_"
SCRATCH_PREFIX: Final = "atdm_scratch_"

SWEPT: Final = 50
"""Databases that one sweep drops at most."""
TEMPLATES_KEPT: Final = timedelta(days=7)
"""A template that nobody copied for so long is dropped; the next lease makes it again."""
ROWS_KEPT: Final = timedelta(days=30)
"""What is known of a dropped clone; the audit trail has it for good."""

_ENDING_SECONDS: Final = 60.0
_ENDING_PAUSE_SECONDS: Final = 0.05

INVOKER: Final = "agent:atdm-expiry"
SOURCE: Final = "expiry"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A database that a sweep dropped, and why."""

    database: str
    kind: str
    because: str


def comment_of(conn: psycopg.Connection[Any]) -> str:
    """What the databases made for this target say of themselves."""
    return f"Made by ATDM for target {current_database(conn)}; dropped when its time is over."


@contextmanager
def lock(conn: psycopg.Connection[Any], database: str, *, wait: bool = False) -> Iterator[bool]:
    """Be the only one who makes or drops a database; False when somebody else is."""
    with connect(
        conn.info.dsn,
        autocommit=False,
        password=conn.info.password or None,
        application_name="atdm clone lock",
    ) as holder:
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


def drop(
    conn: psycopg.Connection[Any], database: str, *, because: str, invoker: str, source: str
) -> None:
    """Drop a clone or a template that is there, once whoever is at it has finished.

    Raises:
        AtdmError: CLONE_FAILED when PostgreSQL refuses; it is tried again by later sweeps.
    """
    with lock(conn, database, wait=True):
        row = conn.execute(
            "UPDATE atdm.clone SET status = 'dropping' WHERE database_name = %s"
            " AND status <> 'dropped' RETURNING kind",
            (database,),
        ).fetchone()
        if row is not None:
            _drop(conn, database, row[0], because, invoker, source)


def sweep(
    conn: psycopg.Connection[Any], *, most: int = SWEPT, thorough: bool = False
) -> list[Dropped]:
    """Drop clones past their time, and what the dead left half made or half dropped.

    One query when there is nothing to do. ``thorough`` also looks for templates that nobody needs,
    databases without a row, and rows that are history. One that cannot be dropped is left alone for
    ten minutes. For the owner of the catalog, in autocommit mode.
    """
    found: list[tuple[str, str]] = conn.execute(_DUE.encode(), (most,)).fetchall()
    if thorough:
        found += conn.execute(
            _TEMPLATES_OUT_OF_USE.encode(), {"kept": TEMPLATES_KEPT, "most": most}
        ).fetchall()
    gone = []
    for database, because in found:
        dropped = _drop_if_still_due(conn, database, because)
        if dropped is not None:
            gone.append(dropped)
    if thorough:
        gone += _drop_orphans(conn, most)
        conn.execute(
            "DELETE FROM atdm.clone WHERE status = 'dropped' AND dropped_at < now() - %s",
            (ROWS_KEPT,),
        )
    return gone


def drop_made_from(
    conn: psycopg.Connection[Any], domain: str, baseline_id: str, *, invoker: str, source: str
) -> None:
    """Drop templates and unleased clones of a baseline that goes away; leased ones stay."""
    for (database,) in conn.execute(
        "SELECT database_name FROM atdm.clone WHERE domain = %s AND baseline_id = %s"
        " AND (kind = 'template' OR status = 'ready') AND status <> 'dropped'",
        (domain, baseline_id),
    ).fetchall():
        drop(conn, database, because="its baseline is deleted", invoker=invoker, source=source)


def drop_ready(conn: psycopg.Connection[Any], database: str, *, because: str) -> bool:
    """Drop a clone of the pool unless somebody has leased it meanwhile."""
    with lock(conn, database) as held:
        if not held:
            return False
        row = conn.execute(
            "UPDATE atdm.clone SET status = 'dropping' WHERE database_name = %s"
            " AND kind = 'clone' AND status = 'ready' RETURNING kind",
            (database,),
        ).fetchone()
        if row is None:
            return False
        return _tried(conn, database, row[0], because)


def _drop_if_still_due(
    conn: psycopg.Connection[Any], database: str, because: str
) -> Dropped | None:
    """Drop what a query found, if it is still so now that nobody else is at it."""
    with lock(conn, database) as held:
        if not held:
            return None
        row = conn.execute(
            "UPDATE atdm.clone AS c SET status = 'dropping' WHERE database_name = %(name)s"
            " AND (status IN ('making', 'dropping')"
            "      OR status = 'leased' AND expires_at < clock_timestamp()"
            f"      OR {_OUT_OF_USE}) RETURNING kind".encode(),
            {"name": database, "kept": TEMPLATES_KEPT},
        ).fetchone()
        if row is None or not _tried(conn, database, row[0], because):
            return None
        return Dropped(database, row[0], because)


def _drop_orphans(conn: psycopg.Connection[Any], most: int) -> list[Dropped]:
    """Databases that ATDM made for this target, going by name and comment, and that have no row.

    They are what is left when a target was dropped and set up anew.
    """
    gone = []
    for (database,) in conn.execute(
        _ORPHANS.encode(), (comment_of(conn), list(_PREFIXES), most)
    ).fetchall():
        with lock(conn, database) as held:
            there = conn.execute("SELECT FROM atdm.clone WHERE database_name = %s", (database,))
            if not held or there.fetchone() is not None:
                continue
            kind = "template" if database.startswith(TEMPLATE_PREFIX) else "clone"
            if _tried(conn, database, kind, "it has no owner"):
                gone.append(Dropped(database, kind, "it has no owner"))
    return gone


def _tried(conn: psycopg.Connection[Any], database: str, kind: str, because: str) -> bool:
    """Drop on a sweep's behalf: what cannot be dropped now must not keep the rest from it."""
    try:
        _drop(conn, database, kind, because, INVOKER, SOURCE)
    except AtdmError as error:
        with conn.transaction():
            conn.execute(
                "UPDATE atdm.clone SET retry_at = now() + interval '10 minutes'"
                " WHERE database_name = %s",
                (database,),
            )
            conn.execute(
                "INSERT INTO atdm.audit_event (action, status, invoker, source, outputs)"
                " VALUES (%s, 'failed', %s, %s, %s)",
                (f"{kind}_dropped", INVOKER, SOURCE, Jsonb(error.envelope()["error"])),
            )
        return False
    return True


def end_making(conn: psycopg.Connection[Any], database: str) -> None:
    """End what the server still does for a process that was killed while it made a database.

    A server does not notice a dead client before it has an answer: the database would appear after
    everybody has looked for it. Whoever calls this holds the lock on the name, so nobody who lives
    makes it.
    """
    statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)).as_string(conn)
    deadline = time.monotonic() + _ENDING_SECONDS
    while conn.execute(_END_MAKING, (statement,)).fetchone() is not None:
        if time.monotonic() > deadline:
            raise AtdmError(
                ErrorCode.CLONE_FAILED,
                f"the server still makes database {database} for a process that is gone",
                {"database": database},
            )
        time.sleep(_ENDING_PAUSE_SECONDS)


def _drop(
    conn: psycopg.Connection[Any],
    database: str,
    kind: str,
    because: str,
    invoker: str,
    source: str,
) -> None:
    """Drop the database, then say so: a row that is ``dropping`` is found by the next sweep.

    A database that somebody else made under the name of a clone that is gone stays.
    """
    try:
        end_making(conn, database)
        ours = conn.execute(
            _IS_OURS.encode(),
            {"name": database, "comment": comment_of(conn), "prefixes": list(_PREFIXES)},
        ).fetchone()
        if ours is not None and ours[0]:
            conn.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
            )
    except psycopg.Error as error:
        raise AtdmError(
            ErrorCode.CLONE_FAILED,
            f"database {database} could not be dropped: {error.diag.message_primary}",
            {"database": database, "sqlstate": error.sqlstate},
        ) from error
    with conn.transaction():
        # A clone's row stays for a while, so that giving it back twice is told from a wrong token.
        row = conn.execute(
            "UPDATE atdm.clone SET status = 'dropped', dropped_at = clock_timestamp(),"
            " retry_at = NULL WHERE database_name = %s RETURNING domain, baseline_id, owner",
            (database,),
        ).fetchone()
        domain, baseline_id, owner = row or (None, None, None)
        if kind == "template":
            conn.execute("DELETE FROM atdm.clone WHERE database_name = %s", (database,))
        conn.execute(
            "INSERT INTO atdm.audit_event (action, status, domain, invoker, source, inputs,"
            " outputs) VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (
                f"{kind}_dropped",
                "expired" if because == _EXPIRED else "ok",
                domain,
                invoker,
                source,
                Jsonb({"baseline_id": baseline_id, "owner": owner}),
                Jsonb({"database": database, "because": because}),
            ),
        )


_PREFIXES = tuple(
    f"{prefix}%".replace("_", r"\_") for prefix in (CLONE_PREFIX, TEMPLATE_PREFIX, SCRATCH_PREFIX)
)
_IS_OURS = """
SELECT d.datname LIKE ANY (%(prefixes)s)
    OR coalesce(pg_catalog.shobj_description(d.oid, 'pg_database') = %(comment)s, false)
    OR EXISTS (SELECT FROM atdm.clone AS c
               WHERE c.database_name = d.datname AND c.fingerprint IS NULL)
FROM pg_catalog.pg_database AS d WHERE d.datname = %(name)s
"""
"""Those without a fingerprint were made before databases had comments."""
_END_MAKING = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE state = 'active' AND pid <> pg_catalog.pg_backend_pid()
  AND pg_catalog.starts_with(query, %s)
"""
_EXPIRED = "its time is over"
_LEFT = "its process is gone"
_DUE = f"""
SELECT c.database_name, CASE c.status WHEN 'leased' THEN '{_EXPIRED}' ELSE '{_LEFT}' END
FROM atdm.clone AS c
WHERE (c.status IN ('making', 'dropping')
       OR c.status = 'leased' AND c.expires_at < clock_timestamp())
  AND (c.retry_at IS NULL OR c.retry_at < now())
ORDER BY c.created_at LIMIT %s
"""
_OUT_OF_USE = """
    c.kind = 'template' AND c.status = 'ready'
    AND (coalesce(c.used_at, c.created_at) < now() - %(kept)s
         OR c.fingerprint IS DISTINCT FROM (SELECT atdm.bundle_fingerprint())
         OR EXISTS (SELECT FROM atdm.baseline AS b WHERE b.domain = c.domain
                    AND b.baseline_id = c.baseline_id AND b.status = 'deleted'))
"""
_TEMPLATES_OUT_OF_USE = f"""
SELECT c.database_name, 'nobody copies it any more'
FROM atdm.clone AS c
WHERE {_OUT_OF_USE} AND (c.retry_at IS NULL OR c.retry_at < now())
ORDER BY c.created_at LIMIT %(most)s
"""
_ORPHANS = """
SELECT d.datname FROM pg_catalog.pg_database AS d
WHERE pg_catalog.shobj_description(d.oid, 'pg_database') = %s
  AND d.datname LIKE ANY (%s)
  AND NOT EXISTS (SELECT FROM atdm.clone AS c WHERE c.database_name = d.datname)
ORDER BY d.datname LIMIT %s
"""
