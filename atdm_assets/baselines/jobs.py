"""Baselines in Dagster: asset ``<domain>/baseline``, its checks, jobs that capture and restore."""

# No postponed annotations here: Dagster reads those of configs and steps as classes.

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from atdm_assets import metadata, names
from atdm_assets.requests.failures import first_error
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode, nearest_spelling
from atdm_engine.model import Domain
from atdm_resources.catalog.events import Actor
from atdm_resources.settings import Settings, is_invoker
from atdm_resources.store.files import Store
from atdm_services.baselines import diff, listing, manifest
from atdm_services.baselines.capture import capture
from atdm_services.baselines.manifest import Manifest
from atdm_services.baselines.restore import Restored, restore
from atdm_services.clones import templates

INTACT = "intact"
MATCHES_LIVE = "matches_live"
IDEMPOTENT_SEED = "idempotent_seed"
_DATA_VERSION_TAG = "dagster/data_version"
_PARTITION_TAG = "dagster/partition"

ResolveJob = Callable[[str], dg.JobDefinition]
Events = Iterator[dg.AssetObservation | dg.Output[None]]


class CaptureConfig(dg.Config):
    """How a baseline is captured."""

    reason: str = Field("", description="Why, for the audit trail.")
    invoker: str | None = Field(
        None, description="Who does it: human:NAME or agent:ID. Default: ATDM_INVOKER."
    )


class CheckConfig(dg.Config):
    """Which baseline a check looks at."""

    baseline_id: str | None = Field(
        None, description="Default: the partition of the run, else the latest."
    )


class SnapshotConfig(dg.Config):
    """What an operator says to capture a baseline."""

    domain: str | None = Field(None, description="Default: the bundle's default domain.")
    baseline_id: str | None = Field(
        None, description="[a-z0-9][a-z0-9._-]{0,62}; default: bl-YYYYMMDD-HHMMSS-xxxxxx."
    )
    reason: str = Field("", description="Why, for the audit trail.")
    invoker: str | None = Field(None, description="Who does it. Default: ATDM_INVOKER.")


class RestoreConfig(dg.Config):
    """What an operator says to restore a baseline."""

    domain: str | None = Field(None, description="Default: the bundle's default domain.")
    baseline_id: str | None = Field(None, description="Default: the latest.")
    revoke_leases: bool = Field(
        False, description="Also when test runs are leased; else that is refused, naming owners."
    )
    reason: str = Field("", description="Why, for the audit trail.")
    invoker: str | None = Field(None, description="Who does it. Default: ATDM_INVOKER.")


@dataclass(frozen=True)
class BaselineDefinitions:
    """Everything of baselines that the code location offers."""

    assets: Sequence[dg.AssetsDefinition]
    checks: Sequence[dg.AssetChecksDefinition]
    jobs: Sequence[dg.JobDefinition | UnresolvedAssetJobDefinition]
    restore_job: dg.JobDefinition


def baseline_definitions(registry: Registry, resolve_job: ResolveJob) -> BaselineDefinitions:
    """The asset and the checks of each domain, and the jobs.

    Args:
        resolve_job: finds a job by name. A step run in process has no repository to ask.
    """
    domains = list(registry.domains.values())
    restoring = restore_job(registry)
    return BaselineDefinitions(
        assets=[_asset(domain) for domain in domains],
        checks=[check for domain in domains for check in _checks(registry, domain.name)],
        jobs=[
            *(_asset_job(domain.name) for domain in domains),
            snapshot_job(registry, resolve_job),
            restoring,
        ],
        restore_job=restoring,
    )


