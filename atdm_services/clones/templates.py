"""Making databases from a baseline: one for each test that wants a whole database.

A baseline gets a template database, made once: catalog, tables, rows, the mark. Nobody may connect
to it, so that PostgreSQL can copy it at any time. A clone is a copy with a mark of its own, in
which leases and resets work as in the target. A clone is always a new database, never the target.

Whatever is made has its row in the target's ``atdm.clone`` first, as ``making``, and the lock on
its name is held until it is complete: a process that dies leaves nothing that anybody would use.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, Final

import psycopg
from psycopg import sql

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.target import current_database, ensure_disposable
from atdm_resources.settings import Settings
from atdm_resources.store.bundle import load_registry
from atdm_resources.store.files import Store
from atdm_services.baselines import diff
from atdm_services.baselines.listing import latest
from atdm_services.baselines.manifest import Manifest, read_manifest
from atdm_services.baselines.records import Actor
from atdm_services.baselines.restore import restore
from atdm_services.clones import schema_copy, teardown
from atdm_services.clones.lease import (
    EMPTY,
    LATEST,
    CloneLease,
    CloneRequest,
    Source,
    hand_out_made,
    make_it_its_own,
    may_not,
    sibling,
    taken,
)
from atdm_services.target.init import initialise

_ATTEMPTS = 2
_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.25
_NO_SUCH_DATABASE = "3D000"


@dataclass(frozen=True, slots=True)
class Materials:
    """What templates are made of. ``registry`` is called only when one has to be made."""

    store: Store
    registry: Callable[[], Registry]

    @classmethod
    def of(cls, settings: Settings | None = None) -> Materials:
        """Those that the settings name; None: the settings of the environment."""
        known = settings or Settings.from_environment()
        return cls(Store(known.store_url, s3=known.s3), cache(lambda: load_registry(known)))


@dataclass(frozen=True, slots=True)
class Template:
    """A template that is ready. ``decided_at`` is when it was looked for, by the server's clock.

    ``latest``: made from whatever was the newest baseline then. ``made``: it was not there before.
    """

    database: str
    domain: str
    baseline: str | None
    fingerprint: str
    decided_at: datetime
    latest: bool
    made: bool


def leased_copy(
    conn: psycopg.Connection[Any],
    server_url: str,
    wish: CloneRequest,
    settings: Settings | None = None,
) -> CloneLease:
    """Make a clone for one who found none in the pool; see ``clones.lease_clone``."""
    materials = Materials.of(settings)
    actor = Actor(wish.invoker, wish.source, "clone")
    for attempts_left in reversed(range(_ATTEMPTS)):
        template = ready_template(
            conn, server_url, materials, wish.domain, wish.baseline, actor=actor
        )
        how: Source = "cold" if template.made else "template"
        name = new_name()
        try:
            with copied(conn, server_url, template, name):
                leased = hand_out_made(conn, server_url, wish, name, how)
                if leased is None:
                    raise lost(name)
        except AtdmError as error:
            # A sweep, or whoever deletes the baseline, may drop the template before it is copied.
            if not (attempts_left and error.details.get("sqlstate") == _NO_SUCH_DATABASE):
                raise
        else:
            return leased
    raise AssertionError("the loop returns or raises")


def ready_template(
    conn: psycopg.Connection[Any],
    server_url: str,
    materials: Materials,
    domain: str,
    baseline: str | None,
    *,
    actor: Actor,
) -> Template:
    """The template of a baseline (None: the newest; ``empty``: none), made when there is none.

    Two who want it at once make it once. One whose catalog would be another than the target's now
    is not used any more.

    Raises:
        AtdmError: BASELINE_NOT_FOUND, BASELINE_INVALID, TARGET_DRIFT, STORE_FAILED, SPEC_INVALID,
            CLONE_FAILED.
    """
    ensure_disposable(conn)
    row = conn.execute("SELECT clock_timestamp(), atdm.bundle_fingerprint()").fetchone()
    assert row is not None
    decided_at, fingerprint = row
    newest = baseline in (None, LATEST)
    manifest = _manifest(materials.store, domain, baseline)
    shape = [current_database(conn), domain, fingerprint]
    if manifest is not None:
        shape += [manifest.baseline_id, manifest.content_hash]
    digest = hashlib.sha256("/".join(shape).encode()).hexdigest()[:16]
    name = f"{teardown.TEMPLATE_PREFIX}{digest}"
    found = Template(
        name,
        domain,
        None if manifest is None else manifest.baseline_id,
        fingerprint,
        decided_at,
        newest,
        False,
    )
    with teardown.lock(conn, name, wait=True):
        used = conn.execute(
            "UPDATE atdm.clone SET used_at = clock_timestamp()"
            " WHERE database_name = %s AND kind = 'template' AND status = 'ready' AND EXISTS"
            " (SELECT FROM pg_catalog.pg_database AS d WHERE d.datname = database_name)",
            (name,),
        )
        if used.rowcount:
            return found
        with _given_up_on_error(conn, name):
            _made_anew(conn, found)
            _fill(conn, server_url, name, materials, domain, manifest, actor)
            conn.execute(
                sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(
                    sql.Identifier(name)
                )
            )
            conn.execute(
                "UPDATE atdm.clone SET status = 'ready', used_at = clock_timestamp()"
                " WHERE database_name = %s",
                (name,),
            )
    return replace(found, made=True)


@contextmanager
def copied(
    conn: psycopg.Connection[Any],
    server_url: str,
    template: Template,
    database: str,
) -> Iterator[None]:
    """A copy of a template under a new name of ATDM's, complete and marked.

    The block says in its row what becomes of it. It is gone again when the block fails.

    Raises:
        AtdmError: CLONE_FAILED; what the block raises.
    """
    with teardown.lock(conn, database) as held:
        if not held:
            raise taken(database)
        register(conn, template, database)
        with _given_up_on_error(conn, database):
            create(conn, database, template.database)
            make_it_its_own(sibling(server_url, database))
            yield


def _made_anew(conn: psycopg.Connection[Any], template: Template) -> None:
    """An empty, registered database for a template, in place of what a dead process left of it.

    A server goes on making a database for a process that was killed, so it may appear between
    looking and making: then that one is dropped, and it is tried again.
    """
    for remaining in reversed(range(_TRIES)):
        _forget(conn, template.database)
        register(conn, template, template.database, kind="template")
        try:
            create(conn, template.database)
        except AtdmError as error:
            _forget(conn, template.database)
            if error.code is not ErrorCode.REQUEST_CONFLICT or not remaining:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def new_name() -> str:
    """A name for a clone that nobody has named."""
    return f"{teardown.CLONE_PREFIX}{secrets.token_hex(6)}"


def register(
    conn: psycopg.Connection[Any],
    template: Template,
    database: str,
    *,
    kind: str = "clone",
    owner: str | None = None,
) -> None:
    """Note that a database is being made, before it is. Raises REQUEST_CONFLICT."""
    conn.execute(
        "DELETE FROM atdm.clone WHERE database_name = %s AND status = 'dropped'", (database,)
    )
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
    if done.rowcount == 0:
        raise taken(database)


def create(conn: psycopg.Connection[Any], database: str, template: str | None = None) -> None:
    """Make a database, a copy of ``template`` when one is named, with a comment that claims it.

    Raises:
        AtdmError: REQUEST_CONFLICT; CLONE_FAILED without the right to make databases, or when the
            server cannot.
    """
    statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database))
    if template is not None:
        statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    try:
        conn.execute(statement)
        conn.execute(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                sql.Identifier(database), sql.Literal(teardown.comment_of(conn))
            )
        )
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation) as error:
        # It is somebody else's: its row goes, and not the database.
        _forget_row(conn, database)
        raise taken(database) from error
    except psycopg.Error as error:
        raise may_not(conn, error) from error


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
    database = f"{teardown.SCRATCH_PREFIX}{secrets.token_hex(6)}"
    manifest = read_manifest(store, domain, baseline_id)
    materials = Materials(store, lambda: registry)
    with connect(url) as conn:
        ensure_disposable(conn)
        with teardown.lock(conn, database):
            row = conn.execute("SELECT clock_timestamp(), atdm.bundle_fingerprint()").fetchone()
            assert row is not None
            as_if = Template(database, domain, baseline_id, row[1], row[0], False, True)
            register(conn, as_if, database, owner=actor.invoker)
            try:
                create(conn, database)
                _fill(conn, url, database, materials, domain, manifest, actor)
                scratch = sibling(url, database)
                hashes = [diff.state_hash(scratch, manifest)]
                restore(scratch, store, domain, baseline_id, actor=actor)
                hashes.append(diff.state_hash(scratch, manifest))
            finally:
                _forget(conn, database)
    return hashes


def _manifest(store: Store, domain: str, baseline: str | None) -> Manifest | None:
    if baseline == EMPTY:
        return None
    if baseline in (None, LATEST):
        return latest(store, domain)
    return read_manifest(store, domain, baseline)


def _fill(
    conn: psycopg.Connection[Any],
    server_url: str,
    database: str,
    materials: Materials,
    domain: str,
    manifest: Manifest | None,
    actor: Actor,
) -> None:
    """Catalog, tables and rows of a new database; its statistics are those of its rows."""
    made = sibling(server_url, database)
    registry = materials.registry()
    if manifest is not None and schema_copy.foreign_tables(registry, manifest):
        schema_copy.copy_structure(conn, server_url, made, manifest, registry)
        with connect(made) as fresh:
            initialise(fresh, registry, disposable=database)
    else:
        with connect(made) as fresh:
            initialise(fresh, registry)
    if manifest is not None:
        restore(made, materials.store, domain, manifest.baseline_id, actor=actor)
    with connect(made) as fresh:
        fresh.execute("ANALYZE")


@contextmanager
def _given_up_on_error(conn: psycopg.Connection[Any], database: str) -> Iterator[None]:
    """Leave nothing of a database whose making fails; what cannot be dropped, a sweep drops."""
    try:
        yield
    except BaseException as error:
        if not _is_registered(conn, database):
            raise
        try:
            _forget(conn, database)
        except (AtdmError, psycopg.Error) as problem:
            error.add_note(f"database {database} is left for the next sweep: {problem}")
        raise


def _is_registered(conn: psycopg.Connection[Any], database: str) -> bool:
    """Whether a database is known as one that ATDM makes, and not as somebody else's."""
    if conn.closed or conn.broken:
        return False
    row = conn.execute("SELECT FROM atdm.clone WHERE database_name = %s", (database,))
    return row.fetchone() is not None


def _forget(conn: psycopg.Connection[Any], database: str) -> None:
    teardown.end_making(conn, database)
    conn.execute(
        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
    )
    _forget_row(conn, database)


def _forget_row(conn: psycopg.Connection[Any], database: str) -> None:
    conn.execute("DELETE FROM atdm.clone WHERE database_name = %s", (database,))


def lost(database: str) -> AtdmError:
    """The error when a sweep took a database for what a dead process left."""
    return AtdmError(
        ErrorCode.CLONE_FAILED,
        f"database {database} was taken for abandoned while it was made; try again",
        {"database": database},
    )
