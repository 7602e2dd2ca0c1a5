"""What the steps of a scenario do, without Dagster: plan, generate and check, seed."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atdm_engine.checks.results import failed_checks, verdict
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.batches import batches, runs_per_batch
from atdm_engine.generation.request import RequestSpec, numbers_needed, resolve
from atdm_engine.progress import Progress
from atdm_engine.random import run_ids
from atdm_engine.random.run_ids import check_label
from atdm_engine.values.scalars import json_value
from atdm_resources.catalog import replays, requests
from atdm_resources.catalog.requests import RequestRecord
from atdm_resources.settings import is_invoker
from atdm_resources.store.parquet import write_table
from atdm_resources.telemetry import tracing
from atdm_services.requests import load
from atdm_services.requests.execution import (
    Checked,
    Planned,
    RequestWork,
    RunConfig,
    Seeded,
    TableResult,
)
from atdm_services.requests.orphans import REASON

if TYPE_CHECKING:
    from atdm_engine.checks.validator import Validator

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def reporting(progress: Progress | None) -> Iterator[None]:
    """Have the steps that run in this thread inside the block call ``progress``."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


def current_progress() -> Progress | None:
    """Progress callback of this thread, or None."""
    return _progress.get()


def _report(what: str, done: int, total: int) -> None:
    progress = _progress.get()
    if progress is not None:
        progress(what, done, total)


def mint_request_id() -> str:
    """A new request id: this moment and fresh random bytes."""
    return run_ids.new_request_id(datetime.now(UTC), secrets.token_bytes(run_ids.ENTROPY_BYTES))


def plan(work: RequestWork, asked: RunConfig) -> Planned:
    """Resolve what is asked and record it, or take up the request that the partition names.

    From here to the end of the run, this process holds the request's lock.

    Raises:
        AtdmError: REQUEST_INVALID, a partition key that cannot name a request; CONSTRAINT_INVALID,
            CONSTRAINT_CONTRADICTION; REQUEST_CONFLICT, a recorded request is asked for with other
            values or is leased, cleaned or expired; BUSY, another process is at it.
    """
    check_label(asked.partition_key)
    if asked.invoker is not None and not is_invoker(asked.invoker):
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"invoker is {asked.invoker!r}; allowed: human:<name> or agent:<id>",
            {"field": "invoker", "found": asked.invoker},
        )
    work.begin_trace(asked)
    with work.traced("plan") as span:
        recorded = work.recorded(asked.partition_key)
        planned = _new(work, asked) if recorded is None else _replayed(work, asked, recorded)
        span.set(request_id=planned.request_id, replayed=planned.replayed)
    work.planned = planned
    return planned


def _new(work: RequestWork, asked: RunConfig) -> Planned:
    key = asked.partition_key
    request_id = key if run_ids.is_request_id(key) else mint_request_id()
    spec = resolve(
        work.domain,
        work.scenario,
        asked.constraints,
        runs=1 if asked.runs is None else asked.runs,
        seed=asked.seed,
        as_of=asked.as_of,
        request_id=request_id,
    )
    # A seed or a clock of one's own is nobody else's wish: such runs never go into a pool.
    of_its_own = asked.seed is not None or asked.as_of is not None
    work.hold(request_id)
    record = requests.create_request(
        work.connection,
        spec,
        numbers=numbers_needed(spec),
        label=key,
        seed_given=asked.seed is not None,
        as_of_given=asked.as_of is not None,
        pooled=asked.pooled is not False and not of_its_own,
        invoker=asked.invoker or work.invoker,
        source=asked.source,
        reason=asked.reason or "",
        dagster_run_id=asked.dagster_run_id,
    )
    reserved = dataclasses.replace(spec, number_base=record.number_base)
    return Planned(reserved, record, False, record.invoker, record.source)


