"""Job ``refresh_dataset``: makes the next version of a dataset, deletes old ones, restores it."""

# No postponed annotations here: Dagster compares those of steps as classes, not as text.

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from atdm_assets import metadata, names
from atdm_assets.actors import run_actor
from atdm_assets.datasets.assets import dataset_assets, dataset_job
from atdm_assets.instance import run_liveness
from atdm_assets.requests.failures import first_error
from atdm_assets.requests.job import ResolveJob
from atdm_assets.requests.run_config import as_of as config_as_of
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.datasets import version_id
from atdm_engine.model import Dataset
from atdm_engine.progress import Progress
from atdm_resources.catalog import baselines
from atdm_resources.catalog.events import Actor
from atdm_resources.settings import Settings
from atdm_resources.store.files import Store
from atdm_services.baselines.manifest import read_manifest
from atdm_services.baselines.restore import restore
from atdm_services.clones import teardown
from atdm_services.datasets import versions
from atdm_services.progress import reporting


@dataclass(frozen=True)
class VersionRequest:
    """A request for a version of a dataset. ``as_of`` None: this moment, in whole seconds.

    ``expire``: delete versions beyond the dataset's retention afterwards.
    """

    dataset: str
    as_of: datetime | None = None
    processes: int | None = None
    expire: bool = True
    invoker: str | None = None
    source: str = "dagster"
    parent_run_id: str | None = None


@dataclass(frozen=True)
class VersionOutcome:
    """The version that was made, or ``error``. ``expired`` are versions that were deleted."""

    dataset: Dataset
    version: str
    dagster_run_id: str
    expired: tuple[str, ...] = ()
    error: AtdmError | None = None


