"""Pools of clones: how many are missing, which are out of date, and filling them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError
from atdm_engine.spec.domain import ClonePool
from atdm_engine.values.times import duration
from atdm_resources.store.files import Store
from atdm_services.baselines.listing import latest
from atdm_services.baselines.records import Actor
from atdm_services.clones import teardown, templates
from atdm_services.clones.lease import EMPTY, FRESH, LATEST

DRAINED: Final = 20
"""Databases that one tick drops at most."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool as the catalog sees it. ``filling``: somebody is at it right now."""

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
    """What filling a pool did. ``busy``: nothing, somebody else was at it."""

    domain: str
    made: int
    dropped: int
    ready: int
    busy: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def states(conn: psycopg.Connection[Any], pools: Mapping[str, ClonePool]) -> list[PoolState]:
    """Every pool that is wished for, in one query."""
    rows = conn.execute(
        _COUNTS.encode(),
        {
            "domains": list(pools),
            "baselines": [pool.baseline for pool in pools.values()],
        },
    ).fetchall()
    return [
        PoolState(domain, pools[domain].ready, ready, filling) for domain, ready, filling in rows
    ]


def drain(
    conn: psycopg.Connection[Any],
    pools: Mapping[str, ClonePool],
    newest: Mapping[str, str | None],
    most: int = DRAINED,
) -> int:
    """Drop ready clones that nobody may lease any more; how many went.

    Of an earlier bundle or catalog, of a baseline that is not wished for (any more) or not the
    newest one, too old, too many.

    Args:
        newest: by domain, the newest baseline of the store; domains not in it are not judged by it.
    """
    found = conn.execute(
        _STALE.encode(),
        {
            "domains": list(pools),
            "baselines": [pool.baseline for pool in pools.values()],
            "sizes": [pool.ready for pool in pools.values()],
            "seen": list(newest),
            "newest": list(newest.values()),
            "most": most,
        },
    ).fetchall()
    return sum(
        teardown.drop_ready(conn, database, because="it is out of date") for (database,) in found
    )


def newest_baselines(
    store: Store, pools: Mapping[str, ClonePool]
) -> tuple[dict[str, str | None], list[str]]:
    """The newest baseline of every domain whose pool follows it, and what kept it from being read.

    A store that is down costs the look at what other targets have published, and nothing else.
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
    """Drop what is out of date and make what is missing, one filler a pool at a time.

    Each clone is leasable as soon as it is made. ``conn`` is in autocommit mode.

    Raises:
        AtdmError: those of ``cloning.ready_template`` and ``cloning.copied``.
    """
    pool = registry.clones[domain]
    wished = {domain: pool}
    with teardown.lock(conn, _lock_name(domain)) as held:
        if not held:
            return Filled(domain, 0, 0, states(conn, wished)[0].ready, busy=True)
        teardown.sweep(conn)
        newest, _ = newest_baselines(store, wished)
        dropped = 0
        while count := drain(conn, wished, newest):
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


def fill_all(
    conn: psycopg.Connection[Any],
    server_url: str,
    store: Store,
    registry: Registry,
    domains: Iterable[str],
    *,
    actor: Actor,
) -> list[Filled]:
    """Fill the pools of these domains, one after the other."""
    return [
        fill(conn, server_url, store, registry, domain, actor=actor)
        for domain in domains
        if domain in registry.clones
    ]


def _make_ready(
    conn: psycopg.Connection[Any],
    server_url: str,
    template: templates.Template,
    max_age: timedelta,
) -> None:
    name = templates.new_name()
    with templates.copied(conn, server_url, template, name):
        row = conn.execute(
            "UPDATE atdm.clone SET status = 'ready', source = 'pool', fresh_until = created_at + %s"
            " WHERE database_name = %s AND status = 'making' RETURNING status",
            (max_age, name),
        ).fetchone()
        if row is None:
            raise templates.lost(name)


def _ready(conn: psycopg.Connection[Any], domain: str, pool: ClonePool) -> int:
    """How many clones of a pool can be leased now."""
    return states(conn, {domain: pool})[0].ready


def _lock_name(domain: str) -> str:
    return f"pool of {domain}"


_FITS = f"""
    CASE w.baseline WHEN '{LATEST}' THEN c.latest
                    WHEN '{EMPTY}' THEN c.baseline_id IS NULL AND NOT c.latest
                    ELSE c.baseline_id = w.baseline AND NOT c.latest END
"""
# The lock that whoever fills a pool holds is looked at without taking it.
_COUNTS = f"""
SELECT w.domain,
    (SELECT count(*) FROM atdm.clone AS c
     WHERE c.kind = 'clone' AND c.status = 'ready' AND c.domain = w.domain AND {_FITS} AND {FRESH}),
    EXISTS (
        SELECT FROM pg_catalog.pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.database =
            (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())
          AND (l.classid::bigint << 32 | l.objid::bigint)
            = atdm.request_lock_key('clone pool of ' || w.domain))
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
        w.domain IS NOT NULL AND {_FITS} AND {FRESH}
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
