"""Databases that ATDM makes for tests: rows of ``atdm.clone``.

A row has kind ``clone`` or ``template`` and status ``making``, ``ready``, ``leased``, ``dropping``
or ``dropped``. Light: psycopg and the standard library alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError
from atdm_resources.catalog.events import Actor, add_event
from atdm_resources.postgres.target import current_database

if TYPE_CHECKING:
    from atdm_engine.spec.domain import ClonePool

CLONE_PREFIX: Final = "atdm_clone_"
TEMPLATE_PREFIX: Final = "atdm_template_"
SCRATCH_PREFIX: Final = "atdm_scratch_"

EMPTY: Final = "empty"
"""In place of a baseline's id: a database that is initialised and holds no test runs."""
LATEST: Final = "latest"
"""In place of a baseline's id: the newest one; an empty database where there is none."""

EXPIRED: Final = "its time is over"
"""Why a clone is dropped whose lease has ended; its event has status ``expired``."""

Source = Literal["pool", "template", "cold"]
"""Where a leased clone came from: the pool, a template that was there, a template made for it."""


@dataclass(frozen=True, slots=True)
class CloneRequest:
    """A request for a clone. ``baseline`` None: the newest; ``database`` None: any name."""

    domain: str
    baseline: str | None
    database: str | None
    owner: str
    ttl: timedelta
    invoker: str
    source: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Template:
    """A database to copy. ``decided_at``: when its baseline was chosen, by the server's clock.

    ``fingerprint`` is the bundle's in the target, ``latest`` whether the baseline was chosen as the
    newest one, ``made`` whether the template was made for this request.
    """

    database: str
    domain: str
    baseline: str | None
    fingerprint: str
    decided_at: datetime
    latest: bool = False
    made: bool = False


def comment_of(conn: psycopg.Connection[Any]) -> str:
    """The comment on every database that is made for this target."""
    return f"Made by ATDM for target {current_database(conn)}; dropped when its time is over."


def default_domain(conn: psycopg.Connection[Any]) -> str:
    """The target's default domain."""
    row = conn.execute("SELECT default_domain FROM atdm.target").fetchone()
    assert row is not None
    return str(row[0])


def domains(conn: psycopg.Connection[Any]) -> list[str]:
    """The domains of the target, by name."""
    return [name for (name,) in conn.execute("SELECT domain FROM atdm.domain ORDER BY domain")]


def mark_as_target(conn: psycopg.Connection[Any]) -> None:
    """Mark the connected copy disposable: its mark still names the database it was copied from."""
    conn.execute("UPDATE atdm.target SET database_name = current_database()")


def revision(conn: psycopg.Connection[Any]) -> str:
    """The catalog's migration revision."""
    row = conn.execute("SELECT version_num FROM atdm.alembic_version").fetchone()
    assert row is not None
    return str(row[0])


def set_revision(conn: psycopg.Connection[Any], revision: str) -> None:
    """Note the revision of a catalog whose structure was copied without rows."""
    conn.execute("INSERT INTO atdm.alembic_version VALUES (%s)", (revision,))


def moment_and_fingerprint(conn: psycopg.Connection[Any]) -> tuple[datetime, str]:
    """The server's time, and the fingerprint of the bundle that the target has now."""
    row = conn.execute("SELECT clock_timestamp(), atdm.bundle_fingerprint()").fetchone()
    assert row is not None
    return row[0], row[1]


def as_template(conn: psycopg.Connection[Any], database: str, domain: str) -> Template:
    """A leased clone as a template for copies of it."""
    row = conn.execute(
        "SELECT (SELECT c.baseline_id FROM atdm.clone AS c WHERE c.database_name = %s),"
        " atdm.bundle_fingerprint(), clock_timestamp()",
        (database,),
    ).fetchone()
    assert row is not None
    return Template(database, domain, *row)


def register(
    conn: psycopg.Connection[Any],
    database: str,
    template: Template,
    *,
    kind: Literal["clone", "template"] = "clone",
    owner: str | None = None,
) -> bool:
    """Record a database as ``making``; False when the name is taken."""
    done = conn.execute(
        "INSERT INTO atdm.clone (database_name, domain, baseline_id, kind, status, owner,"
        " fingerprint, latest, created_at) VALUES (%s, %s, %s, %s, 'making', %s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (
            database,
            template.domain,
            template.baseline,
            kind,
            owner,
            template.fingerprint,
            template.latest,
            template.decided_at,
        ),
    )
    return done.rowcount == 1


