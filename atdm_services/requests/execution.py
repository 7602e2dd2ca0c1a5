"""What holds one request together over its steps: lock, connection, results so far."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import psycopg

from atdm_engine.bundle.registry import Registry
from atdm_engine.checks.results import CheckOutcome, Verdict, failed_checks
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.request import RequestSpec
from atdm_engine.model import Domain, Scenario
from atdm_engine.random.run_ids import run_id
from atdm_engine.values.scalars import TypedScalar
from atdm_resources.catalog import queue as queueing
from atdm_resources.catalog import replays, requests
from atdm_resources.catalog.requests import RequestRecord
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.locks import RequestLock
from atdm_resources.postgres.target import ensure_disposable
from atdm_resources.store.files import Store
from atdm_resources.telemetry import logs, tracing
from atdm_services.requests.load import StagedTable

END: Final = "end"
"""The step that a request is given up in when its run ends too early."""


@dataclass(frozen=True)
class RunConfig:
    """What a run asks of a partition; None: the recorded value, else the default."""

    partition_key: str
    constraints: Mapping[str, TypedScalar] = field(default_factory=dict)
    runs: int | None = None
    seed: int | None = None
    as_of: datetime | None = None
    pooled: bool | None = None
    invoker: str | None = None
    source: str = "dagster"
    reason: str | None = None
    dagster_run_id: str | None = None


@dataclass(frozen=True)
class Planned:
    """A resolved and recorded request. ``replayed``: it was recorded before this run.

    ``invoker`` and ``source`` are this run's; the record's are those of the first one.
    """

    spec: RequestSpec
    record: RequestRecord
    replayed: bool
    invoker: str
    source: str

    @property
    def request_id(self) -> str:
        return self.spec.request_id


@dataclass(frozen=True)
class TableResult:
    """One table of a request: the file that holds it. ``profile`` is ``ColumnProfile``'s."""

    table: str
    file: StagedTable
    uri: str
    profile: Mapping[str, Any]
    sample: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Checked:
    """The data of a request and the judgement on it. ``seconds`` covers all tables together.

    ``tables`` is empty unless the data was accepted; ``quarantine`` is where rejected rows are,
    ``exposed`` the file of what a lease hands out beyond keys.
    """

    spec: RequestSpec
    outcomes: Sequence[CheckOutcome]
    verdict: Verdict
    tables: Mapping[str, TableResult]
    content_hash: str
    quarantine: str | None
    exposed: str | None
    seconds: float

    @property
    def request_id(self) -> str:
        return self.spec.request_id

    @property
    def domain(self) -> Domain:
        return self.spec.domain

    @property
    def scenario(self) -> Scenario:
        return self.spec.scenario

    def rejection(self) -> AtdmError:
        """Why the data is not accepted, as VALIDATOR_REJECTED."""
        missing = sorted(set(self.scenario.spec.violates) - set(self.verdict.failed))
        message = f"request {self.request_id} is rejected: " + (
            ", ".join(self.verdict.failed)
            if self.verdict.failed
            else f"the data does not break {', '.join(missing)}, as the scenario declares"
        )
        return AtdmError(
            ErrorCode.VALIDATOR_REJECTED,
            message,
            {
                "request_id": self.request_id,
                "failed": failed_checks(self.outcomes),
                "violates": list(self.scenario.spec.violates),
                "quarantine": self.quarantine,
            },
        )


@dataclass(frozen=True)
class Seeded:
    """What is in the target now. ``rows`` by table."""

    request_id: str
    runs: int
    rows: Mapping[str, int]
    content_hash: str
    seconds: float


