"""Building a version of a dataset: every shard, the checks over all of them, the manifest.

The manifest is written last, so a version is complete or does not exist. The finished shards of a
killed build are kept for the next one. Equal inputs give equal bytes, whatever the order of shards
and the number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from atdm_engine import ENGINE_VERSION
from atdm_engine.arrow.types import ColumnKind, column_kind
from atdm_engine.bundle.dataset import described_part
from atdm_engine.checks.dataset import DatasetOutcomes, whole_outcome
from atdm_engine.checks.results import CheckOutcome, failed_checks
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.datasets import REFERENCE_SHARD
from atdm_engine.hashing.content import RowHash, added
from atdm_engine.model import Domain
from atdm_engine.progress import Progress
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_engine.spec.table import TableSpec
from atdm_resources.postgres.columns import TableColumn
from atdm_services.baselines.manifest import (
    BaselineTable,
    Manifest,
    content_hash_of,
    publish_manifest,
    read_manifest,
)
from atdm_services.datasets.runners import Processes, ShardRunner
from atdm_services.datasets.shards import ShardReport, ShardWork
from atdm_services.datasets.whole_checks import whole_checks

_SQL_NAMES: Mapping[str, str] = {
    "double": "double precision",
    "timestamptz": "timestamp with time zone",
}
"""PostgreSQL's names of the types that table files call otherwise."""


@dataclass(frozen=True)
class Built:
    """The result of a build.

    ``outcomes`` are those of ``dataset_check_ids``. ``manifest`` None: a check failed, nothing was
    published, and ``quarantine`` names the folders of rejected rows. ``made`` and ``kept`` count
    shards; both are 0 when the version existed already.
    """

    version: str
    manifest: Manifest | None
    outcomes: Sequence[CheckOutcome]
    made: int
    kept: int
    seconds: float
    quarantine: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return self.manifest is not None

    def rejection(self) -> AtdmError:
        """VALIDATOR_REJECTED, with every failed check."""
        failed = failed_checks(self.outcomes)
        names = ", ".join(one["validator"] for one in failed)
        return AtdmError(
            ErrorCode.VALIDATOR_REJECTED,
            f"version {self.version} is not published: {names}",
            {"version": self.version, "failed": failed, "quarantine": list(self.quarantine)},
        )


def build_dataset(
    work: ShardWork,
    *,
    runner: ShardRunner | None = None,
    invoker: str,
    source: str,
    reason: str = "",
    progress: Progress | None = None,
) -> Built:
    """Build and publish the version of a dataset for one clock; returns one that exists.

    ``runner`` makes the shards; default: a process for each core. The first shard that fails a
    check ends the build, because nothing will be published.

    Raises:
        AtdmError: DATASET_FAILED, a worker is lost; STORE_FAILED; SPEC_INVALID.
    """
    began = time.perf_counter()
    sums = DatasetOutcomes(work.domain, work.dataset)
    existing = published(work)
    if existing is not None:
        sums.add((existing.dataset or {}).get("outcomes", []))
        _clear(work)
        return Built(work.version, existing, sums.outcomes(), 0, 0, time.perf_counter() - began)
    numbers = list(range(REFERENCE_SHARD, work.dataset.shards + 1))
    reports: list[ShardReport] = []
    outcomes: list[dict[str, Any]] = []
    runs = 0
    for report in (runner or Processes()).run(work, numbers):
        reports.append(report)
        outcomes += report.outcomes
        runs += report.runs
        if progress is not None:
            progress("made and checked", runs, work.dataset.runs)
        if not report.accepted:
            break
    reports.sort(key=lambda report: report.shard)
    accepted = all(report.accepted for report in reports)
    if accepted:
        _require_all(work, reports, numbers)
        if progress is not None:
            progress("checking all shards together", 0, 1)
        outcomes += whole_checks(work, reports)
    sums.add(_in_order(outcomes))
    judged = sums.outcomes()
    manifest = None
    if accepted and all(outcome.passed for outcome in judged):
        manifest = _manifest(work, reports, judged, invoker=invoker, source=source, reason=reason)
        manifest = _publish(work, manifest)
        _clear(work)
    else:
        # Equal inputs would fail again, so only the quarantine is kept.
        work.store.delete_prefix(work.files.folder)
        _clear(work)
    kept = sum(report.kept for report in reports)
    return Built(
        version=work.version,
        manifest=manifest,
        outcomes=judged,
        made=len(reports) - kept,
        kept=kept,
        seconds=time.perf_counter() - began,
        quarantine=tuple(report.quarantine for report in reports if report.quarantine),
    )


