"""The queue: the sensor that turns submissions into requests and answers them."""

# No postponed annotations here: Dagster reads those of resources as classes.

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg

from atdm_assets import names
from atdm_assets.instance import ticks
from atdm_assets.requests.failures import error_in_events
from atdm_assets.requests.launches import Launches, forget_key
from atdm_assets.resources import StoreResource
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.spec.constraints import parse_scalar
from atdm_resources.catalog import queue as queueing
from atdm_resources.catalog import reclaim
from atdm_resources.catalog.queue import Launch, SuiteEvent
from atdm_resources.store.files import Store
from atdm_services.queue import inbox
from atdm_services.requests.request import DataRequest, mint_request_id

SOURCE = "queue"
FILES_A_TICK = 500
LAUNCHES_A_TICK = 5
MOST_AT_ONCE = 8
"""Requests of the queue in progress at the same time."""
SUITES_A_TICK = 20
ANSWERS_A_TICK = 500

INBOX_RESTS = timedelta(minutes=1)
"""Seconds without another try after a store failed, so that it does not slow the queue down."""

OpenStore = Callable[[], Store]
RestoreRun = Callable[[SuiteEvent, str], dg.RunRequest]
"""Makes the run that restores the baseline of a suite, with a run key. Raises AtdmError."""


def queue_sensor(
    registry: Registry, jobs: Sequence[Any], restore: RestoreRun | None
) -> dg.SensorDefinition:
    """The sensor ``queue_sensor``; ``jobs`` are the scenarios' own and the one that restores."""

    def body(
        context: dg.SensorEvaluationContext, conn: psycopg.Connection[Any], store: StoreResource
    ) -> ticks.Ticked:
        now = datetime.now(UTC)
        rests = context.cursor and now < datetime.fromisoformat(context.cursor)
        opened = None if rests else lambda: store.store(hasty=True)
        troubles: list[str] = []
        ticked = tick(context.instance, conn, opened, registry, restore, troubles)
        if troubles:
            context.log.warning(f"the inbox is not read for a minute: {'; '.join(troubles)}")
            context.update_cursor((now + INBOX_RESTS).isoformat())
        return ticked

    return ticks.target_sensor(
        "queue_sensor",
        body,
        "Takes in files of the inbox, makes waiting submissions, those that share scenario and "
        "constraints by one request, and answers them.",
        seconds=ticks.QUICK_SECONDS,
        jobs=jobs,
    )


def tick(
    instance: dg.DagsterInstance,
    conn: psycopg.Connection[Any],
    store: OpenStore | None,
    registry: Registry,
    restore: RestoreRun | None = None,
    troubles: list[str] | None = None,
) -> ticks.Ticked:
    """One tick: read files, answer ended requests, launch waiting ones, write answers.

    A failed store delays only files and their answers, not submissions to the database; it is
    reported in ``troubles``. ``store`` None: the inbox is not read this time.
    """
    said: list[str] = [] if troubles is None else troubles
    opened = None if store is None else _usable(store, said)
    taken = inbox.TakenIn()
    if opened is not None:
        with _told(said):
            taken = inbox.take_in(conn, opened, FILES_A_TICK)
    counts = queueing.waiting(conn)
    launches = Launches()
    others: list[dg.RunRequest] = []
    if any(counts.values()):
        queueing.settle_ended(conn, ANSWERS_A_TICK)
        _finish_suites(conn)
        restoring, others = _watch_suites(instance, conn, restore)
        if not restoring:
            others = _start_suites(conn, restore)
        if not restoring and not others:
            # The baseline of a starting suite is restored before requests are launched.
            _launch(instance, conn, registry, launches)
    published: list[str] = []
    if opened is not None and not said:
        with _told(said):
            published = inbox.publish_answers(conn, opened, ANSWERS_A_TICK)
    if launches.runs or others:
        return launches.result(*others)
    return dg.SkipReason(
        f"{counts['waiting']} waiting, {counts['launched']} being made, "
        f"{len(taken.submitted)} files taken in, {len(taken.rejected)} put aside, "
        f"{len(published)} answers written"
        + "".join(f"; the inbox cannot be read: {trouble}" for trouble in said)
        + ("; the inbox is not read after a failure" if store is None else "")
    )


def _usable(store: OpenStore, troubles: list[str]) -> Store | None:
    with _told(troubles):
        return store()
    return None


@contextmanager
def _told(troubles: list[str]) -> Iterator[None]:
    """Collect the errors of a store instead of raising them."""
    try:
        yield
    except AtdmError as error:
        if error.code not in (ErrorCode.STORE_FAILED, ErrorCode.MISSING_EXTRA):
            raise
        troubles.append(error.message)


def _launch(
    instance: dg.DagsterInstance,
    conn: psycopg.Connection[Any],
    registry: Registry,
    launches: Launches,
) -> None:
    """Assign waiting groups to new requests, and launch requests without a run."""
    fresh = set()
    room = min(LAUNCHES_A_TICK, MOST_AT_ONCE - queueing.unsettled(conn))
    if room > 0:
        for group in queueing.groups(conn, room):
            request_id = mint_request_id()
            if queueing.assign(conn, group, request_id):
                fresh.add(request_id)
    for launch in queueing.launches(conn, MOST_AT_ONCE + LAUNCHES_A_TICK):
        if launch.request_id not in fresh:
            if launch.age.total_seconds() < ticks.RELAUNCH_SECONDS:
                continue
            run = ticks.run_of_launch(instance, launch.request_id, recorded=False)
            if run is not None:
                _settle_unrecorded(instance, conn, launch, run)
                continue
        try:
            launches.add(registry, _request(launch), launch.request_id)
        except AtdmError as error:
            queueing.settle_failed(conn, launch.request_id, error.envelope()["error"])


