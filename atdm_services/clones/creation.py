"""A new database of ATDM: registered, made, marked as a target, leased. Light.

Its row is ``making`` and the lock on its name is held until it is complete: a process that dies
leaves nothing that another one would use.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import clones
from atdm_resources.catalog.clones import CloneRequest, Source, Template
from atdm_resources.postgres import databases
from atdm_resources.postgres.connection import connect
from atdm_services.clones import teardown


@dataclass(frozen=True, slots=True)
class CloneLease:
    """A leased database. ``token`` drops it; it is shown this once.

    ``baseline`` None: initialised, without test runs.
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


def new_name() -> str:
    """A name for a clone whose caller has named none."""
    return f"{clones.CLONE_PREFIX}{secrets.token_hex(6)}"


def new_token() -> str:
    """A token for a lease."""
    return f"atdm_{secrets.token_urlsafe(32)}"


def sibling(url: str, database: str) -> str:
    """``url`` with another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


@contextmanager
def new_copy(
    conn: psycopg.Connection[Any],
    server_url: str,
    template: Template,
    database: str,
    *,
    owner: str | None = None,
) -> Iterator[None]:
    """A copy of ``template`` called ``database``, complete and marked disposable.

    The block records what becomes of it. The copy is dropped when the block fails. ``conn`` is a
    connection to the target in autocommit mode, ``server_url`` its URL.

    Raises:
        AtdmError: CLONE_FAILED; what the block raises.
    """
    with teardown.lock(conn, database) as held:
        if not held:
            raise name_taken(database)
        register(conn, database, template, owner=owner)
        with dropped_on_error(conn, database):
            create(conn, database, template.database)
            mark_as_target(sibling(server_url, database))
            yield


def register(
    conn: psycopg.Connection[Any],
    database: str,
    template: Template,
    *,
    kind: Literal["clone", "template"] = "clone",
    owner: str | None = None,
) -> None:
    """Record a database before it is made. Raises AtdmError REQUEST_CONFLICT, CLONE_FAILED."""
    try:
        registered = clones.register(conn, database, template, kind=kind, owner=owner)
    except psycopg.errors.InsufficientPrivilege as error:
        raise refused_by_server(conn, error) from error
    if not registered:
        raise name_taken(database)


def create(conn: psycopg.Connection[Any], database: str, template: str | None = None) -> None:
    """Make a registered database, a copy of ``template`` when one is named.

    Raises:
        AtdmError: REQUEST_CONFLICT when there is one of that name; CLONE_FAILED without the right
            to make databases, or when the server cannot.
    """
    try:
        databases.create(conn, database, template=template, comment=clones.comment_of(conn))
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation) as error:
        # It is another owner's: the row goes, and not the database.
        clones.forget(conn, database)
        raise name_taken(database) from error
    except psycopg.Error as error:
        raise refused_by_server(conn, error) from error


def mark_as_target(url: str) -> None:
    """Mark a copy disposable under its own name."""
    with connect(url, application_name="atdm clone") as fresh:
        clones.mark_as_target(fresh)


def lease_ready(
    conn: psycopg.Connection[Any], server_url: str, request: CloneRequest
) -> CloneLease | None:
    """Lease a clone of the pool; None when no ready one fits the request."""
    return _lease(conn, server_url, request, "pool", None)


def lease_made(
    conn: psycopg.Connection[Any],
    server_url: str,
    request: CloneRequest,
    database: str,
    source: Source,
) -> CloneLease:
    """Lease a clone that this process has just made.

    Raises:
        AtdmError: CLONE_FAILED when a sweep has dropped it; REQUEST_CONFLICT.
    """
    leased = _lease(conn, server_url, request, source, database)
    if leased is None:
        raise abandoned(database)
    return leased


def _lease(
    conn: psycopg.Connection[Any],
    server_url: str,
    request: CloneRequest,
    source: Source,
    made: str | None,
) -> CloneLease | None:
    """Lease a clone under the requested name: row, event and name in one transaction.

    Only databases that ATDM has named itself are ever copied to, so a database of another owner
    with the requested name is not touched.
    """
    try:
        with conn.transaction():
            if made is None:
                row = clones.lease_ready(conn, request)
            else:
                row = clones.lease_made(conn, request, made, source)
            if row is None:
                return None
            found, baseline, expires_at = row
            name = request.database or found
            if name != found:
                databases.rename(conn, found, name)
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation) as error:
        raise name_taken(str(request.database)) from error
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectInUse) as error:
        raise refused_by_server(conn, error) from error
    url = sibling(server_url, name)
    if name != found:
        mark_as_target(url)
    return CloneLease(
        name, url, request.token, expires_at, baseline, source, request.domain, request.owner
    )


@contextmanager
def dropped_on_error(conn: psycopg.Connection[Any], database: str) -> Iterator[None]:
    """Drop a registered database when the block fails; if that fails, a sweep drops it."""
    try:
        yield
    except BaseException as error:
        # Without a row the database is not ATDM's.
        if conn.closed or conn.broken or not clones.is_registered(conn, database):
            raise
        try:
            discard(conn, database)
        except (AtdmError, psycopg.Error) as problem:
            error.add_note(f"database {database} is left for the next sweep: {problem}")
        raise


def discard(conn: psycopg.Connection[Any], database: str) -> None:
    """Drop what there is of a database that is being made, and its row."""
    teardown.end_creation(conn, database)
    databases.drop(conn, database)
    clones.forget(conn, database)


def name_taken(database: str) -> AtdmError:
    """REQUEST_CONFLICT: the server has a database of that name."""
    return AtdmError(
        ErrorCode.REQUEST_CONFLICT,
        f"there is a database {database!r} already; a clone is always a new one",
        {"database": database, "hint": "Take another name, or leave --database out."},
    )


def abandoned(database: str) -> AtdmError:
    """CLONE_FAILED: a sweep took the database for one of a dead process."""
    return AtdmError(
        ErrorCode.CLONE_FAILED,
        f"database {database} was taken for abandoned while it was made; try again",
        {"database": database},
    )


def refused_by_server(conn: psycopg.Connection[Any], error: psycopg.Error) -> AtdmError:
    """CLONE_FAILED: PostgreSQL does not make, copy or rename a database for this user."""
    details = {"user": conn.info.user, "sqlstate": error.sqlstate}
    reason = error.diag.message_primary or str(error)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return AtdmError(
            ErrorCode.CLONE_FAILED,
            f"this user may not make databases ({reason}); a superuser can allow it: "
            f"ALTER ROLE {conn.info.user} CREATEDB",
            details,
        )
    return AtdmError(ErrorCode.CLONE_FAILED, f"the clone could not be made: {reason}", details)
