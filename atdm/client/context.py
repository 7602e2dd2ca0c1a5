"""Invoker, owner and target of a client, before it connects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.settings import Settings
from atdm_resources.telemetry.redaction import redact_url
from atdm_services.progress import Silent
from atdm_services.target import access

if TYPE_CHECKING:
    from atdm.client.remote_runs import RemoteRuns
    from atdm_services.requests.request import LeaseRequest

_WEB = ("http://", "https://")


class Caller:
    """Invoker, owner and target. The arguments are those of ``AtdmClient``."""

    def __init__(
        self,
        database_url: str | None,
        *,
        dagster_url: str | None,
        headers: Mapping[str, str] | None,
        code_location: str | None,
        timeout: float,
        run_timeout: float,
        owner: str | None,
        owner_secret: str | None,
        source: str,
        settings: Settings | None,
    ) -> None:
        if database_url is not None and database_url.startswith(_WEB):
            if dagster_url is not None:
                raise _refused("two webservers are named; the first argument is a database URL")
            database_url, dagster_url = None, database_url
        if dagster_url is not None and not _is_web_address(dagster_url):
            raise _refused(
                f"dagster_url {redact_url(dagster_url)!r}: write http://HOST:PORT or https://HOST"
            )
        self.reporter = Silent()
        self.source = source
        self._owner = owner
        self._owner_secret = owner_secret
        self._given = settings
        self._database_url = database_url
        self._dagster_url = dagster_url and dagster_url.rstrip("/").removesuffix("/graphql")
        self._headers = headers
        self._code_location = code_location
        self._timeout = timeout
        self._run_timeout = run_timeout

    @cached_property
    def settings(self) -> Settings:
        """The settings of the environment, with the arguments of this client."""
        settings = self._given or Settings.from_environment()
        if self._database_url is None:
            return settings
        return replace(settings, database_url=self._database_url)

    @property
    def who(self) -> dict[str, Any]:
        """Invoker and source, for the audit trail."""
        return {"invoker": self.settings.invoker, "source": self.source}

    @property
    def owner(self) -> str | None:
        """The owner of the leases; None means the invoker."""
        return self._owner or os.environ.get("ATDM_OWNER") or None

    @property
    def owner_secret(self) -> str | None:
        """The secret that ``reset_owner`` needs for these leases."""
        return self._owner_secret or os.environ.get("ATDM_OWNER_SECRET") or None

    @property
    def is_remote(self) -> bool:
        """Whether a webserver runs the work that needs a Dagster run."""
        return self._dagster_url is not None

    @cached_property
    def remote(self) -> RemoteRuns:
        """The jobs of the webserver; only if ``is_remote``."""
        from atdm.client.graphql import DagsterWebserver
        from atdm.client.remote_runs import RemoteRuns

        assert self._dagster_url is not None
        webserver = DagsterWebserver(
            self._dagster_url,
            headers=self._headers,
            timeout=self._timeout,
            code_location=self._code_location,
        )
        return RemoteRuns(
            webserver, invoker=self.settings.invoker, source=self.source, timeout=self._run_timeout
        )

    def close(self) -> None:
        """Close the connection to the webserver."""
        opened = self.__dict__.pop("remote", None)
        if opened is not None:
            opened.close()

    def target_url(self) -> str:
        """The URL of the target; starts the embedded server if neither database nor webserver is
        named.

        Raises AtdmError REQUEST_INVALID if only a webserver is named: no token enters Dagster, so
        leases and reads of the catalog need the database.
        """
        if self.is_remote and self.settings.database_url is None:
            raise AtdmError(
                ErrorCode.REQUEST_INVALID,
                "this needs the database: tokens and the catalog never go through Dagster",
                {
                    "hint": "Give both: AtdmClient(database_url=..., dagster_url=...), or set "
                    "ATDM_DATABASE_URL; the role atdm_client is enough to lease and to reset. "
                    "With lease=False a request needs the webserver alone."
                },
            )
        return access.database_url(self.settings, self.reporter)

    def request(
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
    ) -> LeaseRequest:
        """The checked request. Raises AtdmError REQUEST_INVALID."""
        from atdm_services.requests.request import LeaseRequest

        if not isinstance(scenario, str) or not scenario.strip():
            raise _refused(f"scenario {scenario!r}: the name of one, or domain/name")
        if constraints is not None and not isinstance(constraints, Mapping):
            raise _refused(f"constraints {constraints!r}: a mapping of names to values")
        if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
            raise _refused(f"runs {runs!r}: a whole number, 1 or more")
        return LeaseRequest(
            scenario=scenario.strip(),
            constraints=constraints or {},
            runs=runs,
            seed=seed,
            as_of=moment(as_of),
            label=label,
            pooled=not lease,
            invoker=self.settings.invoker,
            ttl=length(ttl),
            reason=reason,
            owner=self.owner,
            owner_secret=self.owner_secret,
            source=self.source,
        )


def moment(value: datetime | str | None) -> datetime | None:
    """A point in time; text is ISO 8601, in UTC if it has no offset."""
    if isinstance(value, str):
        from atdm_services.arguments import parse_time

        return parse_time(value)
    if value is not None and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


def length(value: timedelta | str | None) -> timedelta | None:
    """A length of time; text like ``30m``, ``4h``."""
    if isinstance(value, str):
        from atdm_services.arguments import parse_length

        return parse_length(value)
    return value


def earliest(value: datetime | timedelta | str | None) -> datetime | timedelta | None:
    """The start of a period: a point in time, or how long ago; text may be either."""
    if isinstance(value, str) and value.strip()[-1:] in ("s", "m", "h", "d"):
        return length(value.strip())
    return value if isinstance(value, timedelta) else moment(value)


def _is_web_address(url: str) -> bool:
    try:
        return url.startswith(_WEB) and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _refused(message: str) -> AtdmError:
    return AtdmError(ErrorCode.REQUEST_INVALID, message)
