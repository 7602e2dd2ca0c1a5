"""Pools: the sensor that keeps them between half full and full, and drains stale runs."""

# No postponed annotations here: Dagster reads those of resources as classes.

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg
import psycopg

from atdm_assets.instance import ticks
from atdm_assets.requests.launches import Launches, forget_key
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError
from atdm_resources.catalog import pools, reclaim
from atdm_services.requests.request import DataRequest, mint_request_id

INVOKER = "agent:atdm-pool"
SOURCE = "pool"
DRAINED_A_TICK = 2_000


def pool_sensor(registry: Registry, jobs: Sequence[Any]) -> dg.SensorDefinition:
    """The sensor ``pool_sensor``; ``jobs`` are the scenarios' own."""
    return ticks.target_sensor(
        "pool_sensor",
        lambda context, conn, _: tick(context.instance, conn, registry),
        "Keeps scenarios with a pool between half full and full: one request a top-up, one top-up "
        "a scenario at a time. Takes back runs of an old version or past max_age.",
        jobs=jobs,
    )


def tick(
    instance: dg.DagsterInstance, conn: psycopg.Connection[Any], registry: Registry
) -> ticks.Ticked:
    """Drain stale runs, then launch a request for each pool below half that no request fills."""
    drained = reclaim.Reclaimed()
    stale = pools.stale_runs(conn, DRAINED_A_TICK)
    if stale:
        drained = reclaim.reclaim_runs(
            conn, stale, strategy="pool_drain", invoker=INVOKER, source=SOURCE
        )
    launches = Launches()
    problems: list[str] = []
    for lost in pools.unrecorded(conn):
        if lost.age.total_seconds() < ticks.RELAUNCH_SECONDS:
            continue
        run = ticks.run_of_launch(instance, lost.request_id, recorded=False)
        if run is None:
            problems += _launch(instance, conn, registry, launches, lost)
        elif run.is_finished:
            forget_key(instance, lost.domain, lost.scenario_id, [lost.request_id])
            pools.release(conn, lost.request_id)
    for pool in pools.pools(conn):
        request_id = mint_request_id()
        if pool.low and pools.claim(conn, pool, request_id):
            missing = pool.size - pool.ready
            problems += _launch(
                instance,
                conn,
                registry,
                launches,
                pools.TopUp(pool.domain, pool.scenario_id, request_id, missing, timedelta(0)),
            )
    if launches.runs:
        return launches.result()
    if problems:
        return dg.SkipReason("; ".join(problems))
    if drained.runs:
        return dg.SkipReason(f"{len(drained.runs)} stale runs were reset")
    return dg.SkipReason("every pool is at least half full, or is being filled")


def _launch(
    instance: dg.DagsterInstance,
    conn: psycopg.Connection[Any],
    registry: Registry,
    launches: Launches,
    top_up: pools.TopUp,
) -> list[str]:
    """Launch the filling of a pool; returns the obstacle, or None."""
    try:
        request = DataRequest(
            f"{top_up.domain}/{top_up.scenario_id}",
            runs=top_up.runs,
            pooled=True,
            invoker=INVOKER,
            source=SOURCE,
            reason="to fill the pool",
        )
        launches.add(registry, request, top_up.request_id)
    except AtdmError as error:
        # Files and published scenarios differ until the next init: the pool waits, longer each
        # time.
        forget_key(instance, top_up.domain, top_up.scenario_id, [top_up.request_id])
        pools.release(conn, top_up.request_id)
        return [f"{top_up.domain}/{top_up.scenario_id}: {error.message}"]
    return []
