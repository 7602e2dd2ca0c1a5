"""The assets of a dataset: one a table, partitioned by version, made by one step."""

# No postponed annotations here: Dagster compares those of steps as classes, not as text.

import itertools
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster import MetadataValue
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from atdm_assets import metadata, names
from atdm_assets.actors import run_actor
from atdm_assets.resources import StoreResource
from atdm_engine.bundle.dataset import described_part
from atdm_engine.checks.dataset import dataset_check_ids
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.datasets import version_id
from atdm_engine.model import Dataset, Domain
from atdm_engine.progress import Progress
from atdm_resources.store.files import Store
from atdm_services.baselines.manifest import BaselineFiles, BaselineTable, Manifest
from atdm_services.progress import current_progress

_CLOCK = re.compile(r".+-([0-9]{8}-[0-9]{6})-[0-9a-f]{6}\Z")
_LOG_SECONDS = 10.0
SAMPLE_ROWS = 5


def dataset_assets(domain: Domain, dataset: Dataset) -> dg.AssetsDefinition:
    """All tables of a version of a dataset, with their checks."""
    checks = dataset_check_ids(domain, dataset)

    @dg.multi_asset(
        name=names.dataset_step_name(domain.name, dataset.name),
        specs=list(_specs(domain, dataset)),
        check_specs=[
            dg.AssetCheckSpec(
                name=check.name,
                asset=names.dataset_key(domain.name, dataset.name, check.table),
                description=check.description,
                blocking=True,
                metadata={"kind": check.kind, "rule": check.rule or MetadataValue.null()},
            )
            for check in checks
        ],
        config_schema={
            "processes": dg.Field(
                int,
                is_required=False,
                description="Processes that make shards; default: one for each core.",
            )
        },
    )
    def tables(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
        # Here and not above: it loads pandas and pandera, which loading the graph must not.
        from atdm_services.datasets.build import build_dataset
        from atdm_services.datasets.runners import Processes
        from atdm_services.datasets.shards import ShardWork

        config = context.op_execution_context.op_config or {}
        with metadata.reported_failures():
            as_of = clock_of(dataset, context.partition_key)
            actor = run_actor(context.run)
            work = ShardWork(domain, dataset, as_of, store.store())
            built = build_dataset(
                work,
                runner=Processes(config.get("processes")),
                invoker=actor.invoker,
                source=actor.source,
                progress=_logged(context, current_progress()),
            )
        for outcome in built.outcomes:
            key = names.dataset_key(domain.name, dataset.name, outcome.check.table)
            yield metadata.check_result(key, outcome, {"version": built.version})
        if built.manifest is None:
            raise metadata.failure(built.rejection())
        context.log.info(
            f"Version {built.version}: {built.made} shards made, {built.kept} kept of an earlier "
            f"build, {built.manifest.rows} rows in {built.seconds:.1f} s."
        )
        for table in built.manifest.tables:
            yield dg.MaterializeResult(
                asset_key=names.dataset_key(domain.name, dataset.name, table.name),
                metadata={
                    "version": built.version,
                    "as_of": MetadataValue.timestamp(as_of),
                    "dagster/row_count": table.rows,
                    "bytes": table.bytes,
                    "files": len(table.files),
                    "content_hash": table.content_hash,
                    "dagster/uri": MetadataValue.url(
                        work.store.uri(f"{work.files.folder}/{table.name}")
                    ),
                    "dagster/column_schema": metadata.column_schema(domain.tables[table.name]),
                    "sample": metadata.records_table(_sample(work.store, built.manifest, table)),
                    "seconds": round(built.seconds, 3),
                    "rows_per_second": metadata.rate(built.manifest.rows, built.seconds),
                    "shards_made": built.made,
                    "shards_kept": built.kept,
                },
                data_version=dg.DataVersion(table.content_hash),
            )

    return tables


def dataset_job(domain: Domain, dataset: Dataset) -> UnresolvedAssetJobDefinition:
    """The job ``<domain>__dataset__<name>``: all tables of one version, one version a partition."""
    keys = [names.dataset_key(domain.name, dataset.name, table) for table in domain.tables]
    return dg.define_asset_job(
        names.dataset_job_name(domain.name, dataset.name),
        selection=dg.AssetSelection.assets(*keys),
        description=f"{dataset.spec.description}\n\nOne partition is one version, named after its "
        f"clock; job {names.DATASET_JOB} makes the next one.",
        executor_def=dg.in_process_executor,
        metadata=_definition_metadata(dataset),
    )


def clock_of(dataset: Dataset, version: str) -> datetime:
    """The clock in a version's id.

    Raises:
        AtdmError: REQUEST_INVALID, the id is no version of this dataset as its files are now.
    """
    match = _CLOCK.match(version)
    try:
        clock = datetime.strptime(match[1], "%Y%m%d-%H%M%S").replace(tzinfo=UTC) if match else None
    except ValueError:
        clock = None
    if clock is None or version_id(dataset, clock) != version:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{version!r} is no version that {dataset.key} can be made as: its files have changed "
            f"since, or the key was typed; job {names.DATASET_JOB} makes the next version",
            {"dataset": dataset.key, "version": version},
        )
    return clock


