"""The client that one process of a test session leases through.

Imports the database driver: only a process that leases imports this.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from atdm.client.context import length
from atdm.client.sync import AtdmClient
from atdm_engine.errors import AtdmError
from atdm_resources.catalog import leases, suites
from atdm_resources.postgres.connection import connect
from atdm_services.advice import ADVICE
from atdm_services.clones import lease, scenario_copies
from atdm_services.clones.creation import CloneLease
from atdm_services.requests.request import from_pool, of_request, refuse_language_model

if TYPE_CHECKING:
    from atdm.pytest.data import Records
    from atdm.pytest.marker import Wanted
    from atdm_resources.catalog.reclaim import Reclaimed
    from atdm_resources.settings import Settings
    from atdm_services.requests.request import LeaseRequest

SOURCE = "pytest"


@dataclass(frozen=True, slots=True)
class Holder:
    """Owner and secret of the leases of a process.

    ``shared``: others may hold leases under the same owner and secret, so nothing may be reset by
    the owner's name alone.
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
        """The holder of leases that outlive the session: the user who runs the tests."""
        return cls(
            os.environ.get("ATDM_OWNER") or invoker,
            os.environ.get("ATDM_OWNER_SECRET") or None,
            shared=True,
        )


class SessionClient(AtdmClient):
    """``AtdmClient`` with the calls that only a test session makes.

    ``holder`` owns what it leases; without one it can only look and give back.
    """

    def __init__(self, settings: Settings, holder: Holder | None = None) -> None:
        refuse_language_model(settings)
        super().__init__(
            source=SOURCE,
            settings=settings,
            owner=None if holder is None else holder.owner,
            owner_secret=None if holder is None else holder.secret,
        )

    @property
    def database(self) -> str:
        """Host, port and name of the target, without user and password."""
        info = self._connection.info
        return f"{info.host}:{info.port}/{info.dbname}"

    @property
    def url(self) -> str:
        """The URL that other processes reach the target by; it may hold a password."""
        return self._caller.target_url()

    @property
    def can_make(self) -> bool:
        """Whether the server part is installed, so that runs can be made without a daemon."""
        return all(importlib.util.find_spec(name) for name in ("dagster", "pandas", "pandera"))

    def ready(self, wanted: Wanted, most: int) -> suites.Ready:
        """How many runs of the pool the tests could lease, up to ``most``."""
        return suites.ready(self._connection, wanted.scenario, wanted.constraints, most)

    def lease_wanted(self, wanted: Wanted) -> dict[str, Any]:
        """A ready run of the pool, as ``lease`` answers. Raises AtdmError NONE_READY, ..."""
        return from_pool(self._connection, self._request(wanted))

    def lease_made(self, request_id: str, wanted: Wanted) -> dict[str, Any]:
        """The first ready run of a request that was made for this session."""
        return of_request(self._connection, request_id, self._request(wanted))

    def _request(self, wanted: Wanted) -> LeaseRequest:
        request = self._caller.request(wanted.scenario, wanted.constraints, ttl=wanted.ttl)
        if wanted.cleanup != "leave":
            return request
        user = Holder.of_user(self.settings.invoker)
        return replace(request, owner=user.owner, owner_secret=user.secret)

    def claim_leases(self, key: str, holder: Holder) -> list[leases.Lease]:
        """Lease the runs of a submission as JSON can keep them: with tokens in plain text."""
        return leases.claim(
            self._connection, key, secret=holder.secret, owner=holder.owner,
            owner_secret=holder.secret, **self._caller.who,
        )  # fmt: skip

    def reclaim_unused(self, labels: Sequence[str]) -> Reclaimed:
        """Reset the ready runs of the requests with these labels."""
        return suites.reclaim_unused(self._connection, labels, **self._caller.who)

    def copy_of(self, template: str, domain: str, wanted: Wanted) -> CloneLease:
        """A database for one test, copied from ``template``. Raises AtdmError CLONE_FAILED."""
        return scenario_copies.copy_of(
            self._connection, self.url, template, domain=domain, owner=str(self._caller.owner),
            ttl=length(wanted.ttl), **self._caller.who,
        )  # fmt: skip

    def drop_copy(self, database: str, token: str | None) -> None:
        """Drop a database that ``copy_of`` made."""
        lease.drop_clone(self._connection, database=database, token=token, **self._caller.who)

    def records(self, domain: str, run: str, url: str | None = None) -> Callable[[], Records]:
        """A call that reads the rows of a run; ``url`` names another database than the target."""

        def read() -> Records:
            if url is None:
                return suites.records_of_run(self._connection, domain, run)
            with connect(url) as other:
                return suites.records_of_run(other, domain, run)

        return read


def in_one_line(error: BaseException) -> str:
    """An error in one line: its code, its message, what to do."""
    if not isinstance(error, AtdmError):
        return f"{type(error).__name__}: {error}"
    hint = error.details.get("hint") or ADVICE.get(error.code)
    message = error.message.replace("\n", " ")
    return f"{error.code}: {message}" + (f" {hint}" if hint and hint not in message else "")
