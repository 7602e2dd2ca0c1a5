"""Pools of clones: how many are missing, which are out of date, and filling them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.spec.domain import ClonePool
from atdm_engine.values.times import duration
from atdm_resources.catalog import clones
from atdm_resources.catalog.clones import LATEST, Template
from atdm_resources.catalog.events import Actor
from atdm_resources.store.files import Store
from atdm_services.baselines.listing import latest
from atdm_services.clones import creation, teardown, templates

DRAINED: Final = 20
"""Databases that one tick drops at most."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool as the catalog has it. ``filling``: a process fills it at the moment."""

    domain: str
    size: int
    ready: int
    filling: bool

    @property
    def low(self) -> bool:
        """Whether it is below half of its size."""
        return self.ready < -(-self.size // 2)


@dataclass(frozen=True, slots=True)
class Filled:
    """What filling a pool did. ``busy``: nothing, because another process is filling it."""

    domain: str
    made: int
    dropped: int
    ready: int
    busy: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def states(conn: psycopg.Connection[Any], pools: Mapping[str, ClonePool]) -> list[PoolState]:
    """The state of every pool, in one query."""
    return [
        PoolState(domain, pools[domain].ready, ready, filling)
        for domain, ready, filling in clones.pool_counts(conn, pools)
    ]


def drain(
    conn: psycopg.Connection[Any],
    pools: Mapping[str, ClonePool],
    newest: Mapping[str, str | None],
    most: int = DRAINED,
) -> int:
    """Drop ready clones that may not be leased any more; returns how many.

    Those of an earlier bundle or catalog, of another baseline than the pool's, too old, too many.

    Args:
        newest: by domain, the newest baseline of the store, where it is known.
        most: databases to drop at most.
    """
    return sum(
        teardown.drop_ready(conn, database, because="it is out of date")
        for database in clones.stale(conn, pools, newest, most)
    )


def newest_baselines(
    store: Store, pools: Mapping[str, ClonePool]
) -> tuple[dict[str, str | None], list[str]]:
    """The newest baseline of each domain whose pool follows it, and why others are not known.

    While the store is down, baselines that other targets have published are not seen.
    """
    newest: dict[str, str | None] = {}
    problems: list[str] = []
    for domain, pool in pools.items():
        if pool.baseline != LATEST:
            continue
        try:
            manifest = latest(store, domain)
        except AtdmError as error:
            problems.append(f"{domain}: {error.message}")
        else:
            newest[domain] = None if manifest is None else manifest.baseline_id
    return newest, problems


def fill(
    conn: psycopg.Connection[Any],
    server_url: str,
    store: Store,
    registry: Registry,
    domain: str,
    *,
    actor: Actor,
) -> Filled:
    """Drop what is out of date and make what is missing; one process fills a pool at a time.

    Each clone is leasable as soon as it is made. ``conn`` is in autocommit mode.

    Raises:
        AtdmError: those of ``templates.ready_template`` and ``creation.new_copy``.
    """
    pool = registry.clones[domain]
    pools = {domain: pool}
    with teardown.lock(conn, clones.pool_lock(domain)) as held:
        if not held:
            return Filled(domain, 0, 0, states(conn, pools)[0].ready, busy=True)
        teardown.sweep(conn)
        newest, _ = newest_baselines(store, pools)
        dropped = 0
        while count := drain(conn, pools, newest):
            dropped += count
        missing = pool.ready - _ready(conn, domain, pool)
        if missing > 0:
            template = templates.ready_template(
                conn,
                server_url,
                templates.Materials(store, lambda: registry),
                domain,
                pool.baseline,
                actor=actor,
            )
            for _ in range(missing):
                _make_ready(conn, server_url, template, duration(pool.max_age))
        return Filled(domain, max(missing, 0), dropped, _ready(conn, domain, pool))


def pooled_domains(registry: Registry, domain: str | None) -> list[str]:
    """``domain`` if ``atdm.yaml`` has a pool of it; None: every domain that has one.

    Raises:
        AtdmError: REQUEST_INVALID, the domain has no pool.
    """
    if domain is None:
        return list(registry.clones)
    if domain not in registry.clones:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"atdm.yaml has no pool of clones of domain {domain!r}",
            {"domain": domain, "known": list(registry.clones)},
        )
    return [domain]


def _make_ready(
    conn: psycopg.Connection[Any],
    server_url: str,
    template: Template,
    max_age: timedelta,
) -> None:
    database = creation.new_name()
    with creation.new_copy(conn, server_url, template, database):
        if not clones.set_clone_ready(conn, database, max_age):
            raise creation.abandoned(database)


def _ready(conn: psycopg.Connection[Any], domain: str, pool: ClonePool) -> int:
    """How many clones of a pool can be leased now."""
    return states(conn, {domain: pool})[0].ready
