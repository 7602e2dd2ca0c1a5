"""The code location: everything of ATDM that Dagster runs, assembled.

The code location, the command line and the tests all call ``build_defs``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import dagster as dg

from atdm_assets import names
from atdm_assets.audit.sensor import audit_sensor
from atdm_assets.baselines.definitions import baseline_definitions
from atdm_assets.baselines.jobs import restore_for_suite
from atdm_assets.clones.sensor import clone_pool_sensor, fill_clone_pool_job
from atdm_assets.datasets.job import dataset_definitions
from atdm_assets.leases.expiry import expiry_sensor
from atdm_assets.leases.pools import pool_sensor
from atdm_assets.leases.resets import (
    reset_all_job,
    reset_run_job,
    test_runs_asset,
    zero_residue_check,
)
from atdm_assets.leases.retention import retention_job, retention_schedule
from atdm_assets.queue.sensor import queue_sensor
from atdm_assets.reference.assets import reference_assets
from atdm_assets.requests.assets import scenario_assets, scenario_job
from atdm_assets.requests.failures import failure_sensors
from atdm_assets.requests.idempotence import idempotent_seed_check
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
    # Dagster reports this about its own copy of a sensor whose jobs it binds to resources.
    warnings.filterwarnings(
        "ignore", message="Parameter `owners` of initializer", category=dg.BetaWarning
    )
    registry = scenarios or load_registry(Settings.from_environment())
    domains = registry.domains.values()
    known = [scenario for domain in domains for scenario in domain.scenarios.values()]
    names.require_free(known)
    target = TargetResource(database_url=None)
    store = StoreResource(store_url=None, endpoint_url=None)

    def resolve_job(name: str) -> dg.JobDefinition:
        return location.resolve_job_def(name)

    datasets = dataset_definitions(registry, resolve_job)
    baselines = baseline_definitions(registry, resolve_job)
    scenario_jobs = [scenario_job(scenario) for scenario in known]
    fill_clones, retention = fill_clone_pool_job(registry), retention_job()
    location = dg.Definitions(
        assets=[
            *(asset for domain in domains for asset in reference_assets(domain)),
            *(asset for scenario in known for asset in scenario_assets(registry, scenario)),
            *datasets.assets,
            *baselines.assets,
            *(test_runs_asset(domain) for domain in registry.domains),
        ],
        asset_checks=[
            *baselines.checks,
            *(zero_residue_check(domain) for domain in registry.domains),
            *(idempotent_seed_check(registry, domain) for domain in registry.domains),
        ],
        jobs=[
            *scenario_jobs,
            request_job(registry, resolve_job),
            *datasets.jobs,
            *baselines.jobs,
            reset_run_job(),
            reset_all_job(registry),
            fill_clones,
            retention,
        ],
        sensors=[
            queue_sensor(registry, [*scenario_jobs, baselines.restore_job], restore_for_suite),
            pool_sensor(registry, scenario_jobs),
            clone_pool_sensor(registry, fill_clones),
            expiry_sensor(),
            audit_sensor(registry),
            *failure_sensors(),
        ],
        schedules=[*datasets.schedules, retention_schedule(retention)],
        resources={
            "target": target,
            "store": store,
            "requests": RequestsResource(target=target, store=store),
            **(resource_overrides or {}),
        },
        # The lock on a request is held by the process that executes it, so all steps run in one.
        executor=dg.in_process_executor,
    )
    return location


@dg.definitions
def defs() -> dg.Definitions:
    """The entry point of Dagster. Lazy, so that the command line imports this module for less."""
    logs.configure(service=True)
    return build_defs()
