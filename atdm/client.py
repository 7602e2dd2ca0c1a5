"""The Python client: scenarios, runs, resets and the audit trail of one target.

Belongs here: the methods that other programs call (requirement A-PYT-07). Does not belong here: how
a run is found or made (``atdm.requesting``), texts for people (``atdm.cli``). Importing it loads no
more than the database driver.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from atdm import target_access
from atdm.output import Output
from atdm_engine.errors import AtdmError
from atdm_resources import leasing
from atdm_resources.settings import Settings

if TYPE_CHECKING:
    import psycopg

    from atdm.baselining import Baselines

__all__ = ["AtdmClient", "AtdmClientError"]

P = ParamSpec("P")
T = TypeVar("T")


class AtdmClientError(AtdmError):
    """What went wrong: ``code``, ``message``, ``details``; ``body`` is the whole envelope."""

    @property
    def body(self) -> dict[str, Any]:
        return self.envelope()


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
            raise AtdmClientError(error.code, error.message, error.details) from error

    return call


class AtdmClient:
    """Asks one target for test data and gives it back.

    Args:
        database_url: the target; default: ATDM_DATABASE_URL, else the embedded server of ATDM_HOME,
            which is started when it does not run.
        owner: who holds what this client leases; default: ATDM_OWNER, else the invoker.
        source: what calls, for the audit trail.
        settings: instead of those of the environment.

    It connects at its first call and is not shared between processes. A context manager: leaving it
    closes the connection, and leaves leased runs alone.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        owner: str | None = None,
        source: str = "client",
        settings: Settings | None = None,
    ) -> None:
        self._given = settings
        self._url = database_url
        self._owner = owner
        self._source = source
        self._output = Output(quiet=True)
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
        """Close the connection; a later call opens a new one."""
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
    ) -> dict[str, Any]:
        """Lease a ready test run, or make one when none is ready.

        Returns what ``atdm -o json request`` prints; the cleanup token in it does not show in
        ``repr``. ``ttl`` and ``as_of`` may be text: ``30m``, an ISO 8601 time. Making needs the
        extra ``server``. Raises AtdmClientError with the code of the problem.
        """
        from atdm.requesting import Wish, request

        wish = Wish(
            scenario=scenario,
            constraints=constraints or {},
            runs=runs,
            seed=seed,
            as_of=_moment(as_of),
            label=label,
            ttl=_length(ttl),
            reason=reason,
            owner=self._owner or os.environ.get("ATDM_OWNER") or None,
            owner_secret=os.environ.get("ATDM_OWNER_SECRET") or None,
            source=self._source,
        )
        return request(self._settings, self._output, self._connection, wish)

    @_raising
    def reset_run(self, test_run_id: str, cleanup_token: str) -> dict[str, Any]:
        """Delete a run's rows. A second time it is ``already_cleaned``.

        Returns status, deleted and adopted (what the application had hung on them) by table. Raises
        AtdmClientError TOKEN_MISMATCH for a wrong token and for an unknown run alike.
        """
        return leasing.reset_run(
            self._connection,
            test_run_id,
            cleanup_token,
            invoker=self._settings.invoker,
            source=self._source,
        )

    @_raising
    def reset_owner(self, owner: str, secret: str | None = None) -> dict[str, Any]:
        """Delete the rows of every run that an owner holds.

        ``secret`` is what ATDM_OWNER_SECRET was when they were leased; whoever owns the catalog may
        leave it out.
        """
        return leasing.reset_owner(
            self._connection,
            owner,
            secret,
            invoker=self._settings.invoker,
            source=self._source,
        )

    @_raising
    def reset_all(self, *, confirm: bool = False, revoke_leases: bool = False) -> dict[str, Any]:
        """Delete the rows of every test run. Raises AtdmClientError CONFIRM_REQUIRED, BUSY."""
        from atdm.resetting import reset_all

        return reset_all(
            self._settings,
            self._connection,
            confirm=confirm,
            revoke_leases=revoke_leases,
            source=self._source,
        )

    @_raising
    def baseline_snapshot(
        self, baseline_id: str | None = None, *, domain: str | None = None, reason: str = ""
    ) -> dict[str, Any]:
        """Capture a baseline; its summary. Needs the extra ``server``.

        Raises AtdmClientError BASELINE_EXISTS, BUSY, SNAPSHOT_FAILED, STORE_FAILED.
        """
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
        """Bring the tables to a baseline, the latest when none is named; what came back.

        Raises AtdmClientError NO_BASELINE, BASELINE_NOT_FOUND, BASELINE_INVALID, TARGET_DRIFT, BUSY
        (naming owners of leases), RESTORE_FAILED: the target is as it was then.
        """
        return self._baselines(domain).restore(
            baseline_id, revoke_leases=revoke_leases, reason=reason, shown=False
        )

    @_raising
    def baseline_list(self, *, domain: str | None = None) -> list[dict[str, Any]]:
        """The baselines in the store, newest first."""
        return self._baselines(domain).listed()

    def _baselines(self, domain: str | None) -> Baselines:
        from atdm.baselining import Baselines

        return Baselines(self._settings, self._output, self._source, domain)

    @_raising
    def get_audit(self, run: str) -> dict[str, Any]:
        """The audit trail of a run id, a request id or a label. Raises RUN_NOT_FOUND."""
        from atdm.audit import audit_trail

        return audit_trail(self._settings, self._connection, run)

    @_raising
    def seal_audit(self) -> dict[str, Any]:
        """Seal the audit trail and export it to the store, as the daemon does where one runs.

        For the owner of the catalog; needs the extra ``server``. Returns sealed (events) and files.
        """
        from atdm.extras import server_part
        from atdm_resources import sealing

        with server_part("exporting the audit trail"):
            from atdm_resources import audit_export
            from atdm_resources.store import Store
        sealed = sealing.seal(self._connection)
        store = Store(self._settings.store_url, s3=self._settings.s3)
        return {"sealed": sealed, "files": audit_export.export(self._connection, store)}

    @_raising
    def get_scenarios(self) -> list[dict[str, Any]]:
        """The scenarios that are published in the target."""
        from atdm_resources import reports

        return reports.scenarios(self._connection)

    @property
    def _settings(self) -> Settings:
        if self._given is None:
            self._given = Settings.from_environment()
        if self._url is not None and self._given.database_url != self._url:
            self._given = replace(self._given, database_url=self._url)
        return self._given

    @property
    def _connection(self) -> psycopg.Connection[Any]:
        if self._opened is None or self._opened.closed:
            self._opened = target_access.connected(self._settings, self._output)
        return self._opened


def _moment(value: datetime | str | None) -> datetime | None:
    if isinstance(value, str):
        from atdm.arguments import moment_of

        return moment_of(value)
    if value is not None and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


def _length(value: timedelta | str | None) -> timedelta | None:
    if isinstance(value, str):
        from atdm.arguments import length_of

        return length_of(value)
    return value
