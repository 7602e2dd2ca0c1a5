"""Leasing a clone, listing clones and dropping one.

Light: a lease from the pool is one statement, so it does not pay for what a cold one loads.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode, unknown_domain
from atdm_resources.catalog import clones
from atdm_resources.catalog.clones import LATEST, CloneRequest
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres import databases
from atdm_resources.postgres.target import current_database, ensure_disposable, refuse_real_name
from atdm_resources.settings import Settings
from atdm_resources.telemetry.redaction import redact_url
from atdm_services.clones import creation, teardown
from atdm_services.clones.creation import CloneLease

DEFAULT_TTL: Final = timedelta(hours=4)

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")
_RESERVED = frozenset({"postgres", "template0", "template1"})
_SWEPT_AT_ONCE = 1
"""Expired clones that a lease drops: one for one."""


@dataclass(frozen=True, slots=True)
class Clone:
    """A clone or a template as it is listed. ``url`` has without its password."""

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
    request = CloneRequest(
        domain=domain_of(conn, domain),
        baseline=None if baseline == LATEST else baseline,
        database=database,
        owner=owner,
        ttl=length,
        invoker=invoker or (settings or Settings.from_environment()).invoker,
        source=source,
        token=creation.new_token(),
    )
    leased = creation.lease_ready(conn, server_url, request)
    if leased is None:
        from atdm_services.clones import templates

        leased = templates.leased_copy(conn, server_url, request, settings)
    teardown.sweep(conn, most=_SWEPT_AT_ONCE)
    return leased


def drop_clone(
    conn: psycopg.Connection[Any],
    *,
    database: str,
    token: str | None,
    invoker: str | None = None,
    source: str = "client",
) -> dict[str, Any]:
    """Drop a leased clone, and end the sessions that are connected to it.

    The owner of the catalog may leave the token out. Returns ``status`` (dropped, or
    already_dropped the second time) and ``database``.

    Raises:
        AtdmError: TOKEN_MISMATCH for a wrong token and for a database that is no clone alike;
            CLONE_FAILED.
    """
    row = clones.status_and_token(conn, database)
    known = row is not None and (token is None or row[1] == clones.token_sha256(token))
    if row is None or not known or database == current_database(conn):
        raise AtdmError(
            ErrorCode.TOKEN_MISMATCH,
            f"there is no clone {database!r}"
            + ("" if token is None else " that this token gives back"),
            {"database": database, "hint": "`atdm baseline-clones` lists what there is."},
        )
    if row[0] == "dropped":
        return {"status": "already_dropped", "database": database}
    actor = Actor(invoker or Settings.from_environment().invoker, source)
    teardown.drop(conn, database, because="given back", actor=actor)
    return {"status": "dropped", "database": database}


def listed(
    conn: psycopg.Connection[Any], server_url: str, *, everything: bool = False
) -> list[Clone]:
    """The clones that are leased, newest first; ``everything``: the pool and templates as well."""
    return [
        Clone(url=redact_url(creation.sibling(server_url, row["database"])), **row)
        for row in clones.listed(conn, everything=everything)
    ]


def domain_of(conn: psycopg.Connection[Any], domain: str | None) -> str:
    """``domain`` as the target knows it, its default one for None. Raises REQUEST_INVALID."""
    if domain is None:
        return clones.default_domain(conn)
    known = clones.domains(conn)
    if domain not in known:
        raise unknown_domain(domain, known)
    return domain


def _check_name(conn: psycopg.Connection[Any], database: str) -> None:
    if not _NAME.match(database) or database in _RESERVED or database.startswith("pg_"):
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{database!r} cannot name a clone; allowed: a-z 0-9 _, 63 of them at most",
            {"database": database[:200]},
        )
    refuse_real_name(database)
    if databases.exists(conn, database):
        raise creation.name_taken(database)