class RequestWork:
    """One request being executed by this process.

    Opens its connection when it is first needed and holds the request's lock until ``close``; a
    killed process lets go of it by dying.
    """

    def __init__(
        self, registry: Registry, scenario: Scenario, target_url: str, store: Store, invoker: str
    ) -> None:
        self.scenario = scenario
        self.domain = registry.domains[scenario.domain]
        self.store = store
        self.invoker = invoker
        self.planned: Planned | None = None
        self.checked: Checked | None = None
        self.seeded: Seeded | None = None
        self._began = time.perf_counter()
        self._trace = tracing.NONE
        self._error: BaseException | None = None
        self._url = target_url
        self._connection: psycopg.Connection[Any] | None = None
        self._lock: RequestLock | None = None

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The connection to the target, in autocommit mode; opened again when it was lost.

        Raises:
            AtdmError: TARGET_UNREACHABLE; TARGET_NOT_INITIALISED, TARGET_NOT_DISPOSABLE: the
                database must not be written to.
        """
        if self._connection is None or self._connection.broken or self._connection.closed:
            opened = connect(self._url, application_name="atdm request")
            self._connection = opened
            ensure_disposable(opened)
        return self._connection

    def recorded(self, partition_key: str) -> RequestRecord | None:
        """The request that a partition key names, None when there is none yet."""
        return requests.request_by_label(
            self.connection, self.scenario.domain, self.scenario.name, partition_key
        )

    def hold(self, request_id: str) -> None:
        """Take the request's lock, to be held until ``close``.

        Raises:
            AtdmError: BUSY, another process is at the request or the domain is being reset.
        """
        if self._lock is None:
            self._lock = RequestLock(self._url, self.scenario.domain, request_id).__enter__()

    @property
    def folder(self) -> str:
        """Where the request's files are in the store."""
        assert self.planned is not None
        return requests.request_folder(
            self.scenario.domain, self.scenario.name, self.planned.request_id
        )

    def begin_trace(self, asked: RunConfig) -> None:
        """From here on, ``traced`` steps are spans of the request, if anybody wants traces."""
        if not tracing.wanted():
            return
        submitted = queueing.submitted_at(self.connection, asked.partition_key)
        self._trace = tracing.begin("atdm.request", asked.dagster_run_id, start=submitted)
        if submitted is not None:
            with tracing.span("atdm.queue_wait", self._trace, start=submitted):
                pass  # it ends here

    @contextmanager
    def traced(self, step: str) -> Iterator[tracing.Span]:
        """A step of the request as a span; an error in it is the request's."""
        try:
            with tracing.span(f"atdm.{step}", self._trace) as span:
                yield span
        except BaseException as error:
            self._error = error
            raise

    @contextmanager
    def undone_on_error(self, step: str) -> Iterator[None]:
        """Whatever goes wrong inside the block, interrupts too, rolls the request back at once."""
        try:
            yield
        except BaseException as error:
            self._undo(step, error)
            raise

    def _undo(self, step: str, error: BaseException) -> None:
        if self.planned is None:
            return
        code = error.code if isinstance(error, AtdmError) else ErrorCode.SEED_FAILED
        details = error.details if isinstance(error, AtdmError) else {}
        try:
            undone = requests.rollback_request(
                self.connection,
                self.planned.request_id,
                message=str(error) or type(error).__name__,
                step=step,
                code=code,
                details={key: value for key, value in details.items() if key != "step"},
            )
            if undone:
                self.store.delete_prefix(self.folder)
            else:
                # A request that was ready before keeps its rows and its files.
                replays.end_replay(
                    self.connection,
                    self.planned.request_id,
                    message=str(error) or type(error).__name__,
                    step=step,
                    code=code,
                )
        except (AtdmError, psycopg.Error) as problem:
            # The first error is the one to report. The request has no rows, and once this process
            # is gone its lock is free: the next sweep finds it.
            error.add_note(f"The request could not be rolled back now: {problem}")

    def close(self) -> None:
        """Let go of the lock; a request that is still pending then is given up."""
        try:
            if self.planned is not None and self._lock is not None:
                self._abandon()
        finally:
            if self._lock is not None:
                self._lock.__exit__(None, None, None)
                self._lock = None
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._tell()

    def _tell(self) -> None:
        """The request's line in the log, and the end of its trace."""
        planned = self.planned
        if planned is None and self._error is None:
            return
        status, error = "ended", self._error
        if error is not None:
            status = str(error.code) if isinstance(error, AtdmError) else type(error).__name__
            self._trace.fail(error)
        elif self.seeded is not None:
            status = "ready"
        elif self.checked is not None and not self.checked.verdict.accepted:
            status = "rejected"
        facts: dict[str, Any] = {"scenario": self.scenario.key, "status": status}
        if planned is not None:
            facts |= {
                "request_id": planned.request_id,
                "runs": planned.spec.runs,
                "invoker": planned.invoker,
                "source": planned.source,
            }
        if self.seeded is not None:
            facts["rows"] = sum(self.seeded.rows.values())
        self._trace.set(**facts)
        self._trace.end()
        self._trace = tracing.NONE
        logs.record(
            "request",
            level="info" if error is None else "error",
            seconds=time.perf_counter() - self._began,
            method=facts.pop("source", None),
            test_run_id=run_id(planned.request_id, 1)
            if planned is not None and planned.spec.runs == 1
            else None,
            dagster_run_id=planned.record.dagster_run_id if planned is not None else None,
            error=None if error is None else str(error),
            **facts,
        )

    def _abandon(self) -> None:
        unfinished = AtdmError(
            ErrorCode.SEED_FAILED, "the run ended before the request was seeded", {}
        )
        self._undo(END, unfinished)