def _replayed(work: RequestWork, asked: RunConfig, recorded: RequestRecord) -> Planned:
    spec = _recorded_spec(work, recorded)
    _refuse_differences(work, asked, recorded)
    work.hold(recorded.request_id)
    if recorded.status == "pending":
        # Its lock was free, so whoever worked on it is gone.
        requests.rollback_request(
            work.connection,
            recorded.request_id,
            message=REASON,
            step="reconcile",
        )
    else:
        replays.end_replay(
            work.connection,
            recorded.request_id,
            message=REASON,
            step="reconcile",
            code=ErrorCode.SEED_FAILED,
        )
    work.store.sweep(
        requests.request_folder(recorded.domain, recorded.scenario_id, recorded.request_id)
    )
    invoker = asked.invoker or work.invoker
    record = requests.reopen_request(
        work.connection,
        recorded.request_id,
        invoker=invoker,
        source=asked.source,
        dagster_run_id=asked.dagster_run_id,
    )
    return Planned(spec, record, True, invoker, asked.source)


def _recorded_spec(work: RequestWork, recorded: RequestRecord) -> RequestSpec:
    if recorded.scenario_version != work.scenario.version:
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"request {recorded.label!r} was made by another version of {work.scenario.key}: "
            "its data cannot be made again; ask for a new request",
            {
                "request_id": recorded.request_id,
                "recorded_version": recorded.scenario_version,
                "version": work.scenario.version,
            },
        )
    return resolve(
        work.domain,
        work.scenario,
        recorded.given,
        runs=recorded.runs,
        seed=recorded.seed,
        as_of=recorded.as_of,
        request_id=recorded.request_id,
        number_base=recorded.number_base,
    )


def _refuse_differences(work: RequestWork, asked: RunConfig, recorded: RequestRecord) -> None:
    """A value left out means the recorded one; another value is refused by name."""
    wanted: dict[str, tuple[Any, Any]] = {}
    for name, value in asked.constraints.items():
        constraint = work.scenario.constraints.get(name)
        old = recorded.effective.get(name)
        if constraint is None:
            wanted[name] = (value, old)
        else:
            # Typed on both sides: 12.5 and 12.50 are one decimal.
            wanted[name] = (constraint.parse(value), constraint.parse(old))
    for name in ("runs", "seed", "as_of", "pooled"):
        value = getattr(asked, name)
        if value is not None:
            wanted[name] = (value, getattr(recorded, name))
    different = {
        name: {"asked": json_value(new), "recorded": json_value(old)}
        for name, (new, old) in wanted.items()
        if json_value(new) != json_value(old)
    }
    if different:
        listed = "; ".join(
            f"{name}: recorded {values['recorded']}, asked {values['asked']}"
            for name, values in different.items()
        )
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"request {recorded.label!r} exists with other values ({listed}); leave them out to "
            "make it again, or ask for a new request",
            {"request_id": recorded.request_id, "different": different},
        )


def generate_and_check(
    work: RequestWork, partition_key: str, dagster_run_id: str | None = None
) -> Checked:
    """Make the rows in batches, judge every batch, and keep the files if all of it holds.

    A run that leaves the request's own step out replays what is recorded. Data that is not accepted
    goes to quarantine, its rejected rows alone; the request is then ``rejected``.

    Raises:
        AtdmError: REQUEST_INVALID, nothing is recorded under the partition key; STORE_FAILED; those
            of ``plan``.
    """
    # Here and not above: pandas and pandera are for those who make data, not for loading the graph.
    from atdm_engine.checks.validator import Validator
    from atdm_services.requests.generation import RequestFiles

    planned = work.planned or _taken_up(work, partition_key, dagster_run_id)
    spec = planned.spec
    with work.traced("generate_and_check") as span, work.undone_on_error("generate"):
        requests.mark_started(
            work.connection,
            spec.request_id,
            step_count=len(spec.scenario.tables),
            dagster_run_id=dagster_run_id,
        )
        began = time.perf_counter()
        validator = Validator(spec.domain, spec.scenario, spec.effective)
        writing = RequestFiles(work.store, work.folder, spec)
        spans = tracing.Batches()
        try:
            with writing:
                for done, batch in spans.around("atdm.generate", _batches(spec)):
                    with spans.of("atdm.check"):
                        validator.check(batch)
                    with spans.of("atdm.stage"):
                        writing.write(batch)
                    _report("made and checked", done, spec.runs)
                outcomes = validator.outcomes()
                judgement = verdict(spec.scenario, outcomes)
                if not judgement.accepted:
                    raise _NotAcceptedError
        except _NotAcceptedError:
            # Leaving the block by an exception is what keeps the files from appearing.
            tables: dict[str, TableResult] = {}
            if planned.record.status == "pending":
                work.store.delete_prefix(work.folder)
        else:
            tables = writing.results()
        checked = Checked(
            spec=spec,
            outcomes=outcomes,
            verdict=judgement,
            tables=tables,
            content_hash=writing.content_hash(),
            quarantine=None if judgement.accepted else _quarantine(work, spec, validator),
            exposed=writing.exposed if judgement.accepted else None,
            seconds=time.perf_counter() - began,
        )
        _record_judgement(work, checked)
        span.set(
            accepted=judgement.accepted,
            rows=sum(made.file.rows for made in tables.values()),
            failed=list(judgement.failed) or None,
        )
    work.checked = checked
    return checked