def is_registered(conn: psycopg.Connection[Any], database: str) -> bool:
    """Whether ATDM has a row of this database, dropped ones included."""
    row = conn.execute("SELECT FROM atdm.clone WHERE database_name = %s", (database,))
    return row.fetchone() is not None


def forget(conn: psycopg.Connection[Any], database: str) -> None:
    """Delete the row of a database that was not completed."""
    conn.execute("DELETE FROM atdm.clone WHERE database_name = %s", (database,))


def use_template(conn: psycopg.Connection[Any], database: str) -> bool:
    """Note that a template is used; False when there is none that is ready."""
    done = conn.execute(
        "UPDATE atdm.clone SET used_at = clock_timestamp()"
        " WHERE database_name = %s AND kind = 'template' AND status = 'ready' AND EXISTS"
        " (SELECT FROM pg_catalog.pg_database AS d WHERE d.datname = database_name)",
        (database,),
    )
    return done.rowcount == 1


def set_template_ready(conn: psycopg.Connection[Any], database: str) -> None:
    """Record a template as ``ready``."""
    conn.execute(
        "UPDATE atdm.clone SET status = 'ready', used_at = clock_timestamp()"
        " WHERE database_name = %s",
        (database,),
    )


def set_clone_ready(conn: psycopg.Connection[Any], database: str, max_age: timedelta) -> bool:
    """Offer a new clone in the pool for ``max_age``; False when a sweep has taken it."""
    done = conn.execute(
        "UPDATE atdm.clone SET status = 'ready', source = 'pool', fresh_until = created_at + %s"
        " WHERE database_name = %s AND status = 'making'",
        (max_age, database),
    )
    return done.rowcount == 1


def lease_ready(
    conn: psycopg.Connection[Any], request: CloneRequest
) -> tuple[str, str | None, datetime] | None:
    """Lease a clone of the pool; see ``lease_made``. None when no ready one fits the request."""
    return _lease(conn, _READY_CLONE, request, "pool")


def lease_made(
    conn: psycopg.Connection[Any], request: CloneRequest, database: str, source: Source
) -> tuple[str, str | None, datetime] | None:
    """Lease a clone that was just made, with event ``baseline_cloned``.

    The row gets the requested name; the database is still to be renamed, in the same transaction.

    Returns: the database's present name, its baseline, the end of the lease; None when a sweep has
    taken it. Raises psycopg.errors.UniqueViolation when the requested name is taken.
    """
    return _lease(conn, _MADE_CLONE, request, source, database)


def _lease(
    conn: psycopg.Connection[Any],
    picked: str,
    request: CloneRequest,
    source: Source,
    database: str | None = None,
) -> tuple[str, str | None, datetime] | None:
    if request.database is not None:
        conn.execute(
            "DELETE FROM atdm.clone WHERE database_name = %s AND status = 'dropped'",
            (request.database,),
        )
    return conn.execute(
        (picked + _LEASED).encode(),
        {
            "domain": request.domain,
            "baseline": request.baseline,
            "owner": request.owner,
            "ttl": request.ttl,
            "token": token_sha256(request.token),
            "invoker": request.invoker,
            "face": request.source,
            "name": request.database,
            "source": source,
            "made": database,
            "inputs": Jsonb({"baseline_id": request.baseline, "owner": request.owner}),
        },
    ).fetchone()


def token_sha256(token: str) -> bytes:
    """What the catalog keeps of a token."""
    return hashlib.sha256(token.encode()).digest()


def status_and_token(conn: psycopg.Connection[Any], database: str) -> tuple[str, bytes] | None:
    """Status of a completed clone, dropped ones included, and the hash of its token."""
    return conn.execute(
        "SELECT status, token_sha256 FROM atdm.clone"
        " WHERE database_name = %s AND kind = 'clone' AND status <> 'making'",
        (database,),
    ).fetchone()


