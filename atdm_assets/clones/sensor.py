"""Pools of clones: the sensor that watches them and the job that fills them.

Making a template may take minutes, and a tick may not: it drops a few databases and launches runs.
"""

# No postponed annotations here: Dagster reads those of configs and resources as classes.

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
from pydantic import Field

from atdm_assets import metadata, names
from atdm_assets.instance import ticks
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_resources.catalog.events import Actor
from atdm_resources.store.files import Store
from atdm_services.clones import pool

INVOKER = "agent:atdm-pool"
SOURCE = "pool"
POOL_TAG = "atdm/clone_pool"
LOOKED_EVERY = timedelta(minutes=5)
"""How often the sensor reads the store, for baselines that other targets have published."""
BACKOFF = timedelta(minutes=1)
LONGEST_BACKOFF = timedelta(hours=1)
_REMEMBERED = 8


class FillConfig(dg.Config):
    """Which pool is filled."""

    domain: str | None = Field(None, description="Default: every pool of atdm.yaml.")


def fill_clone_pool_job(registry: Registry) -> dg.JobDefinition:
    """The job ``fill_clone_pool``."""

    @dg.op(name=names.FILL_CLONES_STEP, out=dg.Out(dg.Nothing))
    def fill_rows(
        context: dg.OpExecutionContext,
        config: FillConfig,
        target: TargetResource,
        store: StoreResource,
    ) -> None:
        actor = Actor(context.run.tags.get(names.INVOKER_TAG, INVOKER), SOURCE)
        with metadata.reported_failures(), target.connection() as conn:
            for domain in pool.pooled_domains(registry, config.domain):
                filled = pool.fill(conn, target.url(), store.store(), registry, domain, actor=actor)
                context.log.info(
                    f"Pool of {filled.domain}: {filled.made} made, {filled.dropped} dropped, "
                    f"{filled.ready} ready{', another process fills it' if filled.busy else ''}."
                )

    @dg.job(
        name=names.FILL_CLONES_JOB,
        description="Fill the pools of ready clones that atdm.yaml asks for.",
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        fill_rows()

    return job


def clone_pool_sensor(registry: Registry, job: dg.JobDefinition) -> dg.SensorDefinition:
    """The sensor ``clone_pool_sensor``."""

    def body(
        context: dg.SensorEvaluationContext, conn: psycopg.Connection[Any], store: StoreResource
    ) -> ticks.Ticked:
        with ticks.periodic(context, LOOKED_EVERY) as look:
            return tick(context.instance, conn, store.store() if look else None, registry)

    return ticks.target_sensor(
        "clone_pool_sensor",
        body,
        "Keeps the pools of clones in atdm.yaml between half full and full, one filling a pool at "
        "a time; drops ready clones that are out of date.",
        job=job,
    )


def tick(
    instance: dg.DagsterInstance,
    conn: psycopg.Connection[Any],
    store: Store | None,
    registry: Registry,
) -> ticks.Ticked:
    """Drop outdated clones, then launch a run for each pool below half that is not being filled.

    ``store`` None: the store is not read for baselines of other targets.
    """
    pools = registry.clones
    newest: Mapping[str, str | None] = {}
    problems: list[str] = []
    if store is not None:
        newest, problems = pool.newest_baselines(store, pools)
    dropped = pool.drain(conn, pools, newest)
    runs = []
    if pools:
        for state in pool.states(conn, pools):
            if not state.low or state.filling:
                continue
            waiting = _reason_to_wait(instance, state.domain)
            if waiting is None:
                runs.append(_run(state))
            else:
                problems.append(f"{state.domain}: {waiting}")
    if runs:
        return dg.SensorResult(run_requests=runs)
    if problems:
        return dg.SkipReason("; ".join(problems))
    if dropped:
        return dg.SkipReason(f"{dropped} clones that were out of date were dropped")
    if not pools:
        return dg.SkipReason("atdm.yaml asks for no pool of clones")
    return dg.SkipReason("every pool of clones is at least half full, or is being filled")


def _run(state: pool.PoolState) -> dg.RunRequest:
    return dg.RunRequest(
        run_config={"ops": {names.FILL_CLONES_STEP: {"config": {"domain": state.domain}}}},
        tags={POOL_TAG: state.domain, **names.caller_tags(INVOKER, SOURCE)},
    )


def _reason_to_wait(instance: dg.DagsterInstance, domain: str) -> str | None:
    """Why a pool is not filled now: a run is launched, or runs have failed lately."""
    records = instance.get_run_records(
        dg.RunsFilter(job_name=names.FILL_CLONES_JOB, tags={POOL_TAG: domain}), limit=_REMEMBERED
    )
    failures = 0
    for record in records:
        if not record.dagster_run.is_finished:
            # A run whose process died stays so until Dagster ends it; the pool's lock is free then.
            age = datetime.now(UTC) - record.create_timestamp
            if age.total_seconds() < ticks.RELAUNCH_SECONDS:
                return "its filling is launched"
            continue
        if record.dagster_run.status is dg.DagsterRunStatus.SUCCESS:
            break
        failures += 1
    if not failures:
        return None
    ended = max(record.end_time or 0.0 for record in records)
    wait = min(BACKOFF * 2 ** (failures - 1), LONGEST_BACKOFF)
    until = datetime.fromtimestamp(ended, UTC) + wait
    if datetime.now(UTC) < until:
        return f"filling failed {failures} times, the next attempt is at {until:%H:%M:%S} UTC"
    return None
