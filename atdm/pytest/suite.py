"""The leases of one process of a test session."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from atdm.pytest.data import AtdmData
from atdm.pytest.marker import Wanted
from atdm_engine.errors import AtdmError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from atdm.pytest.client import Holder, SessionClient
    from atdm.pytest.outcomes import Outcomes
    from atdm.pytest.session_files import Journal, SessionFolder
    from atdm.pytest.supply import Need, Supply
    from atdm_resources.settings import Settings


class AtdmResetWarning(pytest.PytestWarning):
    """A run's rows could not be deleted after its test; names the run."""


class LeaseClient(Protocol):
    """What the plugin calls of a client that is not ATDM's own: a fake in the tests of a suite."""

    def request_scenario(self, scenario: str, constraints: Any, **options: Any) -> dict[str, Any]:
        """Lease or make a run."""

    def reset_run(self, test_run_id: str, cleanup_token: str) -> Any:
        """Delete its rows."""


@contextmanager
def _as_atdm_errors() -> Iterator[None]:
    """Raise a lost connection and a folder that cannot be written as AtdmError."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise AtdmError(ErrorCode.TARGET_UNREACHABLE, str(error).strip()) from error
    except OSError as error:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"the leases of this session cannot be recorded: {error}; "
            "set ATDM_HOME to a folder that can be written",
        ) from error


@dataclass(frozen=True, slots=True)
class Place:
    """A process of a session. ``workers`` is 1 without pytest-xdist."""

    session_id: str
    worker: str
    workers: int
    keep_failed: bool
    queue_seconds: float


@dataclass(eq=False, slots=True)
class ActiveLease:
    """A lease of this process. ``failed_in`` is the id of a failed test that used it."""

    data: AtdmData
    wanted: Wanted
    seconds: float
    database: str | None = None
    database_token: str | None = field(default=None, repr=False)
    failed_in: str | None = None
    over: bool = False

    @property
    def outcome_key(self) -> dict[str, Any]:
        """How an outcome names the run. The target does not know runs in other databases."""
        data = self.data
        named: dict[str, Any] = {"test_run_id": data.test_run_id}
        if self.database is not None:
            named |= {"scenario": f"{data['domain']}/{data.scenario_id}", "seed": data.seed}
        return named


class Suite:
    """Leases for tests. Connection and files are opened at the first one."""

    def __init__(self, place: Place, say: Callable[[str], None]) -> None:
        self.place = place
        self.seconds: list[float] = []
        self.kept: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.at_the_end: list[ActiveLease] = []
        self._out = 0
        self._restored: dict[str, dict[str, Any]] = {}
        self._say = say
        self._needs: Sequence[Need] = ()
        self._prepared = False
        self._client: LeaseClient | None = None
        self._target: SessionClient | None = None
        self._supply: Supply | None = None
        self._holder: Holder | None = None
        self._folder: SessionFolder | None = None
        self._journal: Journal | None = None
        self._outcomes: Outcomes | None = None

    def plan(self, needs: Sequence[Need]) -> None:
        """Set the leases that the whole session needs."""
        self._needs = needs

    def open(self, client: Any) -> None:
        """Lease through this client from now on.

        Raises:
            AtdmError: an error that every lease would meet.
        """
        from atdm.client.sync import AtdmClient

        if self._client is client or self._target is not None:
            return
        self._client = client
        if isinstance(client, AtdmClient):
            with _as_atdm_errors():
                self._open_target(client)

    def _open_target(self, client: Any) -> None:
        from atdm.pytest.client import Holder, SessionClient
        from atdm.pytest.orphans import reap_others
        from atdm.pytest.outcomes import Outcomes
        from atdm.pytest.session_files import SessionFolder
        from atdm.pytest.supply import Supply

        place = self.place
        settings = client.settings
        folder = SessionFolder(settings.home, place.session_id)
        holder = Holder.of_process(settings.invoker, place.session_id, place.worker)
        target = SessionClient(settings, holder)
        self._journal = folder.journal(
            place.worker, target=target.database, owner=holder.owner, secret=holder.secret,
            shared=holder.shared,
        )  # fmt: skip
        self._folder, self._holder, self._target = folder, holder, target
        self._outcomes = Outcomes(place.session_id, target.record_outcomes)
        self._supply = Supply(
            folder, target, holder, place.workers, place.queue_seconds, self._say,
            tidy=lambda: self.problems.extend(
                reap_others(settings.home, place.session_id, target)
            ),
        )  # fmt: skip

    def prepare(self) -> None:
        """Have the runs made that the session lacks, once."""
        if self._supply is not None and not self._prepared:
            with _as_atdm_errors():
                self._supply.prepare(self._needs)
        self._prepared = True

    def lease(self, wanted: Wanted, why: str) -> ActiveLease:
        """Lease a run. ``why`` is the id of the test. Raises AtdmError."""
        started = time.perf_counter()
        if self._target is None or self._supply is None:
            held = self._requested(wanted, why)
        else:
            self._wait_for_restore()
            self.prepare()
            found = self._found(wanted)
            if found is None:
                found = self._supply.restock(wanted, lambda: self._found(wanted))
            if found is None:
                raise AtdmError(
                    ErrorCode.NONE_READY,
                    f"runs of {wanted.scenario} were made, and other sessions have leased them",
                )
            held = found
            held.seconds = time.perf_counter() - started
        self._out += 1
        if wanted.cleanup == "after_suite":
            self.at_the_end.append(held)
        return held

    def _requested(self, wanted: Wanted, why: str) -> ActiveLease:
        assert self._client is not None
        if wanted.isolation == "database":
            raise AtdmError(
                ErrorCode.REQUEST_INVALID, "isolation='database' needs ATDM's own client"
            )
        started = time.perf_counter()
        answer = self._client.request_scenario(
            wanted.scenario, wanted.constraints, seed=wanted.seed, as_of=wanted.as_of,
            ttl=wanted.ttl, reason=why,
        )  # fmt: skip
        if answer["status"] != "ready":
            raise AtdmError(
                ErrorCode.NONE_READY,
                f"scenario {wanted.scenario} is made to be {answer['status']}: there is no data",
                {"told": True},
            )
        return ActiveLease(AtdmData(answer), wanted, time.perf_counter() - started)

    def _found(self, wanted: Wanted) -> ActiveLease | None:
        """A lease of a run that is ready or in stock, or None."""
        from atdm_services.leases.answer import leased

        target, supply = self._target, self._supply
        assert target is not None
        assert supply is not None
        if wanted.isolation == "database":
            template = supply.stocked(wanted)
            return None if template is None else self._copied(wanted, template)
        if not wanted.pinned:
            try:
                return self._active(target.lease_wanted(wanted), wanted)
            except AtdmError as error:
                # A scenario's file may be newer than what is published: it is made then.
                if error.code not in (ErrorCode.NONE_READY, ErrorCode.SCENARIO_NOT_FOUND) and not (
                    error.code is ErrorCode.TARGET_NOT_INITIALISED
                    and target.settings.database_url is None
                ):
                    raise
        while (entry := supply.stocked(wanted)) is not None:
            if "lease" in entry:
                return self._active(leased(entry["lease"]), wanted)
            try:
                return self._active(target.lease_made(entry["request_id"], wanted), wanted)
            except AtdmError as error:
                if error.code is not ErrorCode.NONE_READY:
                    raise
        return None

    def _active(self, answer: dict[str, Any], wanted: Wanted) -> ActiveLease:
        assert self._target is not None
        assert self._journal is not None
        run = answer["test_run_id"]
        selective = self.place.keep_failed or (self._holder is not None and self._holder.shared)
        if selective and wanted.cleanup != "leave":
            self._journal.write(leased=run, token=str.__str__(answer["cleanup"]["cleanup_token"]))
        records = self._target.records(answer["domain"], run)
        return ActiveLease(AtdmData(answer, records), wanted, 0.0)

    def _copied(self, wanted: Wanted, template: Mapping[str, Any]) -> ActiveLease:
        """A database for this test. Its run was leased when the template was made."""
        from atdm_services.leases.answer import Secret, leased

        target = self._target
        assert target is not None
        assert self._journal is not None
        lease = template["lease"]
        copy = target.copy_of(template["database"], lease["domain"], wanted)
        self._journal.write(copied=copy.database, token=copy.token)
        answer = leased(lease)
        answer["expires_at"] = copy.expires_at.isoformat()
        answer["database_url"] = Secret(copy.url)
        records = target.records(lease["domain"], lease["test_run_id"], copy.url)
        return ActiveLease(AtdmData(answer, records), wanted, 0.0, copy.database, copy.token)

    def release(self, held: ActiveLease) -> None:
        """Reset a lease, or keep it if its test failed and --atdm-keep-failed is set.

        A failed reset is an AtdmResetWarning.
        """
        if held.over or held.wanted.cleanup == "leave":
            return
        held.over = True
        self._out -= 1
        run = held.data.test_run_id
        if held.failed_in is not None and self.place.keep_failed:
            self._keep(held)
            return
        started = time.perf_counter()
        try:
            self._reset(held)
        except Exception as error:
            code = getattr(error, "code", type(error).__name__)
            what = f"database {held.database}" if held.database else f"the rows of test run {run}"
            gone = "dropped" if held.database else "deleted"
            warnings.warn(
                AtdmResetWarning(
                    f"{what} ({held.data.scenario_id}) were not {gone}: {code}: {error}"
                ),
                stacklevel=2,
            )
            return
        self.seconds.append(held.seconds + time.perf_counter() - started)
        if self._journal is not None:
            if held.database is not None:
                self._journal.write(dropped=held.database)
            elif self.place.keep_failed or (self._holder is not None and self._holder.shared):
                self._journal.write(reset=run)

    def _reset(self, held: ActiveLease) -> None:
        run, token = held.data.test_run_id, str.__str__(held.data.token)
        if held.database is not None:
            assert self._target is not None
            self._target.drop_copy(held.database, held.database_token)
            return
        client = self._target or self._client
        assert client is not None
        client.reset_run(run, token)

    def _keep(self, held: ActiveLease) -> None:
        data = held.data
        entry = {
            "kept": data.test_run_id,
            "token": str.__str__(data.token),
            "nodeid": held.failed_in,
            "scenario": data.scenario_id,
            "domain": data["domain"],
            "expires_at": data["expires_at"],
            "keys": {name: str(value) for name, value in data.data.items()},
            "tables": self._tables_of(held),
            "database": held.database,
            "database_token": held.database_token,
        }
        self.kept.append(entry)
        if self._journal is not None:
            self._journal.write(**entry)

    def _tables_of(self, held: ActiveLease) -> list[str]:
        """The tables in which a run has rows; empty where this user may not read them."""
        try:
            return sorted(held.data.records)
        except (AtdmError, KeyError):
            return []

    def _wait_for_restore(self) -> None:
        if self._folder is not None:
            from atdm.pytest.restores import wait_while_restoring

            wait_while_restoring(self._folder)

    def restore(self, baseline: str, restore: Callable[[], Any]) -> dict[str, Any]:
        """The result of ``restore``, called once a session; see ``restores.once``."""
        from atdm.pytest.restores import once

        if self._folder is None:
            if baseline not in self._restored:
                self._restored[baseline] = restore()
            return self._restored[baseline]
        return once(self._folder, baseline, restore, patient=not self._out)

    def note_outcome(self, report: pytest.TestReport, used: Sequence[ActiveLease]) -> None:
        """Record the outcome of a phase of a test that used these leases."""
        if self._outcomes is not None:
            self._outcomes.add(report, [held.outcome_key for held in used])

    def finish(self) -> None:
        """Reset the remaining leases. This process leases no more."""
        if self._target is None or self._journal is None or self._holder is None:
            return
        from atdm.pytest.orphans import reset_all_of

        if self._outcomes is not None:
            self._outcomes.flush()
            self.problems += self._outcomes.problems
        entries = self._journal.entries()
        left = list(reset_all_of(entries, self._target, self._holder, keep=True))
        self.problems += left
        # The journal stays if a reset failed: the next session tries again.
        self._journal.close(remove=not left)
        self._journal = None
        self._target.close()

    @property
    def settings(self) -> Settings | None:
        """The settings of the target, or None if it was not opened."""
        return None if self._target is None else self._target.settings
