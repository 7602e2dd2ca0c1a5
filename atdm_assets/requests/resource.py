"""The Dagster resource that executes requests: one request a run, shared by its steps."""

# No postponed annotations here: Dagster reads those of a resource's fields.

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from atdm_assets.instance.storage import keep_connections
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_engine.model import Scenario
from atdm_resources.settings import Settings
from atdm_services.requests.execution import RequestExecution

_begun: ContextVar[RequestExecution | None] = ContextVar("begun", default=None)
"""The execution that the caller of a run in this process has begun; run config holds JSON only."""


class RequestsResource(dg.ConfigurableResource[Any]):
    """Executes requests against a target and a store.

    Nothing is opened before a step needs it: an error then is that step's, with its code.
    """

    target: dg.ResourceDependency[TargetResource]
    store: dg.ResourceDependency[StoreResource]

    _execution: RequestExecution | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        self._execution = None
        if context.run is not None and context.instance is not None:
            keep_connections(context.instance)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        if self._execution is not None:
            self._execution.close()
            self._execution = None

    def execution(
        self, registry: Registry, scenario: Scenario, context: dg.AssetExecutionContext
    ) -> RequestExecution:
        """The execution of this run's request; the same for every step of the run.

        Raises:
            AtdmError: the settings are wrong, the store cannot be opened.
        """
        begun = _begun.get()
        if begun is not None and begun.makes(scenario, context.partition_key):
            return begun
        if self._execution is None:
            self._execution = self.new_execution(
                registry, scenario, context.partition_key, dagster_run_id=context.run.run_id
            )
        return self._execution

    def new_execution(
        self, registry: Registry, scenario: Scenario, partition_key: str, **options: Any
    ) -> RequestExecution:
        """An execution that the caller closes; ``options`` are those of ``RequestExecution``."""
        invoker = Settings.from_environment().invoker
        return RequestExecution(
            registry,
            scenario,
            partition_key,
            self.target.url(),
            self.store.store(),
            invoker=invoker,
            **options,
        )

    @contextmanager
    def begun(
        self, registry: Registry, scenario: Scenario, partition_key: str, **options: Any
    ) -> Iterator[RequestExecution]:
        """An execution that the steps of a run in the block use too, closed at its end."""
        execution = self.new_execution(registry, scenario, partition_key, **options)
        token = _begun.set(execution)
        try:
            yield execution
        finally:
            _begun.reset(token)
            execution.close()
