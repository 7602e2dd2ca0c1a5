"""The database that a session leases from, as one process of it sees it.

Imports the database driver: only a process that leases imports this.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from atdm.cli.arguments import length_of
from atdm_engine.errors import AtdmError
from atdm_resources.catalog import leases, suites
from atdm_resources.catalog import queue as queueing
from atdm_resources.catalog.reclaim import TakenBack
from atdm_resources.postgres.connection import connect
from atdm_services.clones import lease as clones
from atdm_services.clones import scenario_copies
from atdm_services.progress import Silent
from atdm_services.requests.request import refuse_language_model
from atdm_services.target import access

if TYPE_CHECKING:
    import psycopg

    from atdm.pytest.data import Records
    from atdm.pytest.marker import Wanted
    from atdm_resources.settings import Settings

SOURCE = "pytest"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds what a process leases.

    ``shared``: others may hold leases under the same owner and secret, so nothing may be given back
    by the owner's name alone.
    """

    owner: str
    secret: str | None = field(repr=False)
    shared: bool

    @classmethod
    def of_process(cls, invoker: str, session_id: str, worker: str) -> Holder:
        """The holder for a process. ATDM_OWNER and ATDM_OWNER_SECRET name another."""
        user = cls.of_user(invoker)
        named = bool(os.environ.get("ATDM_OWNER"))
        return cls(
            user.owner if named else f"{invoker}/{session_id}/{worker}",
            user.secret or secrets.token_urlsafe(24),
            shared=named and user.secret is not None,
        )

    @classmethod
    def of_user(cls, invoker: str) -> Holder:
        """The holder of what outlives the session: whoever runs the tests."""
        return cls(
            os.environ.get("ATDM_OWNER") or invoker,
            os.environ.get("ATDM_OWNER_SECRET") or None,
            shared=True,
        )


class Target:
    """One connection, opened at the first call and again when it was lost."""

    def __init__(self, settings: Settings) -> None:
        refuse_language_model(settings)
        self.settings = settings
        self._opened: psycopg.Connection[Any] | None = None

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """Raises AtdmError TARGET_UNREACHABLE, MISSING_EXTRA."""
        if self._opened is None or self._opened.closed:
            self._opened = access.connected(self.settings, Silent())
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def name(self) -> str:
        """Which database it is, without user and password."""
        info = self.connection.info
        return f"{info.host}:{info.port}/{info.dbname}"

    @property
    def url(self) -> str:
        """The URL that other processes reach it by; it may hold a password."""
        return access.database_url(self.settings, Silent())

    @property
    def can_make(self) -> bool:
        """Whether the server part is installed, so that runs can be made without a daemon."""
        return all(importlib.util.find_spec(name) for name in ("dagster", "pandas", "pandera"))

    def ready(self, wanted: Wanted, most: int) -> suites.Ready:
        return suites.ready(self.connection, wanted.scenario, wanted.constraints, most)

    def lease(self, wanted: Wanted, holder: Holder) -> leases.Lease:
        """A ready run of the pool. Raises AtdmError NONE_READY and whatever else a lease may."""
        domain, _, name = wanted.scenario.rpartition("/")
        return leases.lease(
            self.connection, domain or None, name, dict(wanted.constraints),
            owner=holder.owner, owner_secret=holder.secret, ttl=_length(wanted.ttl), **self._who,
        )  # fmt: skip

    def lease_request(self, request_id: str, wanted: Wanted, holder: Holder) -> leases.Lease:
        """The first ready run of a request that was made for this session."""
        leased = leases.lease_request(
            self.connection, request_id, owner=holder.owner, owner_secret=holder.secret, count=1,
            ttl=_length(wanted.ttl), **self._who,
        )  # fmt: skip
        return leased[0]

    def reset(self, test_run_id: str, token: str) -> dict[str, Any]:
        return leases.reset_run(self.connection, test_run_id, token, **self._who)

    def reset_owner(self, owner: str, secret: str) -> dict[str, Any]:
        return leases.reset_owner(self.connection, owner, secret, **self._who)

    def give_back_unused(self, labels: Sequence[str]) -> TakenBack:
        return suites.give_back_unused(
            self.connection, labels, invoker=self.settings.invoker, source=SOURCE
        )

    def submit(self, key: str, wanted: Wanted, runs: int, holder: Holder) -> dict[str, Any]:
        """Ask the queue for runs that only ``holder`` can claim; how the submission stands."""
        submission = {
            "idempotency_key": key,
            "scenario": wanted.scenario,
            "constraints": wanted.plain_constraints,
            "runs": runs,
            "seed": wanted.seed,
            "as_of": wanted.as_of,
            "owner": holder.owner,
            "invoker": self.settings.invoker,
            "source": SOURCE,
            "secret_sha256": hashlib.sha256((holder.secret or "").encode()).hexdigest(),
        }
        given = {name: value for name, value in submission.items() if value is not None}
        return queueing.submit(self.connection, given)

    def submission(self, key: str, holder: Holder) -> dict[str, Any]:
        return queueing.submission_status(self.connection, key, holder.secret)

    def claim(self, key: str, holder: Holder) -> list[leases.Lease]:
        return leases.claim(
            self.connection, key, secret=holder.secret, owner=holder.owner,
            owner_secret=holder.secret, **self._who,
        )  # fmt: skip

    def records(self, domain: str, test_run_id: str) -> Callable[[], Records]:
        """A call that reads a run's rows."""
        return lambda: suites.records_of_run(self.connection, domain, test_run_id)

    def copy_of(
        self, template: str, domain: str, holder: Holder, wanted: Wanted
    ) -> scenario_copies.CloneLease:
        """A database of a test's own. Raises AtdmError CLONE_FAILED."""
        return scenario_copies.copy_of(
            self.connection, self.url, template, domain=domain, owner=holder.owner,
            ttl=_length(wanted.ttl), **self._who,
        )  # fmt: skip

    def drop_copy(self, database: str, token: str | None) -> None:
        clones.drop_clone(self.connection, self.url, database=database, token=token, **self._who)

    def records_in(self, url: str, domain: str, test_run_id: str) -> Callable[[], Records]:
        """A call that reads a run's rows from another database."""

        def read() -> Records:
            with connect(url) as other:
                return suites.records_of_run(other, domain, test_run_id)

        return read

    def record_outcomes(self, told: Sequence[Mapping[str, object]]) -> int:
        from atdm_resources.catalog import outcomes

        return outcomes.record(self.connection, told)

    @property
    def _who(self) -> dict[str, Any]:
        return {"invoker": self.settings.invoker, "source": SOURCE}


def said(error: BaseException) -> str:
    """An error in one line: its code, what it says, what to do."""
    if not isinstance(error, AtdmError):
        return f"{type(error).__name__}: {error}"
    from atdm_services.advice import ADVICE

    hint = error.details.get("hint") or ADVICE.get(error.code)
    message = error.message.replace("\n", " ")
    return f"{error.code}: {message}" + (f" {hint}" if hint and hint not in message else "")


def _length(text: str | None) -> timedelta | None:
    return None if text is None else length_of(text)
