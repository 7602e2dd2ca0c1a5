"""Baselines in Dagster: asset ``<domain>/baseline``, its checks, jobs that capture and restore.

Belongs here: forms, partitions, and what a run shows of a baseline. Does not belong here: capturing,
restoring and comparing (``atdm_resources.baselines``).
"""

# No postponed annotations here: Dagster reads those of configs and steps as classes.

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from atdm_assets import metadata, names
from atdm_assets.execution import Progress, reporting
from atdm_assets.request_job import first_error
from atdm_engine.errors import AtdmError, ErrorCode, nearest_spelling
from atdm_engine.model import Domain
from atdm_engine.registry import Registry
from atdm_resources.baselines import cloning, comparing, listing, manifest
from atdm_resources.baselines.capture import capture
from atdm_resources.baselines.manifest import Manifest
from atdm_resources.baselines.records import Actor
from atdm_resources.baselines.restore import Restored, restore
from atdm_resources.configurable import StoreResource, TargetResource
from atdm_resources.settings import Settings

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
                progress=_reported,
            )
        return dg.MaterializeResult(
            metadata=baseline_metadata(store, made),
            data_version=dg.DataVersion(made.content_hash),
        )

    return baseline


def _reported(what: str, done: int, total: int) -> None:
    from atdm_assets.execution import report

    report(what, done, total)


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
        with _failing_as_result():
            opened = store.store()
            name = _looked_at(context.run, config, opened, domain)
            problems = listing.verify(opened, domain, name)
            return dg.AssetCheckResult(
                passed=not problems,
                metadata={"baseline_id": name, "problems": dg.MetadataValue.json(problems)},
            )

    @dg.asset_check(
        asset=key,
        name=MATCHES_LIVE,
        description="The database holds exactly the rows of the baseline, keys included.",
        blocking=False,
    )
    def matches_live(
        context: dg.AssetCheckExecutionContext,
        config: CheckConfig,
        target: TargetResource,
        store: StoreResource,
    ) -> dg.AssetCheckResult:
        with _failing_as_result():
            opened = store.store()
            name = _looked_at(context.run, config, opened, domain)
            found = comparing.compare(target.url(), opened, domain, name)
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

    @dg.asset_check(
        asset=key,
        name=IDEMPOTENT_SEED,
        description="Restoring the baseline twice gives the same state. Done in a database of its "
        "own, which is dropped afterwards; the target is not touched.",
        blocking=False,
    )
    def idempotent_seed(
        context: dg.AssetCheckExecutionContext,
        config: CheckConfig,
        target: TargetResource,
        store: StoreResource,
    ) -> dg.AssetCheckResult:
        with _failing_as_result():
            opened = store.store()
            name = _looked_at(context.run, config, opened, domain)
            hashes = cloning.state_hashes_of_restores(
                target.url(), opened, registry, domain, name,
                actor=_actor(context.run, None, IDEMPOTENT_SEED),
            )  # fmt: skip
            expected = manifest.read_manifest(opened, domain, name).content_hash
            return dg.AssetCheckResult(
                passed=set(hashes) == {expected},
                metadata={
                    "baseline_id": name,
                    "state_hash": expected,
                    "after_each_restore": dg.MetadataValue.json(hashes),
                },
            )

    return [_never_raising(check) for check in (intact, matches_live, idempotent_seed)]


def _asset_job(domain: str) -> UnresolvedAssetJobDefinition:
    key = names.baseline_key(domain)
    return dg.define_asset_job(
        names.baseline_job_name(domain),
        selection=dg.AssetSelection.assets(key).without_checks()
        | dg.AssetSelection.checks(dg.AssetCheckKey(key, INTACT)),
        partitions_def=names.baseline_partitions(domain),
        description=f"Capture the tables of {domain} under a partition key that is registered.",
    )