def _definition_metadata(dataset: Dataset) -> dict[str, Any]:
    mix = [described_part(part) for part in dataset.parts]
    return {
        "dataset": dataset.key,
        "dataset_version": dataset.version,
        "runs": dataset.runs,
        "shards": dataset.shards,
        "seed": MetadataValue.text(str(dataset.spec.seed)),
        "cron": dataset.spec.cron or MetadataValue.null(),
        "retention": dataset.spec.retention,
        "restore": dataset.spec.restore,
        "mix": metadata.records_table(mix),
    }


def _specs(domain: Domain, dataset: Dataset) -> Iterator[dg.AssetSpec]:
    for table, spec in domain.tables.items():
        parents = dict.fromkeys(spec.foreign_keys.values())
        deps = [
            names.dataset_key(domain.name, dataset.name, parent)
            for parent in parents
            if parent != table
        ]
        if table in domain.reference:
            deps.append(names.reference_key(domain.name, table))
        yield dg.AssetSpec(
            names.dataset_key(domain.name, dataset.name, table),
            deps=deps,
            description=spec.description,
            metadata={
                **_definition_metadata(dataset),
                "dagster/column_schema": metadata.column_schema(spec),
            },
            kinds={"parquet", "pandera", "duckdb"},
            partitions_def=names.dataset_partitions(domain.name, dataset.name),
            # Nothing may be materialised that did not pass every check.
            skippable=True,
            group_name=names.dataset_job_name(domain.name, dataset.name),
            code_version=dataset.version,
            owners=domain.spec.owners,
        )


def _sample(store: Store, manifest: Manifest, table: BaselineTable) -> list[dict[str, Any]]:
    """The first rows of the last file that has any: made ones, where reference rows come first."""
    from atdm_resources.store.parquet import read_batches

    files = BaselineFiles(manifest.domain, manifest.baseline_id)
    for file in [file for file in table.files if file.rows][-1:]:
        batches = read_batches(store, files.full(file), SAMPLE_ROWS)
        rows = [row for batch in itertools.islice(batches, 1) for row in batch.to_pylist()]
        return [
            {name: cell if cell is None else str(cell) for name, cell in row.items()}
            for row in rows
        ]
    return []


def _logged(context: dg.AssetExecutionContext, progress: Progress | None) -> Progress:
    """Reports to ``progress``, and every ten seconds to the run's log."""
    last = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        if progress is not None:
            progress(what, done, total)
        if time.monotonic() - last >= _LOG_SECONDS:
            last = time.monotonic()
            context.log.info(f"{what}: {done} of {total}")

    return report
