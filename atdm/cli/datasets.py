"""``atdm dataset-build``: makes a version of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from atdm.cli.arguments import SOURCE, AsOf
from atdm.cli.output import Output, table
from atdm_resources.settings import Settings
from atdm_services.arguments import parse_time
from atdm_services.extras import server_part

if TYPE_CHECKING:
    from atdm_assets.datasets.job import VersionOutcome
    from atdm_services.baselines.manifest import Manifest


def dataset_build(
    output: Output,
    dataset: Annotated[str, typer.Argument(metavar="DOMAIN/NAME", help="Which dataset.")],
    as_of: AsOf = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=512, help="How many; default: one for each core.")
    ] = None,
) -> None:
    """Make the next version of a dataset, or resume one whose build was killed.

    Example: atdm dataset-build healthcare/smoke
    """
    clock = None if as_of is None else parse_time(as_of)
    with server_part("building a dataset"):
        from atdm_assets.datasets.job import VersionRequest
        from atdm_assets.in_process.datasets import build

    settings = Settings.from_environment()
    version = VersionRequest(
        dataset,
        as_of=clock,
        processes=processes,
        invoker=settings.invoker,
        source=SOURCE,
    )
    outcome, manifest = build(settings, output, version)
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
        "tables": {
            one.name: {"rows": one.rows, "bytes": one.bytes, "content_hash": one.content_hash}
            for one in manifest.tables
        },
        "expired": list(outcome.expired),
        "dagster_run_id": outcome.dagster_run_id,
    }
    output.emit(payload, lambda: _version_parts(outcome, manifest))


def _version_parts(outcome: VersionOutcome, manifest: Manifest) -> list[object]:
    lines = [
        f"{outcome.dataset.key}: version {outcome.version} is published",
        f"  {outcome.dataset.runs:,} test runs, {manifest.rows:,} rows, {manifest.bytes:,} bytes",
        f"  content hash {manifest.content_hash}",
    ]
    if outcome.expired:
        lines.append(f"  deleted: {', '.join(outcome.expired)}")
    rows = [(one.name, f"{one.rows:,}", f"{one.bytes:,}") for one in manifest.tables]
    return ["\n".join(lines), table(None, ("table", "rows", "bytes"), rows)]
