"""Failed and cancelled Dagster runs: their error, and rolling their request back."""

# No postponed annotations here: Dagster reads those of resources as classes.

from collections.abc import Iterable
from typing import Any

import dagster as dg
import psycopg

from atdm_assets import metadata, names
from atdm_assets.instance import ticks
from atdm_assets.requests.launches import forget_key
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import pools, queue, requests
from atdm_resources.catalog.requests import RequestRef
from atdm_resources.store.files import Store
from atdm_services.requests.rollback import roll_back_orphans

SECONDS = 15


def report_dead_requests(
    instance: dg.DagsterInstance, conn: psycopg.Connection[Any], store: Store
) -> list[str]:
    """Roll back requests whose process is gone and report their Dagster runs as failed.

    Returns:
        The ids of the Dagster runs that were reported.
    """
    return report_failed(instance, roll_back_orphans(conn, store))


def report_failed(instance: dg.DagsterInstance, rolled_back: Iterable[RequestRef]) -> list[str]:
    """Report the unfinished Dagster runs of requests that were rolled back as failed.

    Returns:
        The ids of the Dagster runs that were reported.
    """
    reported = []
    for request in rolled_back:
        run_id = request.dagster_run_id
        run = instance.get_run_by_id(run_id) if run_id else None
        if run is None:
            continue
        # A run of request_data shares its process with the run that it started.
        parent = run.tags.get(names.PARENT_TAG)
        for gone in (run, instance.get_run_by_id(parent) if parent else None):
            if gone is not None and not gone.is_finished:
                instance.report_run_failed(
                    gone, "The process that executed this run is gone; its request was rolled back."
                )
                reported.append(gone.run_id)
    return reported


def first_error(
    result: dg.ExecuteInProcessResult, otherwise: ErrorCode = ErrorCode.SEED_FAILED
) -> AtdmError:
    """Why a run in this process failed."""
    return error_in_events(result.all_events, result.run_id, otherwise)


def error_in_events(
    events: Iterable[dg.DagsterEvent], run_id: str, otherwise: ErrorCode = ErrorCode.SEED_FAILED
) -> AtdmError:
    """Why a run failed: the error with a code that a step reported, else the exception it met."""
    message = "the run failed without saying why"
    for event in events:
        if event.is_step_failure:
            data = event.step_failure_data
            given = data.user_failure_data
            if given is not None:
                values = {name: value.value for name, value in given.metadata.items()}
                error = metadata.error_in(given.description or "", values)
                if error is not None:
                    return error
            if data.error is not None:
                message = data.error.message.strip()
        elif event.is_job_failure:
            # A run that was reported as failed has a message and no exception.
            raised = getattr(event.event_specific_data, "error", None)
            message = (raised.message if raised else event.message or message).strip()
    return AtdmError(otherwise, message, {"dagster_run_id": run_id})


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
    """Roll back the requests of a run that failed, and of the runs that it ran in its own process.

    Answers their submissions and releases their pool. A request that a process still makes is left
    alone: the expiry sensor finds it once that process is gone.
    """
    inner = instance.get_runs(filters=dg.RunsFilter(tags={names.PARENT_TAG: run.run_id}))
    dead = roll_back_orphans(
        conn,
        store,
        dagster_run_ids=[run.run_id, *(child.run_id for child in inner)],
        reason=error.message,
    )
    report_failed(instance, dead)
    launched = run.tags.get(names.LAUNCH_TAG)
    answered = 0
    if launched is not None:
        answered = sum(queue.settle_failed(conn, launched, error.envelope()["error"]))
        pools.release(conn, launched)
        if not requests.is_recorded(conn, launched):
            domain, _, scenario = run.job_name.partition("__")
            forget_key(instance, domain, scenario, [launched])
    return dg.SkipReason(f"{len(dead)} requests rolled back, {answered} submissions answered")
