"""What runs by itself and for operators, of every lifecycle, for the code location."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from atdm_assets.audit.sensor import audit_sensor
from atdm_assets.clones.sensor import clone_pool_sensor, fill_clone_pool_job
from atdm_assets.leases.expiry import expiry_sensor
from atdm_assets.leases.pools import pool_sensor
from atdm_assets.leases.resets import (
    reset_all_job,
    reset_run_job,
    test_runs_asset,
    zero_residue_check,
)
from atdm_assets.leases.retention import retention_job, retention_schedule
from atdm_assets.queue.sensor import RestoreRun, queue_sensor
from atdm_assets.requests.failures import failure_sensors
from atdm_assets.requests.idempotence import idempotent_seed_check
from atdm_engine.bundle.registry import Registry


@dataclass(frozen=True)
class Lifecycle:
    """Definitions for ``build_defs``."""

    assets: Sequence[dg.AssetSpec]
    checks: Sequence[dg.AssetChecksDefinition]
    jobs: Sequence[dg.JobDefinition]
    sensors: Sequence[dg.SensorDefinition]
    schedules: Sequence[dg.ScheduleDefinition]


def lifecycle_definitions(
    registry: Registry,
    scenario_jobs: Sequence[Any],
    restore_jobs: Sequence[Any] = (),
    restore: RestoreRun | None = None,
) -> Lifecycle:
    """Resets, pools, expiry, queue, failures, audit trail and retention.

    Args:
        scenario_jobs: the scenarios' own jobs, which pools and queue launch.
        restore_jobs: the jobs that ``restore`` names.
        restore: what a suite that starts launches; None: it is refused.
    """
    # Said by Dagster of its own copy of a sensor whose jobs it binds to resources; ours name none.
    warnings.filterwarnings(
        "ignore", message="Parameter `owners` of initializer", category=dg.BetaWarning
    )
    retention = retention_job()
    fill_clones = fill_clone_pool_job(registry)
    return Lifecycle(
        assets=[test_runs_asset(domain) for domain in registry.domains],
        checks=[
            *(zero_residue_check(domain) for domain in registry.domains),
            *(idempotent_seed_check(registry, domain) for domain in registry.domains),
        ],
        jobs=[reset_run_job(), reset_all_job(registry), fill_clones, retention],
        sensors=[
            queue_sensor(registry, [*scenario_jobs, *restore_jobs], restore),
            pool_sensor(registry, scenario_jobs),
            clone_pool_sensor(registry, fill_clones),
            expiry_sensor(),
            audit_sensor(registry),
            *failure_sensors(),
        ],
        schedules=[retention_schedule(retention)],
    )
