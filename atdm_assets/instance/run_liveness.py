"""Runs that a process executes itself, without a launcher that notices the end of the process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import dagster as dg
import psycopg

from atdm_assets import names
from atdm_assets.resources import TargetResource
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres import run_lock
from atdm_resources.postgres.target import ensure_disposable

_NO_TARGET: Final = frozenset(
    {
        ErrorCode.TARGET_UNREACHABLE,
        ErrorCode.TARGET_NOT_INITIALISED,
        ErrorCode.TARGET_NOT_DISPOSABLE,
    }
)
_UNFINISHED: Final = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_log = logging.getLogger("atdm")


@contextmanager
def usable_connection(target: TargetResource | None) -> Iterator[psycopg.Connection[Any] | None]:
    """A connection to the target; None if there is no target or it must not be written to."""
    with ExitStack() as opened:
        conn = None
        if target is not None:
            try:
                conn = opened.enter_context(target.connection())
                ensure_disposable(conn)
            except AtdmError as error:
                if error.code not in _NO_TARGET:
                    raise
                _log.info("done without a target: %s", error.message)
                conn = None
        yield conn


@contextmanager
def hold_run_lock(target: TargetResource | None, run_id: str) -> Iterator[dict[str, str]]:
    """Hold the lock of a run while the block executes it; yields the tags that name its place.

    Without a usable target there are no lock and no tags: if the process ends early, a person has
    to end the run in Dagster (ADR 0085).
    """
    with usable_connection(target) as conn:
        place = None if conn is None else run_lock.place(conn)
    if place is None or target is None:
        yield {}
        return
    with run_lock.run_lock(target.url(), run_id):
        yield {names.VOUCHED_TAG: place}


def report_dead_runs(instance: dg.DagsterInstance, conn: psycopg.Connection[Any]) -> list[str]:
    """Report runs as failed whose lock is of this target and whose process is gone; their ids."""
    filters = dg.RunsFilter(
        tags={names.VOUCHED_TAG: run_lock.place(conn)}, statuses=list(_UNFINISHED)
    )
    reported = []
    for run in instance.get_runs(filters=filters):
        if run_lock.is_held(conn, run.run_id):
            continue
        # It may have ended well since the list was read.
        current = instance.get_run_by_id(run.run_id)
        if current is not None and not current.is_finished:
            instance.report_run_failed(current, "The process that executed this run is gone.")
            reported.append(run.run_id)
    return reported
