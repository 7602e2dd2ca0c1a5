"""Expiry: the sensor that reclaims overdue leases and removes what ended requests leave."""

# No postponed annotations here: Dagster reads those of resources as classes.

from datetime import timedelta
from typing import Any

import dagster as dg
import psycopg

from atdm_assets import names
from atdm_assets.instance import run_liveness, ticks
from atdm_assets.requests.failures import report_failed
from atdm_assets.resources import StoreResource
from atdm_resources.catalog import reclaim, retirement
from atdm_resources.store.files import Store
from atdm_services.clones import teardown
from atdm_services.requests.rollback import roll_back_orphans
from atdm_services.retention import Retention

INVOKER = "agent:atdm-expiry"
SOURCE = "expiry"
EXPIRED_A_TICK = 5_000
REQUESTS_A_TICK = 500
THOROUGH_EVERY = timedelta(minutes=5)
"""Work that has days of time runs less often than the search for overdue leases."""


def expiry_sensor() -> dg.SensorDefinition:
    """The sensor ``expiry_sensor``."""

    def body(
        context: dg.SensorEvaluationContext, conn: psycopg.Connection[Any], store: StoreResource
    ) -> ticks.Ticked:
        retention = Retention.from_environment()
        with ticks.periodic(context, THOROUGH_EVERY) as thorough:
            return dg.SkipReason(tick(context.instance, conn, store.store(), retention, thorough))

    return ticks.target_sensor(
        "expiry_sensor",
        body,
        "Takes back leases past their time and runs that nobody came for, rolls back requests "
        "whose process is gone, drops clones past their time, retires requests whose runs are gone "
        "and removes their partition keys.",
    )


def tick(
    instance: dg.DagsterInstance,
    conn: psycopg.Connection[Any],
    store: Store,
    retention: Retention,
    thorough: bool,
) -> str:
    """One tick; returns a summary. ``thorough`` includes the work that has days of time."""
    expired = reclaim.Reclaimed()
    while len(expired.runs) < EXPIRED_A_TICK:
        part = reclaim.expire_due(conn, invoker=INVOKER, source=SOURCE)
        expired += part
        if len(part.runs) < reclaim.MOST:
            break
    dead = roll_back_orphans(conn, store)
    report_failed(instance, dead)
    databases = teardown.sweep(conn, thorough=thorough)
    done = {
        "leases expired": len(expired.runs),
        "leases that could not be taken back": len(expired.failed),
        "dead requests rolled back": len(dead),
        "clones dropped": len(databases),
    }
    if thorough:
        done["runs whose process is gone"] = len(run_liveness.report_dead_runs(instance, conn))
        unclaimed = reclaim.reset_unclaimed(
            conn, retention.ready, EXPIRED_A_TICK, invoker=INVOKER, source=SOURCE
        )
        done["runs that nobody came for"] = len(unclaimed.runs)
        done["requests retired"] = len(retirement.retire(conn, retention.retired, REQUESTS_A_TICK))
        done["partition keys removed"] = remove_keys(instance, conn, store, retention)
    told = [f"{count} {what}" for what, count in done.items() if count]
    return ", ".join(told) or "nothing is overdue"


def remove_keys(
    instance: dg.DagsterInstance,
    conn: psycopg.Connection[Any],
    store: Store,
    retention: Retention,
) -> int:
    """Remove partition keys and files of ended requests; returns the number of requests."""
    over = retirement.over_requests(conn, retention.failed, REQUESTS_A_TICK)
    for request in over:
        partitions = names.partitions_name(request.domain, request.scenario_id)
        if instance.has_dynamic_partition(partitions, request.label):
            instance.delete_dynamic_partition(partitions, request.label)
    if over:
        retirement.forget(conn, store, over)
    return len(over)
