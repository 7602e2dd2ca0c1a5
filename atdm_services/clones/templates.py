"""Templates: one database a baseline, made once and copied for each clone.

A template holds catalog, tables, rows and the mark of a target, and takes no connections, so that
PostgreSQL can copy it at any time. A clone is a copy with a mark of its own, in which leases and
resets work as in the target. A clone is always a new database, never the target.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import psycopg

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import clones
from atdm_resources.catalog.clones import EMPTY, LATEST, CloneRequest, Source, Template
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres import databases
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.target import current_database, ensure_disposable
from atdm_resources.settings import Settings
from atdm_resources.store.bundle import load_registry
from atdm_resources.store.files import Store
from atdm_services.baselines import diff
from atdm_services.baselines.listing import latest
from atdm_services.baselines.manifest import Manifest, read_manifest
from atdm_services.baselines.restore import restore
from atdm_services.clones import creation, schema_copy, teardown
from atdm_services.clones.creation import CloneLease, sibling
from atdm_services.target.init import initialise

_ATTEMPTS: Final = 2
_CREATION_ATTEMPTS: Final = 20
_PAUSE_SECONDS: Final = 0.25
_NO_SUCH_DATABASE: Final = "3D000"


@dataclass(frozen=True, slots=True)
class Materials:
    """The inputs of templates. ``registry`` is called only when a template has to be made."""

    store: Store
    registry: Callable[[], Registry]

    @classmethod
    def of(cls, settings: Settings | None = None) -> Materials:
        """The inputs that the settings name; None: the settings of the environment."""
        known = settings or Settings.from_environment()
        return cls(Store(known.store_url, s3=known.s3), cache(lambda: load_registry(known)))


def leased_copy(
    conn: psycopg.Connection[Any],
    server_url: str,
    request: CloneRequest,
    settings: Settings | None = None,
) -> CloneLease:
    """Make a clone for a request that the pool could not meet; see ``lease.lease_clone``."""
    materials = Materials.of(settings)
    actor = Actor(request.invoker, request.source, "clone")
    for attempts_left in reversed(range(_ATTEMPTS)):
        template = ready_template(
            conn, server_url, materials, request.domain, request.baseline, actor=actor
        )
        source: Source = "cold" if template.made else "template"
        database = creation.new_name()
        try:
            with creation.new_copy(conn, server_url, template, database):
                return creation.lease_made(conn, server_url, request, database, source)
        except AtdmError as error:
            # A sweep or the deletion of the baseline may drop the template before it is copied.
            if not (attempts_left and error.details.get("sqlstate") == _NO_SUCH_DATABASE):
                raise
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
    """The template of a baseline (None: the newest; ``empty``: none), made if it does not exist.

    Processes that need it at the same time make it once. A template from an earlier bundle or
    catalog of the target is not used.

    Raises:
        AtdmError: BASELINE_NOT_FOUND, BASELINE_INVALID, TARGET_DRIFT, STORE_FAILED, SPEC_INVALID,
            CLONE_FAILED.
    """
    ensure_disposable(conn)
    decided_at, fingerprint = clones.moment_and_fingerprint(conn)
    manifest = _manifest(materials.store, domain, baseline)
    origin = [current_database(conn), domain, fingerprint]
    if manifest is not None:
        origin += [manifest.baseline_id, manifest.content_hash]
    digest = hashlib.sha256("/".join(origin).encode()).hexdigest()[:16]
    template = Template(
        f"{clones.TEMPLATE_PREFIX}{digest}",
        domain,
        None if manifest is None else manifest.baseline_id,
        fingerprint,
        decided_at,
        latest=baseline in (None, LATEST),
    )
    database = template.database
    with teardown.lock(conn, database, wait=True):
        if clones.use_template(conn, database):
            return template
        with creation.dropped_on_error(conn, database):
            _create(conn, template)
            _fill(conn, server_url, database, materials, domain, manifest, actor)
            databases.close(conn, database)
            clones.set_template_ready(conn, database)
    return replace(template, made=True)


def _create(conn: psycopg.Connection[Any], template: Template) -> None:
    """An empty, registered database for a template; replaces what a dead process left of it.

    A server goes on making a database for a process that was killed, so one may appear at any
    moment: then it is dropped, and the creation is tried again.
    """
    for attempts_left in reversed(range(_CREATION_ATTEMPTS)):
        creation.discard(conn, template.database)
        creation.register(conn, template.database, template, kind="template")
        try:
            creation.create(conn, template.database)
        except AtdmError as error:
            creation.discard(conn, template.database)
            if error.code is not ErrorCode.REQUEST_CONFLICT or not attempts_left:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


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
    database = f"{clones.SCRATCH_PREFIX}{secrets.token_hex(6)}"
    scratch = sibling(url, database)
    manifest = read_manifest(store, domain, baseline_id)
    materials = Materials(store, lambda: registry)
    with connect(url) as conn:
        ensure_disposable(conn)
        with teardown.lock(conn, database):
            decided_at, fingerprint = clones.moment_and_fingerprint(conn)
            origin = Template(database, domain, baseline_id, fingerprint, decided_at)
            creation.register(conn, database, origin, owner=actor.invoker)
            try:
                creation.create(conn, database)
                _fill(conn, url, database, materials, domain, manifest, actor)
                hashes = [diff.state_hash(scratch, manifest)]
                restore(scratch, store, domain, baseline_id, actor=actor)
                hashes.append(diff.state_hash(scratch, manifest))
            finally:
                creation.discard(conn, database)
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
    """Make catalog, tables and rows of a new database, and collect its statistics."""
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
        databases.analyze(fresh)
