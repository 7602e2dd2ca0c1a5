"""What all sensors share: their settings, the target of a tick, and a target that is not ready."""

# No postponed annotations here: Dagster reads those of resources as classes.

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import dagster as dg
import psycopg

from atdm_assets import names
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.target import ensure_disposable

QUICK_SECONDS: Final = 10
"""Interval of sensors that a caller waits for."""

CALM_SECONDS: Final = 30
"""Interval of the other sensors."""

INTERVAL_VARIABLE: Final = "ATDM_SENSOR_SECONDS"
_LONGEST_SECONDS: Final = 3600

RELAUNCH_SECONDS: Final = 90
"""A launch without a recorded request is looked at after this long: its run may have failed, or the
daemon may have ended between deciding and launching."""

GIVEN_UP_SECONDS: Final = 600
"""A run that has not recorded its request after this long is dead, although Dagster shows it as
started: recording is the first thing it does, within a second. The process that watched it was
killed too."""

_NOT_NOW: Final = frozenset({ErrorCode.TARGET_NOT_INITIALISED, ErrorCode.TARGET_NOT_DISPOSABLE})

Ticked = dg.SensorResult | dg.SkipReason
Body = Callable[[dg.SensorEvaluationContext, psycopg.Connection[Any], StoreResource], Ticked]


def target_sensor(
    name: str, body: Body, description: str, *, seconds: int = CALM_SECONDS, **jobs: Any
) -> dg.SensorDefinition:
    """A sensor that runs by default and whose tick is ``body``, with a connection to the target.

    ``seconds`` is the interval, ``jobs`` the argument ``job`` or ``jobs`` of ``dagster.sensor``.
    """

    @dg.sensor(
        name=name,
        minimum_interval_seconds=interval(seconds),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
        **jobs,
    )
    def sensor(
        context: dg.SensorEvaluationContext, target: TargetResource, store: StoreResource
    ) -> Ticked:
        return on_target(target, lambda conn: body(context, conn, store))

    return sensor


@contextmanager
def periodic(context: dg.SensorEvaluationContext, period: timedelta) -> Iterator[bool]:
    """Whether work is due that runs once a ``period``; the cursor is the time of the last one."""
    now = datetime.now(UTC)
    due = not context.cursor or now - datetime.fromisoformat(context.cursor) >= period
    yield due
    if due:
        context.update_cursor(now.isoformat())


def interval(usual: int) -> int:
    """Seconds between the ticks of a sensor: ``usual``, or what ATDM_SENSOR_SECONDS says for all.

    Dagster looks every five seconds which sensors are due.

    Raises:
        AtdmError: REQUEST_INVALID naming the variable and what is allowed.
    """
    given = os.environ.get(INTERVAL_VARIABLE, "")
    if not given:
        return usual
    if not given.isdecimal() or not 1 <= int(given) <= _LONGEST_SECONDS:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{INTERVAL_VARIABLE} is {given!r}; allowed: whole seconds, 1 to {_LONGEST_SECONDS}",
            {"variable": INTERVAL_VARIABLE, "found": given},
        )
    return int(given)


def on_target(target: TargetResource, tick: Callable[[psycopg.Connection[Any]], Ticked]) -> Ticked:
    """What ``tick`` returns for a connection to the target, in autocommit mode.

    A target that is not set up, or not by this version, is a reason to skip and not a failure: a
    code location may be loaded before its target is. One that cannot be reached is a failure.

    Raises:
        AtdmError: TARGET_UNREACHABLE; what ``tick`` raises.
    """
    with target.connection() as conn:
        try:
            ensure_disposable(conn)
            return tick(conn)
        except AtdmError as error:
            if error.code not in _NOT_NOW:
                raise
            return dg.SkipReason(error.message)
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction) as error:
            return dg.SkipReason(
                f"the catalog is of another version, run atdm init: {error.diag.message_primary}"
            )


def run_of_launch(
    instance: dg.DagsterInstance, request_id: str, *, recorded: bool = True
) -> dg.DagsterRun | None:
    """The latest Dagster run that was launched for a request, if there is one.

    ``recorded`` False: the request is not in the catalog. A run that was started, or made and not
    started, GIVEN_UP_SECONDS ago is then reported as failed. Dagster itself looks after those that
    are starting.
    """
    filters = dg.RunsFilter(tags={names.LAUNCH_TAG: request_id})
    found = instance.get_run_records(filters=filters, limit=1)
    if not found:
        return None
    run = found[0].dagster_run
    since = {
        dg.DagsterRunStatus.NOT_STARTED: found[0].create_timestamp.timestamp(),
        dg.DagsterRunStatus.STARTED: found[0].start_time,
    }.get(run.status)
    if not recorded and since is not None and time.time() - since > GIVEN_UP_SECONDS:
        instance.report_run_failed(
            run, "The process that executed this run is gone: it has not recorded its request."
        )
        return instance.get_run_by_id(run.run_id)
    return run