def listed(conn: psycopg.Connection[Any], *, everything: bool) -> list[dict[str, Any]]:
    """Leased clones, newest first; with ``everything`` the pool and templates as well."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_LISTED, (everything,)).fetchall()


def pool_counts(
    conn: psycopg.Connection[Any], pools: Mapping[str, ClonePool]
) -> list[tuple[str, int, bool]]:
    """By domain: how many clones of its pool can be leased now, and whether it is being filled."""
    values = {"domains": list(pools), "baselines": [pool.baseline for pool in pools.values()]}
    return conn.execute(_POOL_COUNTS.encode(), values).fetchall()


def pool_lock(domain: str) -> str:
    """The name of the lock on a pool that is being filled."""
    return f"{_POOL_LOCK}{domain}"


def stale(
    conn: psycopg.Connection[Any],
    pools: Mapping[str, ClonePool],
    newest: Mapping[str, str | None],
    most: int,
) -> list[str]:
    """Ready clones that may not be leased any more, the oldest first, ``most`` at most.

    Those of an earlier bundle or catalog, of another baseline than the pool's, too old, too many.
    ``newest``: by domain the newest baseline of the store, where it is known.
    """
    values = {
        "domains": list(pools),
        "baselines": [pool.baseline for pool in pools.values()],
        "sizes": [pool.ready for pool in pools.values()],
        "seen": list(newest),
        "newest": list(newest.values()),
        "most": most,
    }
    return [database for (database,) in conn.execute(_STALE.encode(), values).fetchall()]


def due(conn: psycopg.Connection[Any], most: int) -> list[tuple[str, str]]:
    """Databases to drop and why: expired, or half made or half dropped by a dead process."""
    return conn.execute(_DUE.encode(), (most,)).fetchall()


def templates_out_of_use(
    conn: psycopg.Connection[Any], kept: timedelta, most: int
) -> list[tuple[str, str]]:
    """Templates to drop and why: not copied for ``kept``, or of an earlier bundle or baseline."""
    values = {"kept": kept, "most": most}
    return conn.execute(_TEMPLATES_OUT_OF_USE.encode(), values).fetchall()


def orphans(conn: psycopg.Connection[Any], most: int) -> list[str]:
    """Databases made for this target, by name and comment, that have no row.

    They are left when a target was dropped and set up anew.
    """
    values = (comment_of(conn), list(_PATTERNS), most)
    return [database for (database,) in conn.execute(_ORPHANS, values).fetchall()]


def made_from(conn: psycopg.Connection[Any], domain: str, baseline_id: str) -> list[str]:
    """Templates and ready clones of a baseline."""
    rows = conn.execute(
        "SELECT database_name FROM atdm.clone WHERE domain = %s AND baseline_id = %s"
        " AND (kind = 'template' OR status = 'ready') AND status <> 'dropped'",
        (domain, baseline_id),
    ).fetchall()
    return [database for (database,) in rows]


def is_ours(conn: psycopg.Connection[Any], database: str) -> bool:
    """Whether an existing database was made by ATDM; one of another owner may bear the name."""
    row = conn.execute(
        _IS_OURS, {"name": database, "comment": comment_of(conn), "patterns": list(_PATTERNS)}
    ).fetchone()
    return bool(row and row[0])


def begin_drop(
    conn: psycopg.Connection[Any],
    database: str,
    *,
    only: Literal["any", "ready", "due"] = "any",
    kept: timedelta = timedelta(0),
) -> str | None:
    """Record a database as ``dropping``; its kind, None when there is nothing to drop.

    ``only``: ``any`` that is not dropped; a clone that is still ``ready``; one that is still
    ``due`` or a template out of use for ``kept``.
    """
    row = conn.execute(
        f"UPDATE atdm.clone AS c SET status = 'dropping' WHERE c.database_name = %(name)s"
        f" AND ({_DROPPABLE[only]}) RETURNING c.kind".encode(),
        {"name": database, "kept": kept},
    ).fetchone()
    return None if row is None else str(row[0])


def finish_drop(
    conn: psycopg.Connection[Any], database: str, kind: str, because: str, actor: Actor
) -> None:
    """Record a database as ``dropped``, with its event.

    The row of a clone stays for a while, so that a second drop is told from a wrong token.
    """
    with conn.transaction():
        row = conn.execute(
            "UPDATE atdm.clone SET status = 'dropped', dropped_at = clock_timestamp(),"
            " retry_at = NULL WHERE database_name = %s RETURNING domain, baseline_id, owner",
            (database,),
        ).fetchone()
        domain, baseline_id, owner = row or (None, None, None)
        if kind == "template":
            forget(conn, database)
        add_event(
            conn,
            f"{kind}_dropped",
            domain,
            actor,
            status="expired" if because == EXPIRED else "ok",
            inputs={"baseline_id": baseline_id, "owner": owner},
            outputs={"database": database, "because": because},
        )


def postpone_drop(
    conn: psycopg.Connection[Any], database: str, kind: str, error: AtdmError, actor: Actor
) -> None:
    """Leave a database that cannot be dropped alone for ten minutes, with an event."""
    with conn.transaction():
        conn.execute(
            "UPDATE atdm.clone SET retry_at = now() + interval '10 minutes'"
            " WHERE database_name = %s",
            (database,),
        )
        add_event(
            conn,
            f"{kind}_dropped",
            None,
            actor,
            status="failed",
            outputs=error.envelope()["error"],
        )


def forget_old(conn: psycopg.Connection[Any], kept: timedelta) -> None:
    """Delete rows of databases that were dropped longer than ``kept`` ago."""
    conn.execute(
        "DELETE FROM atdm.clone WHERE status = 'dropped' AND dropped_at < now() - %s", (kept,)
    )


_POOL_LOCK = "pool of "
_PATTERNS = tuple(
    f"{prefix}%".replace("_", r"\_") for prefix in (CLONE_PREFIX, TEMPLATE_PREFIX, SCRATCH_PREFIX)
)
_LISTED = """
SELECT c.database_name AS database, c.kind, c.status, c.domain, c.baseline_id AS baseline, c.owner,
       c.source, c.created_at, c.expires_at, pg_catalog.pg_database_size(d.oid) AS bytes
