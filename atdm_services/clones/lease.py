"""Clones: leasing a database of one's own, and giving it back.

Light: a lease from the pool is one statement, so it must not pay for what a cold one needs.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode, nearest_spelling
from atdm_resources.postgres.connection import connect, masked
from atdm_resources.postgres.target import current_database, ensure_disposable, refuse_real_name
from atdm_resources.settings import Settings
from atdm_services.clones import teardown

DEFAULT_TTL: Final = timedelta(hours=4)
EMPTY: Final = "empty"
"""In place of a baseline's id: a database that is initialised and holds no test runs."""
LATEST: Final = "latest"
"""In place of a baseline's id: the newest one; an empty database where there is none."""

Source = Literal["pool", "template", "cold"]

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")
_RESERVED = frozenset({"postgres", "template0", "template1"})
_SWEPT_AT_ONCE = 1
"""Dead clones that a lease drops on its way: one for one."""


@dataclass(frozen=True, slots=True)
class CloneLease:
    """A database of one's own. ``token`` gives it back; it is shown this once.

    ``baseline`` None: initialised, without runs. ``source`` says how it came about: taken from the
    pool, copied from a template that was there, or cold, with the template made first.
    """

    database: str
    url: str = field(repr=False)
    token: str = field(repr=False)
    expires_at: datetime
    baseline: str | None
    source: Source
    domain: str
    owner: str

    def as_json(self) -> dict[str, Any]:
        """Everything, token and URL included; times as ISO 8601 texts."""
        return {**asdict(self), "expires_at": self.expires_at.isoformat()}


@dataclass(frozen=True, slots=True)
class Clone:
    """A clone or a template as it is listed. ``url`` has its password masked."""

    url: str
    database: str
    kind: str
    status: str
    domain: str
    baseline: str | None
    owner: str | None
    source: str | None
    created_at: datetime
    expires_at: datetime | None
    bytes: int | None

    def as_json(self) -> dict[str, Any]:
        """Times as ISO 8601 texts."""
        return {
            **asdict(self),
            "created_at": self.created_at.isoformat(),
            "expires_at": self.expires_at and self.expires_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class CloneRequest:
    """Who wants a clone of what, for how long. ``baseline`` None: the newest."""

    domain: str
    baseline: str | None
    database: str | None
    owner: str
    ttl: timedelta
    invoker: str
    source: str
    token: str = field(repr=False)

    @property
    def token_sha256(self) -> bytes:
        return hashlib.sha256(self.token.encode()).digest()


def lease_clone(
    conn: psycopg.Connection[Any],
    server_url: str,
    *,
    domain: str | None = None,
    baseline: str | None = None,
    database: str | None = None,
    owner: str,
    ttl: timedelta | None = None,
    invoker: str | None = None,
    source: str = "client",
    settings: Settings | None = None,
) -> CloneLease:
    """Lease a new database beside the target; the first sweep after ``ttl`` drops it.

    From the pool when one is ready there, else a copy of the baseline's template, which the first
    lease of a baseline makes.

    Args:
        conn: a connection to the target in autocommit mode, as the owner of its catalog.
        server_url: the target's URL; the clone is a database of the same server.
        domain: None: the target's default domain.
        baseline: an id; ``empty``: initialised, without test runs; None or ``latest``: the newest
            baseline of the store, an empty database where there is none.
        database: its name; None: ATDM makes one up.
        ttl: None: four hours.
        invoker, source: for the audit trail; None: ATDM_INVOKER.
        settings: where store and specification files are when a template has to be made; None:
            those of the environment.

    Raises:
        AtdmError: REQUEST_INVALID; REQUEST_CONFLICT when there is a database of that name;
            BASELINE_NOT_FOUND, BASELINE_INVALID; TARGET_DRIFT when the baseline does not fit the
            tables; CLONE_FAILED, without the right to make databases above all; MISSING_EXTRA when
            a client installation would have to make a template; TARGET_NOT_DISPOSABLE.
    """
    ensure_disposable(conn)
    length = DEFAULT_TTL if ttl is None else ttl
    if length <= timedelta(0):
        raise AtdmError(
            ErrorCode.REQUEST_INVALID, "a clone lives for more than nothing", {"ttl": str(ttl)}
        )
    if database is not None:
        _check_name(conn, database)
    wish = CloneRequest(
        domain=domain_of(conn, domain),
        baseline=None if baseline == LATEST else baseline,
        database=database,
        owner=owner,
        ttl=length,
        invoker=invoker or (settings or Settings.from_environment()).invoker,
        source=source,
        token=f"atdm_{secrets.token_urlsafe(32)}",
    )
    leased = _from_pool(conn, server_url, wish)
    if leased is None:
        from atdm_services.clones import templates

        leased = templates.leased_copy(conn, server_url, wish, settings)
    teardown.sweep(conn, most=_SWEPT_AT_ONCE)
    return leased


def drop_clone(
    conn: psycopg.Connection[Any],
    server_url: str,
    *,
    database: str,
    token: str | None,
    invoker: str | None = None,
    source: str = "client",
) -> dict[str, Any]:
    """Give a clone back: its database is dropped, whoever is connected to it.

    The owner of the catalog may leave the token out. Returns ``status`` (dropped, or
    already_dropped the second time) and ``database``. ``server_url`` is the target's.

    Raises:
        AtdmError: TOKEN_MISMATCH for a wrong token and for a database that is no clone alike;
            CLONE_FAILED.
    """
    row = conn.execute(
        "SELECT status, token_sha256 FROM atdm.clone"
        " WHERE database_name = %s AND kind = 'clone' AND status <> 'making'",
        (database,),
    ).fetchone()
    known = row is not None and (token is None or row[1] == hashlib.sha256(token.encode()).digest())
    if row is None or not known or database == current_database(conn):
        raise AtdmError(
            ErrorCode.TOKEN_MISMATCH,
            f"there is no clone {database!r}"
            + ("" if token is None else " that this token gives back"),
            {"database": database, "hint": "`atdm baseline-clones` lists what there is."},
        )
    if row[0] == "dropped":
        return {"status": "already_dropped", "database": database}
    teardown.drop(
        conn,
        database,
        because="given back",
        invoker=invoker or Settings.from_environment().invoker,
        source=source,
    )
    return {"status": "dropped", "database": database}


def listed(
    conn: psycopg.Connection[Any], server_url: str, *, everything: bool = False
) -> list[Clone]:
    """The clones that are leased, newest first; ``everything``: the pool and templates as well."""
    rows = conn.execute(
        "SELECT c.database_name, c.kind, c.status, c.domain, c.baseline_id, c.owner, c.source,"
        " c.created_at, c.expires_at, pg_catalog.pg_database_size(d.oid)"
        " FROM atdm.clone AS c LEFT JOIN pg_catalog.pg_database AS d ON d.datname = c.database_name"
        " WHERE c.status <> 'dropped' AND (%s OR c.kind = 'clone' AND c.status = 'leased')"
        " ORDER BY c.created_at DESC",
        (everything,),
    ).fetchall()
    return [Clone(masked(sibling(server_url, row[0])), *row) for row in rows]


def domain_of(conn: psycopg.Connection[Any], domain: str | None) -> str:
    """``domain`` as the target knows it, its default one for None. Raises REQUEST_INVALID."""
    if domain is None:
        row = conn.execute("SELECT default_domain FROM atdm.target").fetchone()
        assert row is not None
        return str(row[0])
    known = [name for (name,) in conn.execute("SELECT domain FROM atdm.domain ORDER BY domain")]
    if domain not in known:
        nearest = nearest_spelling(domain, known)
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"there is no domain {domain!r}; known: {', '.join(known)}"
            + (f"; did you mean {nearest}?" if nearest else ""),
            {"domain": domain, "known": known},
        )
    return domain


