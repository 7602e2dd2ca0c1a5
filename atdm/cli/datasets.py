"""``atdm dataset-build``: a version of a dataset, made now."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from atdm.cli.arguments import moment_of
from atdm.cli.output import table
from atdm_assets.instance.environment import with_target
from atdm_resources.settings import Settings
from atdm_services.extras import server_part

if TYPE_CHECKING:
    from datetime import datetime

    from atdm.cli.output import Output
    from atdm_assets.datasets.job import VersionOutcome
    from atdm_services.baselines.manifest import Manifest
    from atdm_services.progress import Step


def build(output: Output, dataset: str, *, as_of: str | None, processes: int | None) -> int:
    """Make and publish a version; what an earlier, killed build has finished is kept."""
    clock = None if as_of is None else moment_of(as_of)
    settings = with_target(Settings.from_environment(), output)
    with output.working(f"building dataset {dataset}") as step:
        outcome, manifest = _built(settings, output, dataset, clock, processes, step)
    if outcome.error is not None:
        raise outcome.error
    assert manifest is not None
    tables = {
        one.name: {"rows": one.rows, "bytes": one.bytes, "content_hash": one.content_hash}
        for one in manifest.tables
    }
    payload: dict[str, Any] = {
        "dataset": outcome.dataset.key,
        "version": outcome.version,
        "baseline_id": outcome.version,
        "status": "published",
        "as_of": (manifest.dataset or {}).get("as_of"),
        "runs": outcome.dataset.runs,
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "content_hash": manifest.content_hash,
        "tables": tables,
        "expired": list(outcome.expired),
        "dagster_run_id": outcome.dagster_run_id,
    }
    output.emit(payload, lambda: _shown(outcome, manifest))
    return 0


def _built(
    settings: Settings,
    output: Output,
    dataset: str,
    clock: datetime | None,
    processes: int | None,
    step: Step,
) -> tuple[VersionOutcome, Manifest | None]:
    with server_part("building a dataset"):
        from dagster import DagsterExecutionInterruptedError

        from atdm_assets.datasets.job import AskedVersion, materialise_version
        from atdm_assets.definitions import build_defs
        from atdm_assets.instance import run_liveness
        from atdm_assets.instance.local_instance import instance
        from atdm_assets.resources import StoreResource, TargetResource
        from atdm_resources.store.bundle import load_registry
        from atdm_services.baselines.manifest import read_manifest

    # The command line switches it off for its imports; from here on there is garbage.
    gc.enable()
    registry = load_registry(settings)
    registry.dataset(dataset)  # a wrong name is said before anything is started
    store = StoreResource(store_url=settings.store_url, endpoint_url=settings.s3_endpoint_url)
    target = TargetResource(database_url=settings.database_url)
    defs = build_defs(scenarios=registry, resource_overrides={"store": store, "target": target})
    try:
        with instance(settings) as opened:
            with run_liveness.usable(target) as conn:
                if conn is not None:
                    run_liveness.report_dead(opened, conn)
            outcome = materialise_version(
                AskedVersion(
                    dataset,
                    as_of=clock,
                    processes=processes,
                    invoker=settings.invoker,
                    source="cli",
                ),
                registry=registry,
                instance=opened,
                resolve_job=defs.resolve_job_def,
                store=store,
                target=target,
                progress=step,
                log_level="DEBUG" if output.debug else "CRITICAL",
            )
    except DagsterExecutionInterruptedError as error:
        raise KeyboardInterrupt from error
    if outcome.error is not None:
        if DagsterExecutionInterruptedError.__name__ in outcome.error.message:
            # Dagster turns Ctrl-C into a failed run; for whoever pressed it, it is Ctrl-C.
            raise KeyboardInterrupt from outcome.error
        return outcome, None
    return outcome, read_manifest(store.store(), outcome.dataset.domain, outcome.version)


def _shown(outcome: VersionOutcome, manifest: Manifest) -> list[object]:
    lines = [
        f"{outcome.dataset.key}: version {outcome.version} is published",
        f"  {outcome.dataset.runs:,} test runs, {manifest.rows:,} rows, {manifest.bytes:,} bytes",
        f"  content hash {manifest.content_hash}",
    ]
    if outcome.expired:
        lines.append(f"  deleted: {', '.join(outcome.expired)}")
    rows = [(one.name, f"{one.rows:,}", f"{one.bytes:,}") for one in manifest.tables]
    return ["\n".join(lines), table(None, ("table", "rows", "bytes"), rows)]