FROM atdm.clone AS c LEFT JOIN pg_catalog.pg_database AS d ON d.datname = c.database_name
WHERE c.status <> 'dropped' AND (%s OR c.kind = 'clone' AND c.status = 'leased')
ORDER BY c.created_at DESC
"""
# Whether a ready clone ``c`` may still be leased. A baseline that was made or deleted after it
# makes another one the newest; the pool's sensor finds what this target does not know of.
_FRESH = """
    (c.fresh_until IS NULL OR c.fresh_until > clock_timestamp())
    AND c.fingerprint = (SELECT atdm.bundle_fingerprint())
    AND NOT EXISTS (
        SELECT FROM atdm.baseline AS b
        WHERE b.domain = c.domain AND b.status IN ('complete', 'deleted')
          AND b.finished_at > c.created_at AND (c.latest OR b.baseline_id = c.baseline_id))
"""
_READY_CLONE = f"""
WITH picked AS (
    SELECT c.database_name FROM atdm.clone AS c
    WHERE c.kind = 'clone' AND c.status = 'ready' AND c.domain = %(domain)s
      AND CASE WHEN %(baseline)s::text IS NULL THEN c.latest
               WHEN %(baseline)s::text = '{EMPTY}' THEN c.baseline_id IS NULL
               ELSE c.baseline_id = %(baseline)s::text END
      AND {_FRESH}
    ORDER BY c.created_at LIMIT 1
    FOR UPDATE OF c SKIP LOCKED)"""
_MADE_CLONE = """
WITH picked AS (
    SELECT c.database_name FROM atdm.clone AS c
    WHERE c.database_name = %(made)s AND c.status = 'making' FOR UPDATE OF c)"""
_LEASED = """, leased AS (
    UPDATE atdm.clone AS c SET status = 'leased', source = %(source)s, owner = %(owner)s,
        database_name = coalesce(%(name)s, c.database_name), token_sha256 = %(token)s,
        leased_at = clock_timestamp(), expires_at = clock_timestamp() + %(ttl)s
    FROM picked AS p WHERE c.database_name = p.database_name
    RETURNING p.database_name AS found, c.database_name, c.domain, c.baseline_id, c.expires_at
), noted AS (
    INSERT INTO atdm.audit_event (action, domain, invoker, source, inputs, outputs)
    SELECT 'baseline_cloned', l.domain, %(invoker)s, %(face)s, %(inputs)s,
           jsonb_build_object('database', l.database_name, 'baseline_id', l.baseline_id,
                              'source', %(source)s::text, 'expires_at', l.expires_at)
    FROM leased AS l
)
SELECT l.found, l.baseline_id, l.expires_at FROM leased AS l
"""
_FITS_POOL = f"""
    CASE w.baseline WHEN '{LATEST}' THEN c.latest
                    WHEN '{EMPTY}' THEN c.baseline_id IS NULL AND NOT c.latest
                    ELSE c.baseline_id = w.baseline AND NOT c.latest END
