"""Asset ``<domain>/baseline``: its partitions are captured baselines."""

# No postponed annotations here: Dagster reads those of configs and steps as classes.

from typing import Any

import dagster as dg
from pydantic import Field

from atdm_assets import metadata, names
from atdm_assets.actors import run_actor
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.model import Domain
from atdm_services.baselines.capture import capture
from atdm_services.baselines.manifest import BaselineFiles, Manifest


class CaptureConfig(dg.Config):
    """How a baseline is captured."""

    reason: str = Field("", description="Why, for the audit trail.")
    invoker: str | None = Field(
        None, description="Who does it: human:NAME or agent:ID. Default: ATDM_INVOKER."
    )


def baseline_asset(domain: Domain) -> dg.AssetsDefinition:
    """The asset of a domain's baselines, a partition for each."""

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
                actor=run_actor(context.run, config.invoker, config.reason),
            )
        return dg.MaterializeResult(
            metadata=baseline_metadata(
                store.store().uri(BaselineFiles(domain.name, made.baseline_id).folder),
                made,
            ),
            data_version=dg.DataVersion(made.content_hash),
        )

    return baseline


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