def _asset(domain: Domain) -> dg.AssetsDefinition:
    @dg.asset(
        key=names.baseline_key(domain.name),
        partitions_def=names.baseline_partitions(domain.name),
        deps=[
            dg.AssetDep(
                names.seeded_key(domain.name, scenario.name),
                # A copy holds what every request of the scenario has put into the target.
                partition_mapping=dg.AllPartitionMapping(),
            )
            for scenario in domain.scenarios.values()
            if not scenario.spec.violates
        ],
        group_name=f"{domain.name}__{names.BASELINE}",
        description=f"Immutable copies of every table of schema {domain.name}, as Parquet with "
        "checksums. Materialising a partition captures the tables as they are now under its key; "
        "job snapshot_baseline also makes the key. Restores are observations.",
        kinds={"parquet", "postgres"},
        owners=domain.spec.owners,
    )
    def baseline(
        context: dg.AssetExecutionContext,
        config: CaptureConfig,
        target: TargetResource,
        store: StoreResource,
    ) -> dg.MaterializeResult[Any]:
        with metadata.reported_failures():
            made = capture(
                target.url(),
                store.store(),
                domain.name,
                context.partition_key,
                actor=_actor(context.run, config.invoker, config.reason),
            )
        return dg.MaterializeResult(
            metadata=baseline_metadata(
                store.store().uri(manifest.BaselineFiles(domain.name, made.baseline_id).folder),
                made,
            ),
            data_version=dg.DataVersion(made.content_hash),
        )

    return baseline


def _checks(registry: Registry, domain: str) -> list[dg.AssetChecksDefinition]:
    key = names.baseline_key(domain)

    @dg.asset_check(
        asset=key,
        name=INTACT,
        description="Every file of the baseline is as it was written, by size and checksum.",
    )
    def intact(
        context: dg.AssetCheckExecutionContext, config: CheckConfig, store: StoreResource
    ) -> dg.AssetCheckResult:
        def judge() -> dg.AssetCheckResult:
            opened = store.store()
            name = _looked_at(context.run, config, opened, domain)
            problems = listing.verify(opened, domain, name)
            return dg.AssetCheckResult(
                passed=not problems,
                metadata={"baseline_id": name, "problems": dg.MetadataValue.json(problems)},
            )

        return _judged(judge)

    @dg.asset_check(
        asset=key,
        name=MATCHES_LIVE,
        description="The database holds exactly the rows of the baseline, keys included.",
    )
    def matches_live(
        context: dg.AssetCheckExecutionContext,
        config: CheckConfig,
        target: TargetResource,
        store: StoreResource,
    ) -> dg.AssetCheckResult:
        def judge() -> dg.AssetCheckResult:
            opened = store.store()
            name = _looked_at(context.run, config, opened, domain)
            found = diff.compare(target.url(), opened, domain, name)
            different = [table.as_json() for table in found if not table.same]
            return dg.AssetCheckResult(
                passed=not different,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={
                    "baseline_id": name,
                    "tables": len(found),
                    "differences": dg.MetadataValue.json(different),
                },
            )

        return _judged(judge)

    @dg.asset_check(
        asset=key,
        name=IDEMPOTENT_SEED,
        description="Restoring the baseline twice gives the same state. Done in a database of its "
        "own, which is dropped afterwards: the target is not touched.",
    )
    def idempotent_seed(
        context: dg.AssetCheckExecutionContext,
        config: CheckConfig,
        target: TargetResource,
        store: StoreResource,
    ) -> dg.AssetCheckResult:
        def judge() -> dg.AssetCheckResult:
            opened = store.store()
            name = _looked_at(context.run, config, opened, domain)
            expected = manifest.read_manifest(opened, domain, name).content_hash
            actor = _actor(context.run, None, f"check {IDEMPOTENT_SEED}")
            hashes = templates.hashes_of_two_restores(
                target.url(), opened, registry, domain, name, actor=actor
            )
            return dg.AssetCheckResult(
                passed=set(hashes) == {expected},
                metadata={
                    "baseline_id": name,
                    "state_hash": expected,
                    "after_each_restore": dg.MetadataValue.json(hashes),
                },
            )

        return _judged(judge)

    return [intact, matches_live, idempotent_seed]


