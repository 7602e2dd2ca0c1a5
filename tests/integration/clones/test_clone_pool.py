"""Pools of clones: filled by one at a time, leased in one statement, drained when out of date."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest

from atdm_assets import names
from atdm_assets.clones import sensor as watching
from atdm_assets.leases import expiry
from atdm_engine.bundle.registry import Registry
from atdm_engine.spec.domain import ClonePool
from atdm_resources.catalog.clones import pool_lock
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import Settings
from atdm_resources.store.files import Store
from atdm_services.baselines.capture import capture
from atdm_services.clones import pool as clone_pool
from atdm_services.clones import templates
from atdm_services.clones.creation import CloneLease
from atdm_services.clones.lease import lease_clone
from atdm_services.retention import Retention
from tests.support.clone_world import databases, dropped_after
from tests.support.dagster_world import QUIET, World

pytest_plugins = ["tests.support.dagster_fixtures"]

ACTOR = Actor("human:tester", "test")
DOMAIN = "healthcare"
Conn = psycopg.Connection[Any]


@pytest.fixture
def conn(world: World) -> Iterator[Conn]:
    with connect(world.target_url) as connection:
        yield connection
        dropped_after(connection)


@pytest.fixture
def store(world: World) -> Store:
    return Store(world.store.as_uri())


@pytest.fixture
def settings(world: World) -> Settings:
    environ = {"ATDM_HOME": str(world.store.parent), "ATDM_STORE_URL": world.store.as_uri()}
    return Settings.from_environment(environ)


def pooled(world: World, ready: int, baseline: str = "latest", max_age: str = "1d") -> Registry:
    pool = ClonePool(ready=ready, baseline=baseline, max_age=max_age)
    return replace(world.registry, clones={DOMAIN: pool})


def fill(conn: Conn, world: World, store: Store, registry: Registry) -> clone_pool.Filled:
    return clone_pool.fill(conn, world.target_url, store, registry, DOMAIN, actor=ACTOR)


def state(conn: Conn, registry: Registry) -> clone_pool.PoolState:
    (found,) = clone_pool.states(conn, registry.clones)
    return found


def test_a_pool_is_filled_leased_from_and_drained(
    conn: Conn, world: World, store: Store, settings: Settings
) -> None:
    registry = pooled(world, 2)
    assert (state(conn, registry).ready, state(conn, registry).low) == (0, True)
    assert fill(conn, world, store, registry) == clone_pool.Filled(DOMAIN, 2, 0, 2)
    assert fill(conn, world, store, registry).made == 0

    def lease(**asked: Any) -> CloneLease:
        options = {"owner": "me", "settings": settings, **asked}
        return lease_clone(conn, world.target_url, **options)

    named = lease(database=f"{conn.info.dbname}_mine")
    assert (named.source, named.database) == ("pool", f"{conn.info.dbname}_mine")
    with connect(named.url) as own:
        marked = own.execute("SELECT database_name FROM atdm.target").fetchone()
        assert marked == (named.database,)
    assert (state(conn, registry).ready, state(conn, registry).low) == (1, False)

    # A baseline that has come since makes another one the newest: not one that is out of date is
    # handed out, whether or not anybody has drained the pool.
    capture(world.target_url, store, DOMAIN, "newer", actor=ACTOR)
    assert state(conn, registry).ready == 0
    assert lease().source == "cold"
    assert fill(conn, world, store, registry) == clone_pool.Filled(DOMAIN, 2, 1, 2)
    assert lease(baseline="newer").source == "pool"

    smaller = pooled(world, 1)
    conn.execute("UPDATE atdm.clone SET fresh_until = now() WHERE status = 'ready'")
    assert fill(conn, world, store, smaller) == clone_pool.Filled(DOMAIN, 1, 1, 1)
    # A pool that atdm.yaml has no more is emptied.
    assert clone_pool.drain(conn, {}, {}) == 1
    assert not clone_pool.drain(conn, {}, {})


def test_two_who_fill_at_once_and_many_who_lease(
    conn: Conn, world: World, store: Store, settings: Settings
) -> None:
    registry = pooled(world, 3, baseline="empty")
    together = threading.Barrier(2)

    def filler(_: int) -> clone_pool.Filled:
        with connect(world.target_url) as own:
            together.wait()
            return fill(own, world, store, registry)

    def lease(number: int) -> CloneLease:
        with connect(world.target_url) as own:
            return lease_clone(
                own, world.target_url, baseline="empty", owner=f"o{number}", settings=settings
            )

    with ThreadPoolExecutor(4) as threads:
        filled = list(threads.map(filler, range(2)))
        assert sorted(one.busy for one in filled) in ([False, False], [False, True])
        assert sum(one.made for one in filled) == 3
        leased = list(threads.map(lease, range(4)))
    assert len({one.database for one in leased}) == 4
    assert sorted(one.source for one in leased) == ["pool", "pool", "pool", "template"]
    assert len(databases(conn)) == 5


def requests(ticked: dg.SensorResult | dg.SkipReason) -> list[dg.RunRequest]:
    return list(ticked.run_requests or []) if isinstance(ticked, dg.SensorResult) else []


def test_the_sensor_launches_one_filling_at_a_time_and_waits_after_failures(
    conn: Conn, world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = pooled(world, 1, baseline="empty")
    world = replace(world, registry=registry)

    def tick() -> dg.SensorResult | dg.SkipReason:
        return watching.tick(world.instance, conn, store, registry)

    (asked,) = requests(tick())
    assert asked.tags[watching.POOL_TAG] == DOMAIN
    job = world.defs.resolve_job_def(names.FILL_CLONES_JOB)

    def run() -> dg.ExecuteInProcessResult:
        config = {**asked.run_config, "loggers": QUIET}
        return job.execute_in_process(
            instance=world.instance, run_config=config, tags=asked.tags, raise_on_error=False
        )

    def refuses(*arguments: Any, **options: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(templates, "ready_template", refuses)
        assert not run().success
    waiting = tick()
    assert requests(waiting) == []
    assert isinstance(waiting, dg.SkipReason)
    assert "filling failed 1 times" in str(waiting.skip_message)
    monkeypatch.setattr(watching, "BACKOFF", timedelta(0))
    assert len(requests(tick())) == 1
    with (
        connect(world.target_url) as other,
        clone_pool.teardown.lock(other, pool_lock(DOMAIN)),
    ):
        assert requests(tick()) == []
    assert run().success
    assert state(conn, registry).ready == 1
    assert requests(tick()) == []
    launched = world.instance.create_run_for_job(job, tags=asked.tags)
    conn.execute("UPDATE atdm.clone SET fresh_until = now()")
    assert requests(tick()) == [], "one is launched already"
    assert launched.run_id
    assert databases(conn) != set()


def test_the_expiry_sensor_drops_clones_past_their_time(
    conn: Conn, world: World, store: Store, settings: Settings
) -> None:
    made = lease_clone(conn, world.target_url, baseline="empty", owner="gone", settings=settings)

    def tick() -> str:
        return expiry.tick(world.instance, conn, store, Retention(), thorough=False)

    assert "clones" not in tick()
    past = datetime.now(UTC) - timedelta(seconds=1)
    conn.execute("UPDATE atdm.clone SET expires_at = %s WHERE kind = 'clone'", (past,))
    assert "1 clones dropped" in tick()
    assert made.database not in databases(conn)
