"""Retention: the job and the schedule that delete what is old enough.

A Dagster run is never deleted: its materialisations and checks belong to the trail.
"""

# No postponed annotations here: Dagster reads those of configs and steps as classes.

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg
import sqlalchemy as db
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from pydantic import Field

from atdm_assets import metadata, names
from atdm_assets.resources import StoreResource, TargetResource
from atdm_resources.catalog.retirement import record_retention
from atdm_resources.postgres.target import ensure_disposable
from atdm_services import retention
from atdm_services.retention import Retention

CRON: Final = "10 3 * * *"
SCHEDULE: Final = "retention_schedule"
_AT_ONCE: Final = 10_000

UNNEEDED: Final = (
    "ENGINE_EVENT",
    "HANDLED_OUTPUT",
    "LOADED_INPUT",
    "LOGS_CAPTURED",
    "RESOURCE_INIT_STARTED",
    "RESOURCE_INIT_SUCCESS",
    "STEP_INPUT",
    "STEP_OUTPUT",
    "STEP_START",
    "STEP_SUCCESS",
    "STEP_WORKER_STARTED",
    "STEP_WORKER_STARTING",
)
"""Kinds of Dagster's events about single steps. Materialisations, observations, checks, failures,
the
beginning and the end of every run stay: the trail refers to them."""


class RetentionConfig(dg.Config):
    """Config of one run of the job."""

    overrides: str = Field(
        "", description="Like ATDM_RETENTION: ready=3d,exports=90d. Left out: that variable."
    )


def retention_job() -> dg.JobDefinition:
    """The job ``retention``."""

    @dg.op(
        name=f"{names.RETENTION_JOB}_deletes",
        description="Delete runs, submissions, files and events that were kept long enough.",
        out=dg.Out(dg.Nothing),
    )
    def delete_old(
        context: dg.OpExecutionContext,
        config: RetentionConfig,
        target: TargetResource,
        store: StoreResource,
    ) -> Iterator[dg.Output[None]]:
        with metadata.reported_failures(), target.connection() as conn:
            ensure_disposable(conn)
            kept = Retention.from_environment(
                {retention.VARIABLE: config.overrides} if config.overrides else None
            )
            now = datetime.now(UTC)
            deleted = retention.delete_old(conn, store.store(), kept, now)
            deleted["dagster_events"] = forget_events(context.instance, now - kept.dagster)
            record_retention(conn, deleted)
        yield dg.Output(None, metadata=dict(deleted))

    @dg.job(
        name=names.RETENTION_JOB,
        description="Delete what has been kept long enough; audit events and requests stay.",
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        delete_old()

    return job


def retention_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """The job every night, UTC."""
    return dg.ScheduleDefinition(
        name=SCHEDULE,
        job=job,
        cron_schedule=CRON,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Deletes every night what has been kept long enough.",
    )


def forget_events(instance: dg.DagsterInstance, before: datetime) -> int:
    """Delete old events of UNNEEDED kinds and old log lines; returns how many. No run is deleted.

    Only where Dagster's storage is a database; other storages keep everything.
    """
    storage: Any = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return 0
    events = SqlEventLogStorageTable
    # Dagster keeps times without a zone, in UTC.
    limit = before.astimezone(UTC).replace(tzinfo=None)
    old = (
        db.select(events.c.id)
        .where(
            events.c.timestamp < limit,
            events.c.asset_key.is_(None),
            db.or_(
                events.c.dagster_event_type.in_(UNNEEDED), events.c.dagster_event_type.is_(None)
            ),
        )
        .limit(_AT_ONCE)
    )
    total = 0
    while True:
        with storage.index_connection() as connection:
            gone = connection.execute(db.delete(events).where(events.c.id.in_(old))).rowcount
        total += gone
        if gone < _AT_ONCE:
            return total