def _judged(judge: Callable[[], dg.AssetCheckResult]) -> dg.AssetCheckResult:
    """A check's result; what goes wrong in it is a failed result that names it."""
    try:
        return judge()
    except Exception as error:
        code = str(error.code) if isinstance(error, AtdmError) else type(error).__name__
        return dg.AssetCheckResult(passed=False, metadata={"error": str(error), "error_code": code})


def _asset_job(domain: str) -> UnresolvedAssetJobDefinition:
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
            domain = _domain(registry, config.domain)
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
                actor=_actor(context.run, config.invoker, config.reason),
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
        AtdmError: what the run failed for; the key is not left behind then.
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
    ) -> Events:
        with metadata.reported_failures():
            domain = _domain(registry, config.domain)
            done = restore(
                target.url(),
                store.store(),
                domain,
                config.baseline_id,
                actor=_actor(context.run, config.invoker, config.reason),
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
        tags={_DATA_VERSION_TAG: done.content_hash},
    )


def report_capture(instance: dg.DagsterInstance, store_uri: str, made: Manifest) -> None:
    """Show a baseline that was captured outside any run."""
    instance.add_dynamic_partitions(names.baseline_partitions_name(made.domain), [made.baseline_id])
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            names.baseline_key(made.domain),
            partition=made.baseline_id,
            metadata=baseline_metadata(store_uri, made),
            tags={_DATA_VERSION_TAG: made.content_hash},
        )
    )


def report_restore(instance: dg.DagsterInstance, done: Restored, reason: str = "") -> None:
    """Show a restore that happened outside any run."""
    instance.add_dynamic_partitions(names.baseline_partitions_name(done.domain), [done.baseline_id])
    instance.report_runless_asset_event(restore_observation(done, reason))


def baseline_metadata(uri: str, made: Manifest) -> dict[str, Any]:
    """What a materialisation shows of a baseline."""
    return {
        "path": uri,
        "kind": made.kind,
        "dagster/row_count": made.rows,
        "bytes": made.bytes,
        "content_hash": made.content_hash,
        "captured_at": made.captured_at.isoformat(),
        "captured_by": made.captured_by,
        "reason": made.reason,
        "format_version": made.format_version,
        "postgres_version": made.postgres_version,
        "engine_version": made.engine_version,
        "runs": dg.MetadataValue.json(dict(made.runs.counts)),
        "tables": metadata.records_table(
            [
                {"table": t.name, "rows": t.rows, "bytes": t.bytes, "content_hash": t.content_hash}
                for t in made.tables
            ]
        ),
    }


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


def _looked_at(run: dg.DagsterRun, config: CheckConfig, store: Store, domain: str) -> str:
    named = config.baseline_id or run.tags.get(_PARTITION_TAG)
    if named:
        return manifest.check_id(named)
    found = listing.latest(store, domain)
    if found is None:
        raise AtdmError(
            ErrorCode.NO_BASELINE, f"domain {domain} has no baseline", {"domain": domain}
        )
    return found.baseline_id


def _domain(registry: Registry, given: str | None) -> str:
    name = given or registry.default_domain
    if name not in registry.domains:
        nearest = nearest_spelling(name, registry.domains)
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"there is no domain {name!r}; known: {', '.join(registry.domains)}"
            + (f"; did you mean {nearest}?" if nearest else ""),
            {"domain": name, "known": list(registry.domains)},
        )
    return name


def _actor(run: dg.DagsterRun, invoker: str | None, reason: str) -> Actor:
    given = invoker or run.tags.get(names.INVOKER_TAG)
    if given is not None and not is_invoker(given):
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"invoker is {given!r}; allowed: human:<name> or agent:<id>",
            {"field": "invoker", "found": given},
        )
    return Actor(
        given or Settings.from_environment().invoker,
        run.tags.get(names.SOURCE_TAG, "dagster"),
        reason,
    )
