"""The code location: everything of ATDM that Dagster runs, assembled.

The code location, the command line and the tests all call ``build_defs``.
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from atdm_assets import names
from atdm_assets.baselines.definitions import baseline_definitions
from atdm_assets.baselines.jobs import restore_for_suite
from atdm_assets.datasets.job import dataset_definitions
from atdm_assets.lifecycle import lifecycle_definitions
from atdm_assets.reference.assets import reference_assets
from atdm_assets.requests.assets import scenario_assets, scenario_job
from atdm_assets.requests.job import request_job
from atdm_assets.requests.resource import RequestsResource
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_resources.settings import Settings
from atdm_resources.store.bundle import load_registry
from atdm_resources.telemetry import logs


def build_defs(
    *,
    scenarios: Registry | None = None,
    resource_overrides: Mapping[str, object] | None = None,
) -> dg.Definitions:
    """The definitions of every scenario of the bundle.

    Args:
        scenarios: the bundle; default: the shipped scenarios and those of ATDM_SCENARIO_PATH.
        resource_overrides: resources by name (``target``, ``store``, ``requests``) to use instead.

    Raises:
        SpecError: a specification file is wrong.
        AtdmError: SPEC_INVALID, a scenario or table has a name that the graph needs itself.
    """
    registry = scenarios or load_registry(Settings.from_environment())
    target = TargetResource(database_url=None)
    store = StoreResource(store_url=None, endpoint_url=None)
    resources: dict[str, object] = {
        "target": target,
        "store": store,
        "requests": RequestsResource(target=target, store=store),
        **(resource_overrides or {}),
    }
    known = [
        scenario for domain in registry.domains.values() for scenario in domain.scenarios.values()
    ]
    names.require_free(known)
    assets = [asset for domain in registry.domains.values() for asset in reference_assets(domain)]
    for scenario in known:
        assets += scenario_assets(registry, scenario)
    datasets = dataset_definitions(registry, lambda name: location.resolve_job_def(name))
    scenario_jobs = [scenario_job(scenario) for scenario in known]
    baselines = baseline_definitions(registry, lambda name: location.resolve_job_def(name))
    lifecycle = lifecycle_definitions(
        registry, scenario_jobs, [baselines.restore_job], restore_for_suite
    )
    location = dg.Definitions(
        assets=[*assets, *datasets.assets, *baselines.assets, *lifecycle.assets],
        asset_checks=[*baselines.checks, *lifecycle.checks],
        jobs=[
            *scenario_jobs,
            request_job(registry, lambda name: location.resolve_job_def(name)),
            *datasets.jobs,
            *baselines.jobs,
            *lifecycle.jobs,
        ],
        sensors=lifecycle.sensors,
        schedules=[*datasets.schedules, *lifecycle.schedules],
        resources=resources,
        # The lock on a request is held by the process that executes it, so all steps run in one.
        executor=dg.in_process_executor,
    )
    return location


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads. Lazy, so that the command line can import this module for less."""
    logs.configure(service=True)
    return build_defs()
