"""The Dagster resource that executes requests: one a run, shared by its steps."""

# No postponed annotations here: Dagster reads those of a resource's fields.

from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_engine.model import Scenario
from atdm_resources.catalog import requests
from atdm_resources.catalog.requests import RequestRecord
from atdm_resources.postgres.target import ensure_disposable
from atdm_resources.settings import Settings
from atdm_services.requests import orphans
from atdm_services.requests.execution import RequestWork


class RequestsResource(dg.ConfigurableResource[Any]):
    """Executes requests against a target and a store.

    Nothing is opened before a step asks for it: an error then is that step's, with its code.
    """

    target: dg.ResourceDependency[TargetResource]
    store: dg.ResourceDependency[StoreResource]

    _work: RequestWork | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        self._work = None

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        if self._work is not None:
            self._work.close()
            self._work = None

    def work(self, registry: Registry, scenario: Scenario) -> RequestWork:
        """The work on this run's request; the same for every step of the run.

        Raises:
            AtdmError: the settings are wrong, the store cannot be opened.
        """
        if self._work is None:
            self._work = self.new_work(registry, scenario)
        return self._work

    def new_work(self, registry: Registry, scenario: Scenario) -> RequestWork:
        """Work that the caller closes, outside any run."""
        settings = Settings.from_environment()
        return RequestWork(
            registry, scenario, self.target.url(), self.store.store(), settings.invoker
        )

    def recorded(
        self, registry: Registry, scenario: Scenario, partition_key: str
    ) -> RequestRecord | None:
        """The request that a partition key names, as the catalog has it now."""
        work = self.new_work(registry, scenario)
        try:
            return work.recorded(partition_key)
        finally:
            work.close()

    def require_published(self, scenario: Scenario) -> None:
        """Raise TARGET_NOT_INITIALISED unless the target knows this version of the scenario."""
        with self.target.connection() as connection:
            ensure_disposable(connection)
            requests.require_published(connection, scenario)

    def reconcile(self) -> list[orphans.Reconciled]:
        """Roll back the requests whose process is gone."""
        with self.target.connection() as connection:
            ensure_disposable(connection)
            return orphans.reconcile(connection, self.store.store())