def published(work: ShardWork) -> Manifest | None:
    """The manifest of this version, None while it is not published.

    Raises:
        AtdmError: BASELINE_INVALID, it is damaged or another dataset's; STORE_FAILED.
    """
    try:
        return read_manifest(work.store, work.domain.name, work.version)
    except AtdmError as error:
        if error.code == ErrorCode.BASELINE_NOT_FOUND:
            return None
        raise


def _publish(work: ShardWork, manifest: Manifest) -> Manifest:
    try:
        publish_manifest(work.store, manifest)
    except AtdmError as error:
        if error.code != ErrorCode.BASELINE_EXISTS:
            raise
        # Another process published the same version a moment earlier, with the same bytes.
        return read_manifest(work.store, manifest.domain, manifest.baseline_id)
    return manifest


def _clear(work: ShardWork) -> None:
    """Delete the records of shards, which the manifest replaces, and half-written files."""
    work.store.delete_prefix(work.folder)
    work.store.sweep(work.files.folder)


def _require_all(work: ShardWork, reports: Sequence[ShardReport], numbers: Sequence[int]) -> None:
    found = [report.shard for report in reports]
    runs = sum(report.runs for report in reports)
    if found != list(numbers) or runs != work.dataset.runs:
        raise AtdmError(
            ErrorCode.DATASET_FAILED,
            f"{len(found)} shards with {runs} test runs were made of {work.version}, expected "
            f"{len(numbers)} with {work.dataset.runs}",
            {"version": work.version, "missing": sorted(set(numbers) - set(found))[:20]},
        )


def _in_order(outcomes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """In an order that does not depend on which shard was finished first."""
    return sorted(outcomes, key=lambda one: (one["table"], one["name"], str(one["cases"])))


def _manifest(
    work: ShardWork,
    reports: Sequence[ShardReport],
    outcomes: Sequence[CheckOutcome],
    *,
    invoker: str,
    source: str,
    reason: str,
) -> Manifest:
    tables = tuple(_table(work.domain, name, reports) for name in work.domain.tables)
    dataset = work.dataset
    return Manifest(
        baseline_id=work.version,
        domain=work.domain.name,
        kind="generated",
        captured_at=datetime.now(UTC),
        captured_by=invoker,
        source=source,
        reason=reason,
        engine_version=ENGINE_VERSION,
        postgres_version="",
        tables=tables,
        next_number=dataset.numbers,
        dataset={
            "name": dataset.name,
            "version": dataset.version,
            "description": dataset.spec.description,
            "seed": dataset.spec.seed,
            "as_of": work.as_of.astimezone(UTC).isoformat(),
            "runs": dataset.runs,
            "shards": len(reports),
            "mix": [described_part(part) for part in dataset.parts],
            "checked": work.check,
            "outcomes": [
                whole_outcome(one.check.table, one.check.name, one.judged, one.failed)
                for one in outcomes
            ],
        },
        content_hash=content_hash_of(tables),
    )  # fmt: skip


def _table(domain: Domain, name: str, reports: Sequence[ShardReport]) -> BaselineTable:
    parts = [report.tables[name] for report in reports if name in report.tables]
    spec = domain.tables[name]
    return BaselineTable(
        name=name,
        columns=_columns(spec),
        key=spec.key_columns,
        rows=sum(part.file.rows for part in parts),
        content_hash=added(part.content_hash for part in parts) if parts else RowHash().hexdigest(),
        files=tuple(part.file for part in parts),
    )


def _columns(spec: TableSpec) -> tuple[TableColumn, ...]:
    columns = [
        TableColumn(
            name=name,
            type=_sql_type(column_kind(column.type)),
            nullable=column.nullable,
            collation=_collation(column_kind(column.type)),
            spec_type=column.type,
        )
        for name, column in spec.columns.items()
    ]
    columns.append(
        TableColumn(name=RUN_COLUMN, type="text", nullable=True, collation="C", spec_type="text")
    )
    return tuple(columns)


def _sql_type(kind: ColumnKind) -> str:
    """A type as PostgreSQL's ``format_type`` writes it."""
    name = _SQL_NAMES.get(kind.base, kind.base)
    if kind.base == "numeric":
        name = f"numeric({kind.precision},{kind.scale})"
    return f"{name}[]" if kind.array else name


def _collation(kind: ColumnKind) -> str | None:
    return "C" if kind.base == "text" else None
