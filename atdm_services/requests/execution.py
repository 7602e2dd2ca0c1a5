"""One request that this process makes: connection, lock, and the steps plan, generate and load."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from atdm_engine.bundle.registry import Registry
from atdm_engine.checks.results import failed_checks
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.request import RequestSpec, resolve
from atdm_engine.model import Scenario
from atdm_engine.progress import Progress
from atdm_engine.random import run_ids
from atdm_engine.values.scalars import json_value
from atdm_resources.catalog import queue, requests
from atdm_resources.catalog.requests import RequestRecord
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.locks import RequestLock
from atdm_resources.postgres.target import ensure_disposable
from atdm_resources.settings import is_invoker
from atdm_resources.store.files import Store
from atdm_resources.telemetry import logs, tracing
from atdm_services.requests import load
from atdm_services.requests.request import DataRequest, mint_request_id
from atdm_services.requests.results import Checked, Seeded
from atdm_services.requests.rollback import ORPHANED, roll_back

END: Final = "end"
"""The step in which a request is rolled back whose run ended before it was loaded."""


class RequestExecution:
    """The request of one partition key (its id or its label), made by this process.

    Uses the ``connection`` to the target, which must be in autocommit mode; opens one when none is
    given. ``plan`` takes the request's lock; ``end`` and the death of the process release it.
    ``spec`` is the request where the caller has resolved it already.
    """

    def __init__(
        self,
        registry: Registry,
        scenario: Scenario,
        partition_key: str,
        target_url: str,
        store: Store,
        *,
        invoker: str,
        dagster_run_id: str | None = None,
        connection: psycopg.Connection[Any] | None = None,
        spec: RequestSpec | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.scenario = scenario
        self.partition_key = partition_key
        self.request = DataRequest(scenario.key)
        self.replayed = False
        self.checked: Checked | None = None
        self.seeded: Seeded | None = None
        self._registry = registry
        self._invoker = invoker
        self.store = store
        self._dagster_run_id = dagster_run_id
        self._resolved = spec
        self._progress = progress
        self._spec: RequestSpec | None = None
        self._record: RequestRecord | None = None
        self._began = 0.0
        self._ended = False
        self._trace = tracing.NONE
        self._error: BaseException | None = None
        self._url = target_url
        self._given = connection
        self._opened: psycopg.Connection[Any] | None = None
        self._connection: psycopg.Connection[Any] | None = None
        self._lock: RequestLock | None = None

    @property
    def spec(self) -> RequestSpec:
        """The resolved request, after ``plan``."""
        assert self._spec is not None, "plan comes first"
        return self._spec

    @property
    def record(self) -> RequestRecord:
        """The request's row in the catalog, as ``plan`` found or wrote it."""
        assert self._record is not None, "plan comes first"
        return self._record

    @property
    def invoker(self) -> str:
        """Who makes the request now; its record names who made it first."""
        return self.request.invoker or self._invoker

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The connection to the target, in autocommit mode; a lost one is replaced.

        Raises:
            AtdmError: TARGET_UNREACHABLE; TARGET_NOT_INITIALISED, TARGET_NOT_DISPOSABLE: the
                database must not be written to.
        """
        if self._connection is None or self._connection.closed:
            conn, self._given = self._given, None
            if conn is None or conn.closed:
                conn = self._opened = connect(self._url, application_name="atdm request")
            ensure_disposable(conn)
            self._connection = conn
        return self._connection

    def makes(self, scenario: Scenario, partition_key: str) -> bool:
        """Whether this is the execution of that partition of the scenario."""
        return (self.scenario.key, self.partition_key) == (scenario.key, partition_key)

    def recorded(self) -> RequestRecord | None:
        """The request that the partition key names, as the catalog has it now, or None."""
        return requests.request_by_label(
            self.connection, self.scenario.domain, self.scenario.name, self.partition_key
        )

    def plan(self, request: DataRequest) -> None:
        """Resolve and record the request, or replay the one that is recorded under the key.

        This process holds the request's lock from here on.

        Raises:
            AtdmError: REQUEST_INVALID, the key cannot name a request; CONSTRAINT_INVALID,
                CONSTRAINT_CONTRADICTION; REQUEST_CONFLICT, the recorded request has other values,
                or runs that are leased, cleaned or expired; BUSY, another process makes it.
        """
        run_ids.check_label(self.partition_key)
        if request.invoker is not None and not is_invoker(request.invoker):
            raise AtdmError(
                ErrorCode.REQUEST_INVALID,
                f"invoker is {request.invoker!r}; allowed: human:<name> or agent:<id>",
                {"field": "invoker", "found": request.invoker},
            )
        self.request = request
        self._began = time.perf_counter()
        self._begin_trace()
        with self._traced("plan") as span:
            recorded = self.recorded()
            if recorded is None:
                self._create()
            else:
                self._replay(recorded)
            span.set(request_id=self.spec.request_id, replayed=self.replayed)

    def _create(self) -> None:
        request, key = self.request, self.partition_key
        spec = self._resolved or request.resolve(
            self._registry, key if run_ids.is_request_id(key) else mint_request_id()
        )
        self._hold_lock(spec.request_id)
        self._record = requests.create_request(
            self.connection,
            spec,
            numbers=spec.numbers_needed,
            label=key,
            seed_given=request.seed is not None,
            as_of_given=request.as_of is not None,
            # Other callers do not ask for this seed or clock: such runs never go into a pool.
            pooled=request.pooled is not False and not request.is_pinned,
            invoker=self.invoker,
            source=request.source,
            reason=request.reason or "",
            dagster_run_id=self._dagster_run_id,
        )
        self._spec = dataclasses.replace(spec, number_base=self._record.number_base)

    def _replay(self, recorded: RequestRecord) -> None:
        if recorded.scenario_version != self.scenario.version:
            raise AtdmError(
                ErrorCode.REQUEST_CONFLICT,
                f"request {recorded.label!r} was made by another version of {self.scenario.key}: "
                "its data cannot be made again; ask for a new request",
                {
                    "request_id": recorded.request_id,
                    "recorded_version": recorded.scenario_version,
                    "version": self.scenario.version,
                },
            )
        self._refuse_differences(recorded)
        spec = resolve(
            self._registry.domains[self.scenario.domain],
            self.scenario,
            recorded.given,
            runs=recorded.runs,
            seed=recorded.seed,
            as_of=recorded.as_of,
            request_id=recorded.request_id,
            number_base=recorded.number_base,
        )
        self._hold_lock(recorded.request_id)
        # Its lock was free, so the process that made it, if any, is gone.
        if not roll_back(self.connection, self.store, recorded, message=ORPHANED, step="reconcile"):
            self.store.sweep(recorded.folder)
        self._record = requests.reopen_request(
            self.connection,
            recorded.request_id,
            invoker=self.invoker,
            source=self.request.source,
            dagster_run_id=self._dagster_run_id,
        )
        self._spec = spec
        self.replayed = True

    def _refuse_differences(self, recorded: RequestRecord) -> None:
        """Refuse values other than the recorded ones; a value left out is the recorded one."""
        wanted: dict[str, tuple[Any, Any]] = {}
        for name, value in self.request.constraints.items():
            constraint = self.scenario.constraints.get(name)
            old = recorded.effective.get(name)
            if constraint is None:
                wanted[name] = (value, old)
            else:
                # Typed on both sides: 12.5 and 12.50 are one decimal.
                wanted[name] = (constraint.parse(value), constraint.parse(old))
        for name in ("runs", "seed", "as_of", "pooled"):
            value = getattr(self.request, name)
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
                f"request {recorded.label!r} exists with other values ({listed}); leave them out "
                "to make it again, or ask for a new request",
                {"request_id": recorded.request_id, "different": different},
            )

    def generate(self) -> Checked:
        """Generate the rows, check them and stage them as files; nothing is kept of bad data.

        A run without the request's own step replays the recorded request. Data that is not
        accepted goes to quarantine, its rejected rows alone; the request is then ``rejected``.

        Raises:
            AtdmError: REQUEST_INVALID, nothing is recorded under the partition key; STORE_FAILED;
                those of ``plan``.
        """
        # pandas and pandera load only where data is made, not with the graph.
        from atdm_services.requests.generation import generate_and_check

        if self._spec is None:
            self._take_up()
        with self._traced("generate_and_check") as span, self._undone_on_error("generate"):
            requests.mark_started(
                self.connection,
                self.spec.request_id,
                step_count=len(self.scenario.tables),
                dagster_run_id=self._dagster_run_id,
            )
            checked = generate_and_check(self.spec, self.store, self.record.folder, self._progress)
            if checked.verdict.accepted:
                requests.mark_validated(
                    self.connection, self.spec.request_id, validators=list(self.scenario.rules)
                )
            else:
                if self.record.status == "pending":
                    self.store.delete_prefix(self.record.folder)
                requests.mark_rejected(
                    self.connection,
                    self.spec.request_id,
                    failed=failed_checks(checked.outcomes),
                    expected=checked.verdict.expected_violation,
                    quarantine=checked.quarantine,
                )
            span.set(
                accepted=checked.verdict.accepted,
                rows=checked.rows,
                failed=list(checked.verdict.failed) or None,
            )
        self.checked = checked
        return checked

    def _take_up(self) -> None:
        """Plan a replay of what is recorded, for a run that does not make the request itself."""
        if self.recorded() is None:
            raise AtdmError(
                ErrorCode.REQUEST_INVALID,
                f"no request {self.partition_key!r} of {self.scenario.key} is recorded yet: "
                "materialise it with its request and seeded assets",
                {"partition_key": self.partition_key},
            )
        self.plan(DataRequest(self.scenario.key))

    def load(self) -> Seeded:
        """Load the staged files and make the test runs ready, in one transaction.

        Raises:
            AtdmError: REQUEST_INVALID, this run has not made the tables; SEED_FAILED,
                REQUEST_CONFLICT, BUSY, STORE_FAILED, TARGET_NOT_DISPOSABLE: nothing of the request
                is in the target.
        """
        if self.checked is None:
            raise AtdmError(
                ErrorCode.REQUEST_INVALID,
                f"{self.partition_key!r} can only be seeded together with its tables: "
                "materialise them in the same run",
                {"partition_key": self.partition_key},
            )
        with self._traced("load") as span, self._undone_on_error("seed"):
            span.set(rows=self.checked.rows, runs=self.spec.runs)
            self.seeded = load.seed(
                self.connection,
                self.store,
                self.record,
                self.spec,
                self.checked.tables,
                content_hash=self.checked.content_hash,
                exposed=self.checked.exposed,
                progress=self._progress,
            )
        return self.seeded

    def end(self) -> None:
        """Roll the request back unless it has ended, release its lock, end log line and trace."""
        if self._ended:
            return
        self._ended = True
        try:
            if self._lock is not None and self.seeded is None:
                message = "the run ended before the request was seeded"
                self._undo(END, AtdmError(ErrorCode.SEED_FAILED, message))
        finally:
            if self._lock is not None:
                self._lock.__exit__(None, None, None)
                self._lock = None
            self._log()

    def close(self) -> None:
        """``end``, and close the connection that was opened for the request."""
        try:
            self.end()
        finally:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _hold_lock(self, request_id: str) -> None:
        if self._lock is None:
            self._lock = RequestLock(self._url, self.scenario.domain, request_id).__enter__()

    def _begin_trace(self) -> None:
        """From here on steps are spans of the request, where traces are wanted."""
        if not tracing.wanted():
            return
        submitted = queue.submitted_at(self.connection, self.partition_key)
        self._trace = tracing.begin("atdm.request", self._dagster_run_id, start=submitted)
        if submitted is not None:
            with tracing.span("atdm.queue_wait", self._trace, start=submitted):
                pass  # it ends here

    @contextmanager
    def _traced(self, step: str) -> Iterator[tracing.Span]:
        """A step as a span; an error in it is the request's."""
        try:
            with tracing.span(f"atdm.{step}", self._trace) as span:
                yield span
        except BaseException as error:
            self._error = error
            raise

    @contextmanager
    def _undone_on_error(self, step: str) -> Iterator[None]:
        """Roll the request back at once on any error in the block, interrupts included."""
        try:
            yield
        except BaseException as error:
            self._undo(step, error)
            raise

    def _undo(self, step: str, error: BaseException) -> None:
        if self._record is None:
            return
        known = error if isinstance(error, AtdmError) else AtdmError(ErrorCode.SEED_FAILED, "")
        try:
            roll_back(
                self.connection,
                self.store,
                self._record,
                message=str(error) or type(error).__name__,
                step=step,
                code=known.code,
                details={key: value for key, value in known.details.items() if key != "step"},
            )
        except (AtdmError, psycopg.Error) as problem:
            # The first error is the one to report. The request has no rows, and its lock is free
            # once this process is gone: the next search for orphans finds it.
            error.add_note(f"The request could not be rolled back now: {problem}")

    def _log(self) -> None:
        """Write the request's line to the log and end its trace."""
        if self._record is None and self._error is None:
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
        one_run = None
        if self._spec is not None:
            facts |= {
                "request_id": self._spec.request_id,
                "runs": self._spec.runs,
                "invoker": self.invoker,
                "source": self.request.source,
            }
            if self._spec.runs == 1:
                one_run = run_ids.run_id(self._spec.request_id, 1)
        if self.seeded is not None:
            facts["rows"] = self.seeded.rows
        self._trace.set(**facts)
        self._trace.end()
        self._trace = tracing.NONE
        logs.record(
            "request",
            level="info" if error is None else "error",
            seconds=time.perf_counter() - self._began,
            method=facts.pop("source", None),
            test_run_id=one_run,
            dagster_run_id=self._dagster_run_id,
            error=None if error is None else str(error),
            **facts,
        )
