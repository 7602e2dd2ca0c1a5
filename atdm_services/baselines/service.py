"""Baselines for the command line and the client, without a Dagster run around them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from atdm_engine.errors import unknown_domain
from atdm_engine.progress import Progress
from atdm_resources.catalog.events import Actor
from atdm_services.extras import server_part
from atdm_services.target import access

with server_part("working with baselines"):
    from atdm_resources.store.bundle import load_registry
    from atdm_resources.store.files import Store
    from atdm_services.baselines import capture, diff, listing, manifest, restore

if TYPE_CHECKING:
    import psycopg

    from atdm_engine.bundle.registry import Registry
    from atdm_resources.settings import Settings
    from atdm_services.baselines.manifest import Manifest
    from atdm_services.baselines.restore import Restored
    from atdm_services.progress import Reporter

# The command line switches it off for its imports; from here on there is garbage.
gc.enable()


class Record(Protocol):
    """Shows in Dagster what was done to a baseline outside any of its runs."""

    def captured(self, settings: Settings, uri: str, made: Manifest) -> None: ...

    def restored(self, settings: Settings, done: Restored, reason: str) -> None: ...

    def deleted(self, settings: Settings, domain: str, baseline_id: str) -> None: ...


@dataclass(frozen=True)
class Baselines:
    """The baselines of one domain.

    Args:
        record: shows in Dagster what is done.
        drop_clones: drops what was made for cloning a baseline: connection, domain, id, actor.
        source: the face, for the audit trail.
        domain_name: None: the bundle's default domain.
    """

    settings: Settings
    reporter: Reporter
    record: Record
    drop_clones: Callable[[psycopg.Connection[Any], str, str, Actor], None]
    source: str
    domain_name: str | None = None

    def capture(
        self,
        baseline_id: str | None,
        *,
        reason: str = "",
        progress: Progress | None = None,
        shown: bool = True,
    ) -> dict[str, Any]:
        """Capture one; returns its summary.

        ``shown`` False leaves out the materialisation in Dagster, which takes seconds to load.
        Raises AtdmError BASELINE_EXISTS, BUSY, SNAPSHOT_FAILED, STORE_FAILED.
        """
        made = capture.capture(
            self.url,
            self.store,
            self.domain,
            baseline_id,
            actor=self._actor(reason),
            progress=progress,
        )

        if shown:
            self.record.captured(self._resolved, self.store.uri(_folder(made)), made)
        return {**made.summary(), "status": "captured"}

    def restore(
        self,
        baseline_id: str | None,
        *,
        revoke_leases: bool = False,
        reason: str = "",
        progress: Progress | None = None,
        shown: bool = True,
    ) -> dict[str, Any]:
        """Restore one, the latest when none is named; returns what was restored.

        ``shown`` False leaves out the observation in Dagster, which takes seconds to load.
        """
        done = restore.restore(
            self.url,
            self.store,
            self.domain,
            baseline_id,
            actor=self._actor(reason),
            revoke_leases=revoke_leases,
            progress=progress,
        )

        if shown:
            self.record.restored(self._resolved, done, reason)
        return done.as_json()

    def listed(self) -> list[dict[str, Any]]:
        """The baselines in the store, newest first."""
        return [item.as_json() for item in listing.baselines(self.store, self.domain)]

    def verify(self, baseline_id: str, progress: Progress | None = None) -> dict[str, Any]:
        """Read every file again."""
        problems = listing.verify(self.store, self.domain, baseline_id, progress)
        return {
            "domain": self.domain,
            "baseline_id": baseline_id,
            "intact": not problems,
            "problems": problems,
        }

    def diff(self, one: str, other: str) -> dict[str, Any]:
        """How ``other`` differs from ``one``; either may be ``live``."""
        found = diff.compare(self.url, self.store, self.domain, one, other)
        return {
            "domain": self.domain,
            "from": one,
            "to": other,
            "same": all(table.same for table in found),
            "tables": [table.as_json() for table in found if not table.same],
        }

    def delete(self, baseline_id: str, *, confirm: bool) -> dict[str, Any]:
        """Delete one, its templates and its unleased clones."""
        actor = self._actor("")
        with access.connected(self.settings, self.reporter) as conn:
            count = listing.delete(
                conn, self.store, self.domain, baseline_id, confirm=confirm, actor=actor
            )
            self.drop_clones(conn, self.domain, baseline_id, actor)

        self.record.deleted(self._resolved, self.domain, baseline_id)
        return {
            "status": "deleted",
            "domain": self.domain,
            "baseline_id": baseline_id,
            "files": count,
        }

    @cached_property
    def url(self) -> str:
        """The target's URL."""
        return access.database_url(self.settings, self.reporter)

    @cached_property
    def store(self) -> Store:
        """The store, opened."""
        return Store(self.settings.store_url, s3=self.settings.s3)

    @cached_property
    def domain(self) -> str:
        """The domain's name. Raises AtdmError REQUEST_INVALID with the nearest spelling."""
        if self.domain_name is None:
            return self._registry.default_domain
        known = self._registry.domains
        if self.domain_name not in known:
            raise unknown_domain(self.domain_name, known)
        return self.domain_name

    @cached_property
    def _registry(self) -> Registry:
        return load_registry(self.settings)

    def _actor(self, reason: str) -> Actor:
        return Actor(self.settings.invoker, self.source, reason)

    @property
    def _resolved(self) -> Settings:
        return replace(self.settings, database_url=self.url)


def _folder(made: Manifest) -> str:
    return manifest.BaselineFiles(made.domain, made.baseline_id).folder