class _NotAcceptedError(Exception):
    """Ends the writing of files that must not appear."""


def _taken_up(work: RequestWork, partition_key: str, dagster_run_id: str | None) -> Planned:
    """The plan of a run that does not make the request itself: that of the recorded request."""
    if work.recorded(partition_key) is None:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"no request {partition_key!r} of {work.scenario.key} is recorded yet: "
            "materialise it with its request and seeded assets",
            {"partition_key": partition_key},
        )
    return plan(work, RunConfig(partition_key=partition_key, dagster_run_id=dagster_run_id))


def _batches(spec: RequestSpec) -> Iterator[tuple[int, dict[str, pa.Table]]]:
    """The batches, each with the number of runs made when it is done."""
    runs = runs_per_batch(spec)
    for number, batch in enumerate(batches(spec, runs), start=1):
        yield min(number * runs, spec.runs), batch


def _quarantine(work: RequestWork, spec: RequestSpec, validator: Validator) -> str | None:
    """Write the rejected rows; the folder they are in, None when no row is to blame."""
    rejected = validator.rejected()
    folder = f"quarantine/{spec.scenario.key}/{spec.request_id}"
    for table, rows in rejected.items():
        write_table(work.store, f"{folder}/{table}.parquet", rows)
    return work.store.uri(folder) if rejected else None


def _record_judgement(work: RequestWork, checked: Checked) -> None:
    if checked.verdict.accepted:
        requests.mark_validated(
            work.connection, checked.request_id, validators=list(checked.scenario.rules)
        )
        return
    requests.mark_rejected(
        work.connection,
        checked.request_id,
        failed=failed_checks(checked.outcomes),
        expected=checked.verdict.expected_violation,
        quarantine=checked.quarantine,
    )


def seed(work: RequestWork, partition_key: str) -> Seeded:
    """Load the files of this run's request and make its test runs ready, in one transaction.

    Raises:
        AtdmError: REQUEST_INVALID, this run has not made the tables; SEED_FAILED, REQUEST_CONFLICT,
            BUSY, STORE_FAILED, TARGET_NOT_DISPOSABLE: nothing of the request is in the target.
    """
    planned, checked = work.planned, work.checked
    if planned is None or checked is None:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{partition_key!r} can only be seeded together with its tables: "
            "materialise them in the same run",
            {"partition_key": partition_key},
        )
    with work.traced("load") as span, work.undone_on_error("seed"):
        span.set(
            rows=sum(made.file.rows for made in checked.tables.values()), runs=checked.spec.runs
        )
        result = load.seed(
            work.connection,
            work.store,
            planned.record,
            checked.domain,
            checked.scenario,
            {table: made.file for table, made in checked.tables.items()},
            content_hash=checked.content_hash,
            exposed=checked.exposed,
            progress=current_progress(),
        )
    work.seeded = Seeded(
        request_id=checked.request_id,
        runs=result.runs,
        rows={table: result.tables[table].rows for table in checked.scenario.tables},
        content_hash=checked.content_hash,
        seconds=result.seconds,
    )
    return work.seeded
