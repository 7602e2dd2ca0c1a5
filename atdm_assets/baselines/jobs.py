"""Jobs that capture and restore baselines."""

# No postponed annotations here: Dagster reads those of configs and steps as classes.

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from atdm_assets import metadata, names
from atdm_assets.actors import run_actor
from atdm_assets.baselines.checks import INTACT
from atdm_assets.requests.failures import first_error
from atdm_assets.requests.job import ResolveJob
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import ErrorCode, unknown_domain
from atdm_resources.catalog.events import Actor
from atdm_services.baselines import manifest
from atdm_services.baselines.restore import Restored, restore


class SnapshotConfig(dg.Config):
    """Which baseline is captured, and why."""

    domain: str | None = Field(None, description="Default: the bundle's default domain.")
    baseline_id: str | None = Field(
        None, description="[a-z0-9][a-z0-9._-]{0,62}; default: bl-YYYYMMDD-HHMMSS-xxxxxx."
    )
    reason: str = Field("", description="Why, for the audit trail.")
    invoker: str | None = Field(None, description="Who does it. Default: ATDM_INVOKER.")


class RestoreConfig(dg.Config):
    """Which baseline is restored, and why."""

    domain: str | None = Field(None, description="Default: the bundle's default domain.")
    baseline_id: str | None = Field(None, description="Default: the latest.")
    revoke_leases: bool = Field(
        False, description="Also when test runs are leased; else that is refused, naming owners."
    )
    reason: str = Field("", description="Why, for the audit trail.")
    invoker: str | None = Field(None, description="Who does it. Default: ATDM_INVOKER.")


def capture_job(domain: str) -> UnresolvedAssetJobDefinition:
    """The asset's own job, which captures under a partition key that is registered."""
    key = names.baseline_key(domain)
    return dg.define_asset_job(
        names.baseline_job_name(domain),
        selection=dg.AssetSelection.assets(key).without_checks()
        | dg.AssetSelection.checks(dg.AssetCheckKey(key, INTACT)),
        description=f"Capture the tables of {domain} under a partition key that is registered.",
    )


def snapshot_job(registry: Registry, resolve_job: ResolveJob) -> dg.JobDefinition:
    """The job ``snapshot_baseline``: mints and registers the key, runs the asset's job on it."""

    @dg.op(name=names.SNAPSHOT_STEP, out=dg.Out(dg.Nothing))
    def snapshot(context: dg.OpExecutionContext, config: SnapshotConfig) -> None:
        with metadata.reported_failures():
            domain = _known_domain(registry, config.domain)
            baseline_id = (
                manifest.new_id()
                if config.baseline_id is None
                else manifest.check_id(config.baseline_id)
            )
            run_id = materialise_baseline(
                context.instance,
                resolve_job,
                domain,
                baseline_id,
                actor=run_actor(context.run, config.invoker, config.reason),
                parent_run_id=context.run_id,
            )
        context.log.info(f"Baseline {baseline_id} of {domain} was captured by run {run_id}.")

    @dg.job(
        name=names.SNAPSHOT_JOB,
        description="Capture a baseline: one consistent copy of every table of a domain.",
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        snapshot()

    return job


def materialise_baseline(
    instance: dg.DagsterInstance,
    resolve_job: ResolveJob,
    domain: str,
    baseline_id: str,
    *,
    actor: Actor,
    parent_run_id: str | None = None,
) -> str:
    """Capture a baseline by one run of the asset's job in this process; returns the run's id.

    Raises:
        AtdmError: the reason that the run failed for; the partition is removed then.
    """
    partitions = names.baseline_partitions_name(domain)
    known = instance.has_dynamic_partition(partitions, baseline_id)
    instance.add_dynamic_partitions(partitions, [baseline_id])
    tags = names.caller_tags(actor.invoker, actor.source, parent_run_id)
    step = names.baseline_key(domain).to_python_identifier()
    result = resolve_job(names.baseline_job_name(domain)).execute_in_process(
        instance=instance,
        partition_key=baseline_id,
        run_config={
            "ops": {step: {"config": {"reason": actor.reason, "invoker": actor.invoker}}},
            "loggers": {"console": {"config": {"log_level": "WARNING"}}},
        },
        tags=tags,
        raise_on_error=False,
    )
    if not result.success:
        if not known:
            instance.delete_dynamic_partition(partitions, baseline_id)
        raise first_error(result, ErrorCode.SNAPSHOT_FAILED)
    return str(result.run_id)


def restore_job(registry: Registry) -> dg.JobDefinition:
    """The job ``restore_baseline``; the restore is an observation of the baseline's asset."""

    @dg.op(name=names.RESTORE_STEP, out=dg.Out(dg.Nothing))
    def restore_rows(
        context: dg.OpExecutionContext,
        config: RestoreConfig,
        target: TargetResource,
        store: StoreResource,
    ) -> Iterator[dg.AssetObservation | dg.Output[None]]:
        with metadata.reported_failures():
            domain = _known_domain(registry, config.domain)
            done = restore(
                target.url(),
                store.store(),
                domain,
                config.baseline_id,
                actor=run_actor(context.run, config.invoker, config.reason),
                revoke_leases=config.revoke_leases,
            )
        context.instance.add_dynamic_partitions(
            names.baseline_partitions_name(domain), [done.baseline_id]
        )
        yield restore_observation(done, config.reason)
        yield dg.Output(None)

    @dg.job(
        name=names.RESTORE_JOB,
        description="Bring every table of a domain to a baseline, in one transaction.",
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        restore_rows()

    return job


def restore_observation(done: Restored, reason: str = "") -> dg.AssetObservation:
    """A restore as an observation that names the baseline's data version."""
    return dg.AssetObservation(
        names.baseline_key(done.domain),
        partition=done.baseline_id,
        metadata={
            "restored": True,
            "reason": reason,
            "rows": sum(done.tables.values()),
            "tables": dg.MetadataValue.json(done.tables),
            "outside_references": dg.MetadataValue.json(done.outside_references),
            "runs_ready": done.runs.ready,
            "runs_cleaned": done.runs.cleaned,
            "runs_expired": done.runs.expired,
            "revoked": dg.MetadataValue.json(done.revoked),
            "seconds": done.seconds,
            "content_hash": done.content_hash,
        },
        tags={names.DATA_VERSION_TAG: done.content_hash},
    )


def restore_for_suite(event: Any, run_key: str) -> dg.RunRequest:
    """The run that brings the target to the baseline that a suite names when it starts."""
    payload: Mapping[str, Any] = event.payload
    config = {
        "baseline_id": manifest.check_id(str(payload["baseline"])),
        "revoke_leases": bool(payload.get("revoke_leases", False)),
        "reason": f"suite {payload.get('build', '')} starts",
        "invoker": event.invoker,
    }
    if payload.get("domain"):
        config["domain"] = payload["domain"]
    return dg.RunRequest(
        run_key=run_key,
        job_name=names.RESTORE_JOB,
        run_config={"ops": {names.RESTORE_STEP: {"config": config}}},
        tags={names.INVOKER_TAG: names.safe_tag(event.invoker)},
    )


def _known_domain(registry: Registry, domain: str | None) -> str:
    name = domain or registry.default_domain
    if name not in registry.domains:
        raise unknown_domain(name, registry.domains)
    return name