def sibling(url: str, database: str) -> str:
    """``url`` with another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def make_it_its_own(url: str) -> None:
    """Mark a copy disposable: the mark in it still names the database that it was copied from."""
    with connect(url, application_name="atdm clone") as fresh:
        fresh.execute("UPDATE atdm.target SET database_name = current_database()")


def taken(database: str) -> AtdmError:
    """The refusal of a name that is in use."""
    return AtdmError(
        ErrorCode.REQUEST_CONFLICT,
        f"there is a database {database!r} already; a clone is always a new one",
        {"database": database, "hint": "Take another name, or leave --database out."},
    )


def may_not(conn: psycopg.Connection[Any], error: psycopg.Error) -> AtdmError:
    """What a database that could not be made, renamed or copied means to a person."""
    details = {"user": conn.info.user, "sqlstate": error.sqlstate}
    said = error.diag.message_primary or str(error)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        said = (
            f"this user may not make databases ({said}); a superuser can allow it: "
            f"ALTER ROLE {conn.info.user} CREATEDB"
        )
    else:
        said = f"the clone could not be made: {said}"
    return AtdmError(ErrorCode.CLONE_FAILED, said, details)


def _check_name(conn: psycopg.Connection[Any], database: str) -> None:
    if not _NAME.match(database) or database in _RESERVED or database.startswith("pg_"):
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{database!r} cannot name a clone; allowed: a-z 0-9 _, 63 of them at most",
            {"database": database[:200]},
        )
    refuse_real_name(database)
    there = conn.execute("SELECT FROM pg_database WHERE datname = %s", (database,)).fetchone()
    if there is not None:
        raise taken(database)


def _from_pool(
    conn: psycopg.Connection[Any], server_url: str, wish: CloneRequest
) -> CloneLease | None:
    """Take a ready clone, None when there is none that is what is wished for."""
    return hand_out(conn, server_url, wish, _OF_POOL, "pool")


def hand_out_made(
    conn: psycopg.Connection[Any], server_url: str, wish: CloneRequest, made: str, how: Source
) -> CloneLease | None:
    """Lease a clone that this process has just made; None when it is not there any more."""
    return hand_out(conn, server_url, wish, _JUST_MADE, how, made)


def hand_out(
    conn: psycopg.Connection[Any],
    server_url: str,
    wish: CloneRequest,
    picked: str,
    how: Source,
    made: str | None = None,
) -> CloneLease | None:
    """Lease the clone that the query ``picked`` finds, under the name that is wished for.

    The row, the event and the name change in one transaction. Only databases that ATDM has named
    itself are ever copied to, so whatever else bears a wished name is not touched.
    """
    values: Mapping[str, Any] = {
        "domain": wish.domain,
        "baseline": wish.baseline,
        "owner": wish.owner,
        "ttl": wish.ttl,
        "token": wish.token_sha256,
        "invoker": wish.invoker,
        "source": wish.source,
        "name": wish.database,
        "how": how,
        "made": made,
        "inputs": Jsonb({"baseline_id": wish.baseline, "owner": wish.owner}),
    }
    try:
        with conn.transaction():
            if wish.database is not None:
                conn.execute(
                    "DELETE FROM atdm.clone WHERE database_name = %s AND status = 'dropped'",
                    (wish.database,),
                )
            row = conn.execute((picked + _LEASED).encode(), values).fetchone()
            if row is None:
                return None
            found, baseline, expires_at = row
            name = wish.database or found
            if name != found:
                conn.execute(
                    sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                        sql.Identifier(found), sql.Identifier(name)
                    )
                )
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation) as error:
        raise taken(str(wish.database)) from error
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectInUse) as error:
        raise may_not(conn, error) from error
    url = sibling(server_url, name)
    if name != found:
        make_it_its_own(url)
    return CloneLease(name, url, wish.token, expires_at, baseline, how, wish.domain, wish.owner)


FRESH: Final = """
    (c.fresh_until IS NULL OR c.fresh_until > clock_timestamp())
    AND c.fingerprint = (SELECT atdm.bundle_fingerprint())
    AND NOT EXISTS (
        SELECT FROM atdm.baseline AS b
        WHERE b.domain = c.domain AND b.status IN ('complete', 'deleted')
          AND b.finished_at > c.created_at AND (c.latest OR b.baseline_id = c.baseline_id))
