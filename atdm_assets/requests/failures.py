"""When a Dagster run fails or is cancelled: its request is rolled back, whoever waits is told."""

# No postponed annotations here: Dagster reads those of resources as classes.

from typing import Any

import dagster as dg
import psycopg

from atdm_assets import names
from atdm_assets.instance import ticks
from atdm_assets.requests.job import error_in_events, report_failed
from atdm_assets.requests.launches import forget_key
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import pools, requests
from atdm_resources.catalog import queue as queueing
from atdm_resources.store.files import Store
from atdm_services.requests import orphans

SECONDS = 15


def failure_sensors() -> list[dg.SensorDefinition]:
    """``request_failed_sensor`` and ``request_cancelled_sensor``: CANCELED is a status of its own.

    They watch every code location, because runs that a process executed itself belong to none.
    """
    options: dict[str, Any] = {
        "minimum_interval_seconds": ticks.interval(SECONDS),
        "default_status": dg.DefaultSensorStatus.RUNNING,
        "monitor_all_code_locations": True,
    }

    @dg.run_failure_sensor(
        name="request_failed_sensor",
        description="Rolls back the request of a run that failed, with the reason.",
        **options,
    )
    def failed(
        context: dg.RunFailureSensorContext, target: TargetResource, store: StoreResource
    ) -> ticks.Ticked:
        events = [*context.get_step_failure_events(), context.failure_event]
        error = error_in_events(events, context.dagster_run.run_id)
        return ticks.on_target(
            target,
            lambda conn: tick(context.instance, conn, store.store(), context.dagster_run, error),
        )

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.CANCELED,
        name="request_cancelled_sensor",
        description="Rolls back the request of a run that was cancelled.",
        **options,
    )
    def cancelled(
        context: dg.RunStatusSensorContext, target: TargetResource, store: StoreResource
    ) -> ticks.Ticked:
        run = context.dagster_run
        error = AtdmError(
            ErrorCode.SEED_FAILED, "its run was cancelled", {"dagster_run_id": run.run_id}
        )
        return ticks.on_target(
            target, lambda conn: tick(context.instance, conn, store.store(), run, error)
        )

    return [failed, cancelled]


def tick(
    instance: dg.DagsterInstance,
    conn: psycopg.Connection[Any],
    store: Store,
    run: dg.DagsterRun,
    error: AtdmError,
) -> ticks.Ticked:
    """Clear up after one run that ended badly, and after those that it ran in its own process.

    Does nothing for what is cleared up already. A process that is still at it keeps its request;
    the expiry sensor finds it once it is gone.
    """
    inner = instance.get_runs(filters=dg.RunsFilter(tags={names.PARENT_TAG: run.run_id}))
    dead = orphans.reconcile(
        conn,
        store,
        dagster_run_ids=[run.run_id, *(child.run_id for child in inner)],
        reason=error.message,
    )
    report_failed(instance, dead)
    launched = run.tags.get(names.LAUNCH_TAG)
    told = 0
    if launched is not None:
        told = sum(queueing.settle_failed(conn, launched, error.envelope()["error"]))
        pools.release(conn, launched)
        if not requests.is_recorded(conn, launched):
            domain, _, scenario = run.job_name.partition("__")
            forget_key(instance, domain, scenario, [launched])
    return dg.SkipReason(f"{len(dead)} requests rolled back, {told} submissions told")
