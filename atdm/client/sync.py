"""The Python client: scenarios, runs, resets and the audit trail of one target.

Importing it loads no more than the database driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from atdm.client.context import Caller, earliest, length
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import Settings
from atdm_services.advice import ADVICE

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

    from atdm_services.baselines.service import Baselines

__all__ = ["AtdmClient", "AtdmClientError"]

P = ParamSpec("P")
T = TypeVar("T")


class AtdmClientError(AtdmError):
    """An error: ``code``, ``message``, ``details``, and ``hint``, what to do about it."""

    @property
    def body(self) -> dict[str, Any]:
        """The error as the command line prints it in JSON."""
        return self.envelope()

    @property
    def status_code(self) -> int | None:
        """The HTTP status with which a Dagster webserver or its proxy refused."""
        return self.details.get("status_code")

    @property
    def hint(self) -> str | None:
        """What to do about it, or None."""
        return self.details.get("hint") or ADVICE.get(self.code)

    @classmethod
    def of(cls, error: AtdmError) -> AtdmClientError:
        """The same error as AtdmClientError."""
        return cls(error.code, error.message, error.details)


def _raising(
    method: Callable[Concatenate[AtdmClient, P], T],
) -> Callable[Concatenate[AtdmClient, P], T]:
    @wraps(method)
    def call(self: AtdmClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except AtdmClientError:
            raise
        except AtdmError as error:
            raise AtdmClientError.of(error) from error

    return call


class AtdmClient:
    """Leases test data of one target and resets it.

    Args:
        database_url: the target; default: ATDM_DATABASE_URL, else the embedded server of ATDM_HOME,
            which is started if it does not run. An ``http://`` or ``https://`` URL means
            ``dagster_url``.
        dagster_url: a Dagster webserver, as in a browser. Its jobs then make data, run
        ``reset_all`` and capture and restore baselines, instead of this process. Leases still go to
        the
            database: no token enters Dagster.
        headers: sent to the webserver, for an authenticating proxy.
        code_location: the code location with the jobs, if several have them.
        timeout: seconds that one request to the webserver may take.
        run_timeout: seconds that a run there may take.
        owner: the owner of the leases; default: ATDM_OWNER, else the invoker.
        owner_secret: what ``reset_owner`` needs to reset these leases; default: ATDM_OWNER_SECRET.
        source: the calling program, for the audit trail.
        settings: used instead of those of the environment.

    It connects at its first call and is not shared between processes. As a context manager it
    closes the connection on exit; leased runs stay leased.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        dagster_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        code_location: str | None = None,
        timeout: float = 30.0,
        run_timeout: float = 600.0,
        owner: str | None = None,
        owner_secret: str | None = None,
        source: str = "client",
        settings: Settings | None = None,
    ) -> None:
        try:
            self._caller = Caller(
                database_url,
                dagster_url=dagster_url,
                headers=headers,
                code_location=code_location,
                timeout=timeout,
                run_timeout=run_timeout,
                owner=owner,
                owner_secret=owner_secret,
                source=source,
                settings=settings,
            )
        except AtdmError as error:
            raise AtdmClientError.of(error) from error
        self._opened: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections; a later call opens new ones."""
        self._caller.close()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @_raising
    def request_scenario(
        self,
        scenario: str,
        constraints: Mapping[str, Any] | None = None,
        *,
        runs: int = 1,
        seed: int | None = None,
        as_of: datetime | str | None = None,
        label: str | None = None,
        ttl: timedelta | str | None = None,
        reason: str | None = None,
        lease: bool = True,
    ) -> dict[str, Any]:
        """Lease a ready test run, or make one if none is ready.

        Returns what ``atdm -o json request`` prints; ``repr`` hides the cleanup token.
        ``ttl`` and ``as_of`` may be text: ``30m``, an ISO 8601 time. ``lease`` False makes the runs
        and leaves them ready for others. Making runs needs the extra ``server`` or a webserver.
        Raises AtdmClientError with the code of the problem.
        """
        wanted = self._caller.request(
            scenario,
            constraints,
            runs=runs,
            seed=seed,
            as_of=as_of,
            label=label,
            ttl=ttl,
            reason=reason,
            lease=lease,
        )
        if self._caller.is_remote:
            return self._caller.remote.request(self._settings, lambda: self._connection, wanted)
        from atdm.in_dagster import make
        from atdm_services.requests.request import request_data

        return request_data(self._settings, self._caller.reporter, self._connection, wanted, make)

    @_raising
    def lease(
        self,
        scenario: str,
        constraints: Mapping[str, Any] | None = None,
        *,
        runs: int = 1,
        ttl: timedelta | str | None = None,
    ) -> dict[str, Any]:
        """Lease a ready run in milliseconds; never makes one.

        Raises AtdmClientError NONE_READY, SCENARIO_NOT_FOUND, CONSTRAINT_INVALID, BUSY.
        """
        from atdm_services.requests.request import from_pool

        request = self._caller.request(scenario, constraints, runs=runs, ttl=ttl)
        return from_pool(self._connection, request)

    @_raising
    def submit(
        self,
        scenario: str,
        constraints: Mapping[str, Any] | None = None,
        *,
        runs: int = 1,
        seed: int | None = None,
        as_of: datetime | str | None = None,
        ttl: timedelta | str | None = None,
        reason: str | None = None,
        idempotency_key: str | None = None,
        priority: int = 0,
        cleanup_strategy: str | None = None,
    ) -> dict[str, Any]:
        """Submit a request to the queue: the daemon makes it, together with equal requests.

        Returns its status and ``idempotency_key``: the same key twice is one submission. ``claim``
        leases its runs. Raises AtdmClientError REQUEST_INVALID, REQUEST_CONFLICT.
        """
        from atdm_services.queue import submit as submitting

        request = self._caller.request(
            scenario, constraints, runs=runs, seed=seed, as_of=as_of, ttl=ttl, reason=reason
        )
        return submitting.submit(
            self._connection,
            request,
            key=idempotency_key,
            priority=priority,
            cleanup=cleanup_strategy,
        )

    @_raising
    def claim(
        self,
        idempotency_key: str,
        *,
        wait: timedelta | str | None = None,
        ttl: timedelta | str | None = None,
    ) -> dict[str, Any]:
        """Lease the runs of a submission, once; answers like ``request_scenario``.

        ``wait``: how long to wait for the daemon; without it, runs that are not made yet are
        NONE_READY. A scenario that breaks rules on purpose has no runs: its status is returned.
        Raises AtdmClientError RUN_NOT_FOUND, NONE_READY, REQUEST_CONFLICT if the runs are leased
        already, BUSY, and the error that the submission was rejected with.
        """
        from atdm_services.queue import submit as submitting

        secret = self._caller.owner_secret
        patience = length(wait)
        if patience is not None:
            standing = submitting.answered(self._connection, idempotency_key, secret, patience)
            if submitting.is_expected_violation(standing):
                return standing
        return submitting.claimed(
            self._connection, idempotency_key, secret, ttl=length(ttl), **self._caller.who
        )

    @_raising
    def submission(self, idempotency_key: str) -> dict[str, Any]:
        """The status of a submission. Raises AtdmClientError RUN_NOT_FOUND for an unknown key."""
        from atdm_resources.catalog import queue as queueing

        return queueing.submission_status(
            self._connection, idempotency_key, self._caller.owner_secret
        )

    @_raising
    def reset_run(self, test_run_id: str, cleanup_token: str) -> dict[str, Any]:
        """Delete a run's rows. The second time the status is ``already_cleaned``.

        Returns status, and deleted and adopted (rows of the application that referred to the run)
        by table. Raises AtdmClientError TOKEN_MISMATCH for a wrong token and for an unknown run.
        """
        return leases.reset_run(self._connection, test_run_id, cleanup_token, **self._caller.who)

    @_raising
    def reset_owner(self, owner: str, secret: str | None = None) -> dict[str, Any]:
        """Delete the rows of every run that an owner holds.

        ``secret`` is the owner_secret of the leases; the owner of the catalog may leave it out.
        """
        return leases.reset_owner(self._connection, owner, secret, **self._caller.who)

    @_raising
    def reset_all(self, *, confirm: bool = False, revoke_leases: bool = False) -> dict[str, Any]:
        """Delete the rows of every test run. Raises AtdmClientError CONFIRM_REQUIRED, BUSY."""
        if self._caller.is_remote:
            return self._caller.remote.reset_all(confirm=confirm, revoke_leases=revoke_leases)
        from atdm_services.leases.reset_all import reset_all

        return reset_all(
            self._settings,
            self._connection,
            confirm=confirm,
            revoke_leases=revoke_leases,
            source=self._caller.source,
        )

    @_raising
    def baseline_snapshot(
        self, baseline_id: str | None = None, *, domain: str | None = None, reason: str = ""
    ) -> dict[str, Any]:
        """Capture a baseline; returns its summary. Needs the extra ``server`` or a webserver.

        Raises AtdmClientError BASELINE_EXISTS, BUSY, SNAPSHOT_FAILED, STORE_FAILED.
        """
        if self._caller.is_remote:
            return self._caller.remote.snapshot(baseline_id, domain=domain, reason=reason)
        return self._baselines(domain).capture(baseline_id, reason=reason, shown=False)

    @_raising
    def baseline_restore(
        self,
        baseline_id: str | None = None,
        *,
        domain: str | None = None,
        revoke_leases: bool = False,
        reason: str = "",
    ) -> dict[str, Any]:
        """Restore a baseline, the latest if none is named; returns what was restored.

        Raises AtdmClientError NO_BASELINE, BASELINE_NOT_FOUND, BASELINE_INVALID, TARGET_DRIFT, BUSY
        (naming owners of leases), RESTORE_FAILED: then the target is unchanged.
        """
        if self._caller.is_remote:
            return self._caller.remote.restore(
                baseline_id, domain=domain, revoke_leases=revoke_leases, reason=reason
            )
        return self._baselines(domain).restore(
            baseline_id, revoke_leases=revoke_leases, reason=reason, shown=False
        )

    @_raising
    def baseline_list(self, *, domain: str | None = None) -> list[dict[str, Any]]:
        """The baselines in the store, newest first."""
        return self._baselines(domain).listed()

    def _baselines(self, domain: str | None) -> Baselines:
        from atdm import in_dagster

        return in_dagster.baselines(
            self._settings, self._caller.reporter, self._caller.source, domain
        )

    @_raising
    def get_audit(self, run: str) -> dict[str, Any]:
        """The audit trail of a run id, a request id or a label. Raises RUN_NOT_FOUND."""
        from atdm.in_dagster import read_run
        from atdm_services.audit.report import audit_trail

        return audit_trail(self._settings, self._connection, run, read_run)

    @_raising
    def seal_audit(self) -> dict[str, Any]:
        """Seal the audit trail and export it to the store, as the daemon does where one runs.

        For the owner of the catalog; needs the extra ``server``. Returns sealed (events) and files.
        """
        from atdm_resources.catalog import seal
        from atdm_services.extras import server_part

        with server_part("exporting the audit trail"):
            from atdm_resources.store.files import Store
            from atdm_services.audit import export
        sealed = seal.seal(self._connection)
        store = Store(self._settings.store_url, s3=self._settings.s3)
        return {"sealed": sealed, "files": export.export(self._connection, store)}

    @_raising
    def get_scenarios(self) -> list[dict[str, Any]]:
        """The scenarios that are published in the target."""
        from atdm_resources.catalog import runs as reports

        return reports.scenarios(self._connection)

    @_raising
    def catalog(
        self,
        *,
        scenario: str | None = None,
        status: str | None = None,
        owner: str | None = None,
        request_id: str | None = None,
        since: datetime | timedelta | str | None = None,
        limit: int = 50,
    ) -> list[dict[str, Any]]:
        """The test runs that fit every filter, the newest first; for the catalog's owner.

        ``status`` is ready, leased, cleaned or expired; ``since`` a time or a length of time
        (``2h``).
        """
        from atdm_resources.catalog import pages

        start = earliest(since)
        filters = pages.Filters(
            scenario_id=scenario,
            status=status,
            owner=owner,
            request_id=request_id,
            since=datetime.now(UTC) - start if isinstance(start, timedelta) else start,
        )
        return pages.read(self._connection, "runs", filters, limit=limit).rows

    @_raising
    def replay(
        self,
        run: str | None = None,
        *,
        into: str | None = None,
        spec: Path | str | None = None,
        prove: bool | None = None,
        ttl: timedelta | str | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        """Make a test run again under its old id and lease it; see
        ``atdm_services.replay.replay.replay``.

        ``into`` is the URL of another database, ``spec`` a file that ``atdm replay --print-spec``
        wrote. Returns what a request returns, and ``replay``: database, hashes, rows. Needs the
        extra ``server``. Raises AtdmClientError REQUEST_CONFLICT while its rows are there, and
        naming what changed since.
        """
        from pathlib import Path

        from atdm_services.replay.replay import replay
        from atdm_services.replay.request import ReplayRequest

        if run is None and spec is None:
            raise AtdmError(ErrorCode.REQUEST_INVALID, "name a test run, or a file with its spec")
        return replay(
            replace(self._settings, database_url=self._caller.target_url()),
            self._caller.reporter,
            ReplayRequest(
                run=run,
                spec=None if spec is None else Path(spec),
                into=into,
                prove=prove,
                owner=self._caller.owner,
                owner_secret=self._caller.owner_secret,
                ttl=length(ttl),
                reason=reason,
                source=self._caller.source,
            ),
        )

    @_raising
    def record_outcomes(self, outcomes: Sequence[Mapping[str, object]]) -> int:
        """Record outcomes of tests; returns the number of new ones. See
        ``atdm_resources.catalog.outcomes``.

        Raises AtdmClientError REQUEST_INVALID naming each wrong one; RUN_NOT_FOUND naming unknown
        runs, after all others were recorded.
        """
        from atdm_resources.catalog import outcomes as recording

        return recording.record(self._connection, outcomes)

    @_raising
    def coverage(
        self,
        *,
        since: datetime | timedelta | str | None = None,
        session: str | None = None,
    ) -> dict[str, Any]:
        """Requirements against scenarios against outcomes, as ``atdm -o json coverage`` prints it.

        For the catalog's owner. ``since`` is a time or a length of time (``7d``), ``session``
        ``last`` or the name of a test session.
        """
        from atdm_services.coverage.report import coverage

        return coverage(self._connection, since=earliest(since), session=session)

    @property
    def settings(self) -> Settings:
        """The settings of environment and arguments: target, invoker."""
        return self._caller.settings

    @property
    def _settings(self) -> Settings:
        return self._caller.settings

    @property
    def _connection(self) -> psycopg.Connection[Any]:
        if self._opened is None or self._opened.closed:
            self._opened = connect(self._caller.target_url())
        return self._opened
