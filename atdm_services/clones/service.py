"""Clones for the command line and the client. A lease from the pool loads no server part."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from atdm_engine.errors import AtdmError
from atdm_services.clones import lease, teardown
from atdm_services.clones.creation import CloneLease
from atdm_services.extras import load_registry, server_part
from atdm_services.target import access

if TYPE_CHECKING:
    from atdm_resources.settings import Settings
    from atdm_services.progress import Reporter


@dataclass(frozen=True)
class Clones:
    """The clones of one target. ``domain`` None is the target's default domain."""

    settings: Settings
    reporter: Reporter
    source: str
    domain: str | None = None

    def lease(
        self,
        baseline: str | None = None,
        *,
        database: str | None = None,
        ttl: timedelta | None = None,
        owner: str | None = None,
    ) -> dict[str, Any]:
        """Lease one; its token is in the answer, this once. See ``lease.lease_clone``."""
        with (
            access.connected(self.settings, self.reporter) as conn,
            server_part("making a database from a baseline"),
        ):
            try:
                leased = self._leased(conn, baseline, database, ttl, owner)
            except AtdmError as error:
                if not access.initialised_on_first_use(self.settings, self.reporter, conn, error):
                    raise
                leased = self._leased(conn, baseline, database, ttl, owner)
        return {**leased.as_json(), "status": "leased"}

    def listed(self, *, everything: bool = False) -> list[dict[str, Any]]:
        """The clones that exist, after the expired ones were dropped."""
        with access.connected(self.settings, self.reporter) as conn:
            teardown.sweep(conn)
            found = lease.listed(conn, self._url, everything=everything)
        return [
            item.as_json() for item in found if self.domain is None or item.domain == self.domain
        ]

    def fill(self) -> list[dict[str, Any]]:
        """Fill the pools of ``atdm.yaml``, those of one domain if one was named."""
        registry = load_registry(self.settings)
        with server_part("filling a pool of clones"):
            from atdm_resources.catalog.events import Actor
            from atdm_resources.store.files import Store
            from atdm_services.clones import pool
        domains = pool.pooled_domains(registry, self.domain)
        store = Store(self.settings.store_url, s3=self.settings.s3)
        actor = Actor(self.settings.invoker, self.source)
        with access.connected(self.settings, self.reporter) as conn:
            return [
                pool.fill(conn, self._url, store, registry, domain, actor=actor).as_json()
                for domain in domains
            ]

    def drop(self, database: str, token: str | None) -> dict[str, Any]:
        """Drop a clone. The owner of the catalog may leave the token out."""
        with access.connected(self.settings, self.reporter) as conn:
            done = lease.drop_clone(
                conn,
                database=database,
                token=token,
                invoker=self.settings.invoker,
                source=self.source,
            )
            teardown.sweep(conn)
        return done

    def _leased(
        self,
        conn: Any,
        baseline: str | None,
        database: str | None,
        ttl: timedelta | None,
        owner: str | None,
    ) -> CloneLease:
        return lease.lease_clone(
            conn,
            self._url,
            domain=self.domain,
            baseline=baseline,
            database=database,
            owner=owner or self.settings.invoker,
            ttl=ttl,
            invoker=self.settings.invoker,
            source=self.source,
            settings=self.settings,
        )

    @property
    def _url(self) -> str:
        return access.database_url(self.settings, self.reporter)