def _settle_unrecorded(
    instance: dg.DagsterInstance, conn: psycopg.Connection[Any], launch: Launch, run: dg.DagsterRun
) -> None:
    """Answer for a run that ended without recording its request."""
    if not run.is_finished:
        return
    entries = instance.all_logs(
        run.run_id,
        of_type={dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE},
    )
    events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
    error = error_in_events(events, run.run_id)
    queueing.settle_failed(conn, launch.request_id, error.envelope()["error"])
    forget_key(instance, launch.domain, launch.scenario_id, [launch.request_id])


def _request(launch: Launch) -> DataRequest:
    payload = launch.payload
    as_of = payload.get("as_of")
    try:
        moment: Any = None if as_of is None else parse_scalar("timestamptz", as_of)
    except ValueError as error:
        raise AtdmError(ErrorCode.REQUEST_INVALID, f"as_of: {error}", {"as_of": as_of}) from error
    seed = payload.get("seed")
    many = launch.submissions > 1
    return DataRequest(
        f"{launch.domain}/{launch.scenario_id}",
        constraints=payload.get("constraints") or {},
        runs=launch.runs,
        seed=None if seed is None else int(seed),
        as_of=moment,
        # Each run is for its submitter.
        pooled=False,
        invoker=None if many else payload.get("invoker"),
        source=SOURCE,
        reason=f"{launch.submissions} submissions" if many else payload.get("reason"),
    )


def _finish_suites(conn: psycopg.Connection[Any]) -> None:
    """Reclaim the leases of finished builds."""
    for event in queueing.suite_events(conn, "suite_finished", "waiting", SUITES_A_TICK):
        build = str(event.payload["build"])
        done = reclaim.reset_suite(conn, build, invoker=event.invoker, source=SOURCE)
        if done.busy:
            continue  # its domain is being reset or restored: next tick
        answer: dict[str, Any] = {
            "build": build,
            "test_run_ids": done.runs,
            "deleted": done.deleted,
            "adopted": done.adopted,
        }
        if done.failed:
            error = {
                "code": str(ErrorCode.RESET_FAILED),
                "message": f"{len(done.failed)} test runs of {build} could not be taken back",
                "details": {"failed": done.failed},
            }
            queueing.answer_suite(conn, event.submission_id, "rejected", {**answer, "error": error})
        else:
            queueing.answer_suite(conn, event.submission_id, "fulfilled", answer)


def _start_suites(conn: psycopg.Connection[Any], restore: RestoreRun | None) -> list[dg.RunRequest]:
    """Launch the restore of the next starting suite; one at a time."""
    for event in queueing.suite_events(conn, "suite_started", "waiting", SUITES_A_TICK):
        if event.payload.get("baseline") is None:
            queueing.answer_suite(
                conn, event.submission_id, "fulfilled", {"build": event.payload.get("build")}
            )
            continue
        try:
            if restore is None:
                raise AtdmError(
                    ErrorCode.REQUEST_INVALID, "this code location has no job that restores"
                )
            request = _tagged(restore, event, _suite_key(event, event.attempts + 1))
        except AtdmError as error:
            queueing.answer_suite(conn, event.submission_id, "rejected", error.envelope())
            continue
        if queueing.launch_suite(conn, event.submission_id):
            return [request]
    return []


def _watch_suites(
    instance: dg.DagsterInstance, conn: psycopg.Connection[Any], restore: RestoreRun | None
) -> tuple[bool, list[dg.RunRequest]]:
    """Answer ended restores; returns whether one is in progress, and which to launch again."""
    going_on = False
    lost: list[dg.RunRequest] = []
    for event in queueing.suite_events(conn, "suite_started", "launched", SUITES_A_TICK):
        key = _suite_key(event, event.attempts)
        run = ticks.run_of_launch(instance, key)
        if run is None or not run.is_finished:
            going_on = True
            late = event.age is not None and event.age.total_seconds() > ticks.RELAUNCH_SECONDS
            if run is None and late and restore is not None:
                lost.append(_tagged(restore, event, key))
            continue
        about = {
            "build": event.payload.get("build"),
            "baseline": event.payload.get("baseline"),
            "dagster_run_id": run.run_id,
        }
        if run.status is dg.DagsterRunStatus.SUCCESS:
            queueing.answer_suite(conn, event.submission_id, "fulfilled", about)
            continue
        entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
        error: Mapping[str, Any] = error_in_events(
            events, run.run_id, ErrorCode.RESTORE_FAILED
        ).envelope()
        queueing.answer_suite(conn, event.submission_id, "rejected", {**about, **error})
    return going_on, lost


def _tagged(restore: RestoreRun, event: SuiteEvent, key: str) -> dg.RunRequest:
    """The run that restores, with its tag."""
    request = restore(event, key)
    return request.with_replaced_attrs(tags={**request.tags, names.LAUNCH_TAG: key})


def _suite_key(event: SuiteEvent, attempt: int) -> str:
    return f"suite-{event.submission_id}-{attempt}"
