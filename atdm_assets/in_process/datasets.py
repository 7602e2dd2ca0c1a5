"""Building a version of a dataset in this process and in the instance of Dagster's web page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atdm_assets.instance.environment import with_target
from atdm_services.extras import server_part

with server_part("building a dataset"):
    from dagster import DagsterExecutionInterruptedError

    from atdm_assets.datasets.job import VersionOutcome, VersionRequest, materialise_version
    from atdm_assets.definitions import build_defs
    from atdm_assets.in_process.requests import raise_failure
    from atdm_assets.instance import run_liveness
    from atdm_assets.instance.local_instance import instance
    from atdm_assets.resources import StoreResource, TargetResource
    from atdm_resources.store.bundle import load_registry
    from atdm_services.baselines.manifest import read_manifest

if TYPE_CHECKING:
    from atdm_resources.settings import Settings
    from atdm_services.baselines.manifest import Manifest
    from atdm_services.progress import Reporter


def build(
    settings: Settings, reporter: Reporter, version: VersionRequest
) -> tuple[VersionOutcome, Manifest]:
    """Build and publish a version. What an earlier, killed build has finished is kept.

    Raises AtdmError: what the version was refused or failed for.
    """
    resolved = with_target(settings, reporter)
    registry = load_registry(resolved)
    registry.dataset(version.dataset)  # a wrong name is refused before anything is started
    store = StoreResource(store_url=resolved.store_url, endpoint_url=resolved.s3.endpoint_url)
    target = TargetResource(database_url=resolved.database_url)
    defs = build_defs(scenarios=registry, resource_overrides={"store": store, "target": target})
    try:
        with (
            reporter.working(f"building dataset {version.dataset}") as step,
            instance(resolved) as opened,
        ):
            with run_liveness.usable_connection(target) as conn:
                if conn is not None:
                    run_liveness.report_dead_runs(opened, conn)
            outcome = materialise_version(
                version,
                registry=registry,
                instance=opened,
                resolve_job=defs.resolve_job_def,
                store=store,
                target=target,
                progress=step,
                log_level="DEBUG" if reporter.debug else "CRITICAL",
            )
    except DagsterExecutionInterruptedError as error:
        raise KeyboardInterrupt from error
    if outcome.error is not None:
        raise_failure(outcome.error)
    return outcome, read_manifest(store.store(), outcome.dataset.domain, outcome.version)
