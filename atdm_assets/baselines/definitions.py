"""Everything of baselines that the code location offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from atdm_assets.baselines.assets import baseline_asset
from atdm_assets.baselines.checks import baseline_checks
from atdm_assets.baselines.jobs import capture_job, restore_job, snapshot_job
from atdm_assets.requests.job import ResolveJob
from atdm_engine.bundle.registry import Registry


@dataclass(frozen=True)
class BaselineDefinitions:
    """The definitions of baselines."""

    assets: Sequence[dg.AssetsDefinition]
    checks: Sequence[dg.AssetChecksDefinition]
    jobs: Sequence[dg.JobDefinition | UnresolvedAssetJobDefinition]
    restore_job: dg.JobDefinition


def baseline_definitions(registry: Registry, resolve_job: ResolveJob) -> BaselineDefinitions:
    """The asset and the checks of each domain, and the jobs.

    Args:
        resolve_job: finds a job by name; a step that runs in process has no repository.
    """
    domains = list(registry.domains.values())
    restore = restore_job(registry)
    return BaselineDefinitions(
        assets=[baseline_asset(domain) for domain in domains],
        checks=[check for domain in domains for check in baseline_checks(registry, domain.name)],
        jobs=[
            *(capture_job(domain.name) for domain in domains),
            snapshot_job(registry, resolve_job),
            restore,
        ],
        restore_job=restore,
    )