def materialise_version(
    request: VersionRequest,
    *,
    registry: Registry,
    instance: dg.DagsterInstance,
    resolve_job: ResolveJob,
    store: StoreResource,
    target: TargetResource | None = None,
    progress: Progress | None = None,
    log_level: str = "WARNING",
) -> VersionOutcome:
    """Make the version that a dataset is on a clock, by one run of its job in this process.

    A version that a killed process began is resumed; one that is published is not made again.
    ``target``, where it can be used, shows that the run is alive, and records what was published
    and deleted; a dataset needs none.

    Raises:
        AtdmError: DATASET_NOT_FOUND. Later errors are in the outcome.
    """
    dataset = registry.dataset(request.dataset)
    clock = (request.as_of or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    version = version_id(dataset, clock)
    partitions = names.dataset_partitions_name(dataset.domain, dataset.name)
    instance.add_dynamic_partitions(partitions, [version])
    tags = {
        names.VERSION_TAG: version,
        **names.caller_tags(request.invoker, request.source, request.parent_run_id),
    }
    job = resolve_job(names.dataset_job_name(dataset.domain, dataset.name))
    step = names.dataset_step_name(dataset.domain, dataset.name)
    config = {"processes": request.processes} if request.processes else {}
    run_id = str(uuid.uuid4())
    with run_liveness.hold_run_lock(target, run_id) as lock_tags, reporting(progress):
        result = job.execute_in_process(
            instance=instance,
            run_id=run_id,
            partition_key=version,
            run_config={
                "ops": {step: {"config": config}},
                "loggers": {"console": {"config": {"log_level": log_level}}},
            },
            tags={**tags, **lock_tags},
            raise_on_error=False,
        )
    if not result.success:
        return VersionOutcome(
            dataset, version, result.run_id,
            error=first_error(result, ErrorCode.DATASET_FAILED),
        )  # fmt: skip
    expired = expire(instance, store.store(), dataset, version) if request.expire else []
    _record(request, store.store(), target, dataset, version, expired)
    return VersionOutcome(dataset, version, result.run_id, tuple(expired))


def _record(
    request: VersionRequest,
    store: Store,
    target: TargetResource | None,
    dataset: Dataset,
    version: str,
    expired: Sequence[str],
) -> None:
    """Record in the target, with events, what was published and what was deleted."""
    actor = Actor(request.invoker or Settings.from_environment().invoker, request.source)
    with run_liveness.usable_connection(target) as conn:
        if conn is None:
            return
        made = read_manifest(store, dataset.domain, version)
        if not baselines.is_complete(conn, made.domain, version, made.content_hash):
            row = made.catalog_row(store.url)
            baselines.publish(conn, row, actor, made.summary(), "dataset_published")
        for gone in expired:
            baselines.set_deleted(conn, dataset.domain, gone, actor)
            teardown.drop_made_from(conn, dataset.domain, gone, actor)


def expire(
    instance: dg.DagsterInstance, store: Store, dataset: Dataset, keep: str | None = None
) -> list[str]:
    """Delete the versions beyond the dataset's retention, and their partitions.

    Also what killed builds and deletions left of other versions.
    """
    gone = versions.expire(store, dataset, keep=keep)
    gone += versions.sweep(store, dataset, datetime.now(UTC))
    partitions = names.dataset_partitions_name(dataset.domain, dataset.name)
    for version in gone:
        instance.delete_dynamic_partition(partitions, version)
    return gone


@dataclass(frozen=True)
class DatasetDefinitions:
    """The definitions of a bundle's datasets."""

    assets: Sequence[dg.AssetsDefinition] = ()
    jobs: Sequence[dg.JobDefinition | UnresolvedAssetJobDefinition] = ()
    schedules: Sequence[dg.ScheduleDefinition] = ()


def dataset_definitions(registry: Registry, resolve_job: ResolveJob) -> DatasetDefinitions:
    """The assets, jobs and schedules of every dataset; nothing where there is none.

    Args:
        resolve_job: finds a job by name; a step that runs in process has no repository.
    """
    known = list(registry.datasets.values())
    if not known:
        return DatasetDefinitions()
    refresh = refresh_job(registry, resolve_job)
    return DatasetDefinitions(
        assets=[dataset_assets(registry.domains[one.domain], one) for one in known],
        jobs=[*(dataset_job(registry.domains[one.domain], one) for one in known), refresh],
        schedules=[_schedule(one, refresh) for one in known if one.spec.cron],
    )


def refresh_job(registry: Registry, resolve_job: ResolveJob) -> dg.JobDefinition:
    """The job ``refresh_dataset``."""
    known = list(registry.datasets)

    @dg.op(
        name=names.DATASET_STEP,
        description="Make the next version of a dataset, delete old ones, restore it when told.",
        config_schema={
            "dataset": dg.Field(str, description="Name of a dataset: " + ", ".join(known) + "."),
            "as_of": dg.Field(
                str,
                is_required=False,
                description="The data's only clock, like 2026-01-31T12:00:00Z; default: now.",
            ),
            "processes": dg.Field(
                int, is_required=False, description="Processes; default: one for each core."
            ),
            "restore": dg.Field(
                bool,
                is_required=False,
                description="Put the new version into the target; default: as the file says.",
            ),
            "revoke_leases": dg.Field(
                bool,
                is_required=False,
                description="Restore although test runs are leased; default: refuse and say whose.",
            ),
            "reason": dg.Field(str, is_required=False, description="Why, for the audit trail."),
        },
        out=dg.Out(dg.Nothing),
    )
    def refresh(
        context: dg.OpExecutionContext, store: StoreResource, target: TargetResource
    ) -> None:
        config: Mapping[str, Any] = context.op_config
        with metadata.reported_failures():
            actor = run_actor(context.run, reason=config.get("reason", ""))
            outcome = materialise_version(
                VersionRequest(
                    dataset=config["dataset"],
                    as_of=config_as_of(config.get("as_of")),
                    processes=config.get("processes"),
                    invoker=actor.invoker,
                    source=actor.source,
                    parent_run_id=context.run_id,
                ),
                registry=registry,
                instance=context.instance,
                resolve_job=resolve_job,
                store=store,
                target=target,
            )
            context.instance.add_run_tags(context.run_id, {names.VERSION_TAG: outcome.version})
            if outcome.error is not None:
                raise outcome.error
            if config.get("restore", outcome.dataset.spec.restore):
                restored = restore(
                    target.url(),
                    store.store(),
                    outcome.dataset.domain,
                    outcome.version,
                    actor=actor,
                    revoke_leases=bool(config.get("revoke_leases")),
                )
                context.log.info(
                    f"Version {outcome.version} is restored: {sum(restored.tables.values())} rows "
                    f"in {restored.seconds:.1f} s."
                )
        context.log.info(
            f"Version {outcome.version} of {outcome.dataset.key} is published by run "
            f"{outcome.dagster_run_id}; deleted: {', '.join(outcome.expired) or 'none'}."
        )

    @dg.job(
        name=names.DATASET_JOB,
        description="Make and publish the next version of a dataset.",
        executor_def=dg.in_process_executor,
        config={"ops": {names.DATASET_STEP: {"config": {"dataset": known[0]}}}},
    )
    def job() -> None:
        refresh()

    return job


def _schedule(dataset: Dataset, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    # The tick's scheduled time is the data's clock, however late the tick is.
    @dg.schedule(
        name=names.dataset_schedule_name(dataset.domain, dataset.name),
        job=job,
        cron_schedule=str(dataset.spec.cron),
        execution_timezone="UTC",
        description=f"{dataset.spec.description} The last {dataset.spec.retention} versions stay"
        + ("; the new one is restored." if dataset.spec.restore else "."),
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        clock = context.scheduled_execution_time.astimezone(UTC)
        config = {"dataset": dataset.key, "as_of": clock.isoformat()}
        return dg.RunRequest(
            # A tick that is evaluated twice starts one run.
            run_key=f"{dataset.key} {clock.isoformat()}",
            run_config={"ops": {names.DATASET_STEP: {"config": config}}},
            tags={names.SOURCE_TAG: "schedule"},
        )

    return tick