"""
"""Whether a ready clone ``c`` may still be handed out. A baseline that was made or deleted after it
makes another one the newest; what this target does not know of, the pool's sensor finds."""

_OF_POOL = f"""
WITH picked AS (
    SELECT c.database_name FROM atdm.clone AS c
    WHERE c.kind = 'clone' AND c.status = 'ready' AND c.domain = %(domain)s
      AND CASE WHEN %(baseline)s::text IS NULL THEN c.latest
               WHEN %(baseline)s::text = '{EMPTY}' THEN c.baseline_id IS NULL
               ELSE c.baseline_id = %(baseline)s::text END
      AND {FRESH}
    ORDER BY c.created_at LIMIT 1
    FOR UPDATE OF c SKIP LOCKED)"""
_JUST_MADE = """
WITH picked AS (
    SELECT c.database_name FROM atdm.clone AS c
    WHERE c.database_name = %(made)s AND c.status = 'making' FOR UPDATE OF c)"""
_LEASED = """, leased AS (
    UPDATE atdm.clone AS c SET status = 'leased', source = %(how)s, owner = %(owner)s,
        database_name = coalesce(%(name)s, c.database_name), token_sha256 = %(token)s,
        leased_at = clock_timestamp(), expires_at = clock_timestamp() + %(ttl)s
    FROM picked AS p WHERE c.database_name = p.database_name
    RETURNING p.database_name AS found, c.database_name, c.domain, c.baseline_id, c.expires_at
), noted AS (
    INSERT INTO atdm.audit_event (action, domain, invoker, source, inputs, outputs)
    SELECT 'baseline_cloned', l.domain, %(invoker)s, %(source)s, %(inputs)s,
           jsonb_build_object('database', l.database_name, 'baseline_id', l.baseline_id,
                              'source', %(how)s::text, 'expires_at', l.expires_at)
    FROM leased AS l
)
SELECT l.found, l.baseline_id, l.expires_at FROM leased AS l
"""