"""
# The lock of a process that fills a pool is looked at without taking it.
_POOL_COUNTS = f"""
SELECT w.domain,
    (SELECT count(*) FROM atdm.clone AS c
     WHERE c.kind = 'clone' AND c.status = 'ready' AND c.domain = w.domain
       AND {_FITS_POOL} AND {_FRESH}),
    EXISTS (
        SELECT FROM pg_catalog.pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.database =
            (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())
          AND (l.classid::bigint << 32 | l.objid::bigint)
            = atdm.request_lock_key('clone {_POOL_LOCK}' || w.domain))
FROM unnest(%(domains)s::text[], %(baselines)s::text[]) AS w (domain, baseline)
ORDER BY w.domain
"""
_STALE = f"""
WITH w AS (
    SELECT * FROM unnest(%(domains)s::text[], %(baselines)s::text[], %(sizes)s::int[])
        AS w (domain, baseline, size)
), seen AS (
    SELECT * FROM unnest(%(seen)s::text[], %(newest)s::text[]) AS s (domain, baseline)
), judged AS (
    SELECT c.database_name, c.domain, c.created_at, w.size,
        w.domain IS NOT NULL AND {_FITS_POOL} AND {_FRESH}
        AND NOT (c.latest AND EXISTS (
            SELECT FROM seen AS s WHERE s.domain = c.domain
              AND s.baseline IS DISTINCT FROM c.baseline_id)) AS good
    FROM atdm.clone AS c LEFT JOIN w USING (domain)
    WHERE c.kind = 'clone' AND c.status = 'ready' AND (c.retry_at IS NULL OR c.retry_at < now())
), placed AS (
    SELECT j.*,
        row_number() OVER (PARTITION BY j.domain, j.good ORDER BY j.created_at DESC) AS place
    FROM judged AS j
)
SELECT p.database_name FROM placed AS p
WHERE p.good IS NOT TRUE OR p.place > p.size
ORDER BY p.created_at LIMIT %(most)s
"""
_OUT_OF_USE = """
    c.kind = 'template' AND c.status = 'ready'
    AND (coalesce(c.used_at, c.created_at) < now() - %(kept)s
         OR c.fingerprint IS DISTINCT FROM (SELECT atdm.bundle_fingerprint())
         OR EXISTS (SELECT FROM atdm.baseline AS b WHERE b.domain = c.domain
                    AND b.baseline_id = c.baseline_id AND b.status = 'deleted'))
"""
_ABANDONED_OR_EXPIRED = """
    c.status IN ('making', 'dropping')
    OR c.status = 'leased' AND c.expires_at < clock_timestamp()
"""
_DROPPABLE = {
    "any": "c.status <> 'dropped'",
    "ready": "c.kind = 'clone' AND c.status = 'ready'",
    "due": f"{_ABANDONED_OR_EXPIRED} OR {_OUT_OF_USE}",
}
_DUE = f"""
SELECT c.database_name,
       CASE c.status WHEN 'leased' THEN '{EXPIRED}' ELSE 'its process is gone' END
FROM atdm.clone AS c
WHERE ({_ABANDONED_OR_EXPIRED}) AND (c.retry_at IS NULL OR c.retry_at < now())
ORDER BY c.created_at LIMIT %s
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
_IS_OURS = """
SELECT d.datname LIKE ANY (%(patterns)s)
    OR coalesce(pg_catalog.shobj_description(d.oid, 'pg_database') = %(comment)s, false)
FROM pg_catalog.pg_database AS d WHERE d.datname = %(name)s
"""
