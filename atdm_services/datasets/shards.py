"""One shard of a dataset: made, judged, written, and known again after a kill.

A finished shard has Parquet files (part k of each table), a file with the hashes of its keys, and a
record with the checksums of all of them that is written last. A shard without a valid record is
made again; what an earlier attempt left is overwritten with the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from atdm_engine.checks.dataset import distinct, group_hashes, hash_groups, outcome_json
from atdm_engine.generation.batches import BATCH_ROWS, batches
from atdm_engine.generation.datasets import (
    REFERENCE_SHARD,
    Slice,
    dataset_id,
    part_request,
    slices,
    version_id,
    without_run_ids,
)
from atdm_engine.hashing.content import RowHash
from atdm_engine.model import Dataset, Domain, MixPart
from atdm_engine.random.stream import U64
from atdm_engine.values.scalars import TypedScalar
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import ParquetWriter, parquet_writer, write_table
from atdm_services.baselines.manifest import BaselineFiles, PartFile
from atdm_services.baselines.part_files import part_file

ROOT = "datasets"
_RECORD_FORMAT = 1


@dataclass(frozen=True)
class ShardWork:
    """The inputs of every shard of a version; can be sent to other processes and machines.

    ``check`` False leaves pandera and the rules out, so that benchmarks can measure their cost.
    """

    domain: Domain
    dataset: Dataset
    as_of: datetime
    store: Store
    check: bool = True

    @property
    def version(self) -> str:
        """The id of the version, which is that of the baseline it becomes."""
        return version_id(self.dataset, self.as_of)

    @property
    def files(self) -> BaselineFiles:
        return BaselineFiles(self.domain.name, self.version)

    @property
    def folder(self) -> str:
        """Where the records of finished shards are, until the version is published."""
        return f"{ROOT}/{self.domain.name}/{self.version}"

    def record_path(self, shard: int) -> str:
        return f"{self.folder}/shard-{shard:05d}.json"

    def hashes_path(self, shard: int) -> str:
        return f"{self.folder}/shard-{shard:05d}.hashes"


@dataclass(frozen=True)
class ShardTable:
    """One table's part of a shard. ``content_hash`` is ``RowHash``'s, ``made`` the checked rows."""

    file: PartFile
    content_hash: str
    made: int


@dataclass(frozen=True)
class HashRange:
    """The place of a group's hashes in the shard's file: sorted, ``count`` from ``offset`` on."""

    offset: int
    count: int


@dataclass(frozen=True)
class ShardReport:
    """The result of a shard. ``outcomes`` are ``outcome_json``'s.

    ``accepted`` False: rows failed a check, ``quarantine`` is their folder, and the shard has no
    files. ``kept``: an earlier build had finished it.
    """

    shard: int
    runs: int
    tables: dict[str, ShardTable]
    outcomes: list[dict[str, Any]]
    hashes: dict[str, HashRange]
    seconds: float
    accepted: bool = True
    quarantine: str | None = None
    kept: bool = False


def make_shard(work: ShardWork, shard: int) -> ShardReport:
    """Make a shard, unless it is finished already. In any process, in any order.

    Raises:
        AtdmError: STORE_FAILED; SPEC_INVALID, a column cannot be made. Rows that fail a check raise
            nothing: the report has them.
    """
    return finished_shard(work, shard) or _made(work, shard)


def finished_shard(work: ShardWork, shard: int) -> ShardReport | None:
    """The report of a finished shard whose files are intact, None when it has to be made."""
    path = work.record_path(shard)
    if not work.store.exists(path):
        return None
    try:
        record = json.loads(work.store.read_bytes(path))
    except ValueError:
        return None
    if record.get("format") != _RECORD_FORMAT or record.get("checked") != work.check:
        return None
    report = _report(record["report"])
    files = [(work.files.full(table.file), table.file.sha256) for table in report.tables.values()]
    files.append((work.hashes_path(shard), record["hashes_sha256"]))
    for path, wanted in files:
        if not work.store.exists(path) or work.store.sha256(path) != wanted:
            return None
    return report


def _made(work: ShardWork, shard: int) -> ShardReport:
    began = time.perf_counter()
    made = _ShardFiles(work, shard)
    try:
        with made.opened:
            if shard == REFERENCE_SHARD:
                made.write(work.domain.reference_tables())
            else:
                made.write_runs()
    except _RejectedError as rejected:
        return ShardReport(
            shard, rejected.runs, {}, made.outcomes, {}, time.perf_counter() - began,
            accepted=False, quarantine=rejected.quarantine,
        )  # fmt: skip
    tables = {name: made.table(name) for name in work.domain.tables if name in made.parts}
    ranges, content = made.sorted_hashes()
    work.store.write_bytes(work.hashes_path(shard), content)
    report = ShardReport(
        shard, made.runs, tables, made.outcomes, ranges, time.perf_counter() - began
    )
    record = {
        "format": _RECORD_FORMAT,
        "checked": work.check,
        "hashes_sha256": hashlib.sha256(content).hexdigest(),
        "report": asdict(report),
    }
    text = json.dumps(record, default=lambda file: file.model_dump(mode="json"))
    work.store.write_bytes(work.record_path(shard), text.encode())
    return report


class _RejectedError(Exception):
    """Ends the writing of a shard whose rows failed a check."""

    def __init__(self, runs: int, quarantine: str | None) -> None:
        super().__init__()
        self.runs = runs
        self.quarantine = quarantine


@dataclass
class _Part:
    writer: ParquetWriter
    row_hash: RowHash
    made: int = 0


@dataclass
class _ShardFiles:
    """The files of one shard while they are written."""

    work: ShardWork
    shard: int
    opened: ExitStack = field(default_factory=ExitStack)
    parts: dict[str, _Part] = field(default_factory=dict)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    runs: int = 0

    def __post_init__(self) -> None:
        self._groups = hash_groups(self.work.domain)
        self._hashes: dict[str, list[U64]] = {group.name: [] for group in self._groups}
        self._identity = dataset_id(self.work.domain.name, self.work.dataset.name)

    def write_runs(self) -> None:
        """Make, check and write the test runs of the shard, scenario by scenario."""
        # Here and not above: pandas and pandera load only where data is made.
        from atdm_engine.checks.validator import Validator

        work = self.work
        for scenario, group in itertools.groupby(
            slices(work.dataset, self.shard), lambda part: part.part.scenario
        ):
            parts = list(group)
            validator = Validator(
                work.domain, work.domain.scenarios[scenario], _common(part.part for part in parts)
            )
            for batch in self._batches(parts):
                if work.check:
                    validator.check(batch)
                self.write(without_run_ids(batch))
            outcomes = validator.outcomes() if work.check else []
            self.outcomes += [outcome_json(outcome) for outcome in outcomes]
            self.runs += sum(part.last - part.first + 1 for part in parts)
            if any(not outcome.passed for outcome in outcomes):
                raise _RejectedError(self.runs, self._quarantined(validator.rejected()))

    def _batches(self, parts: Sequence[Slice]) -> Iterator[dict[str, pa.Table]]:
        """The rows of parts of one scenario; small batches are joined, as each check call costs."""
        waiting: list[dict[str, pa.Table]] = []
        rows = 0
        for part in parts:
            spec = part_request(self.work.domain, self.work.dataset, part.part, self.work.as_of)
            for batch in batches(spec, first=part.first, last=part.last):
                waiting.append(batch)
                rows += sum(table.num_rows for table in batch.values())
                if rows >= BATCH_ROWS:
                    yield _joined(waiting)
                    waiting, rows = [], 0
        if waiting:
            yield _joined(waiting)

    def _quarantined(self, rejected: Mapping[str, pa.Table]) -> str | None:
        """Write the rejected rows; returns the URL of their folder, None when there are none."""
        folder = f"quarantine/{self.work.domain.name}/{ROOT}/{self.work.version}/{self.shard:05d}"
        for table, rows in rejected.items():
            write_table(self.work.store, f"{folder}/{table}.parquet", rows)
        return self.work.store.uri(folder) if rejected else None

    def write(self, tables: Mapping[str, pa.Table]) -> None:
        """Append rows to the files, and their keys to the hashes."""
        for name, rows in tables.items():
            part = self.parts.get(name) or self._open(name, rows.schema)
            part.writer.write(rows)
            for batch in rows.to_batches():
                part.row_hash.add(batch)
            part.made += rows.num_rows
        for group in self._groups:
            if group.table in tables:
                found = group_hashes(tables[group.table], group, self._identity)
                self._hashes[group.name].append(found)

    def _open(self, name: str, schema: pa.Schema) -> _Part:
        path = self.work.files.part(name, self.shard)
        writer = self.opened.enter_context(parquet_writer(self.work.store, path, schema))
        self.parts[name] = _Part(writer, RowHash())
        return self.parts[name]

    def table(self, name: str) -> ShardTable:
        """What was written of a table."""
        part = self.parts[name]
        file = part_file(self.work.files, part.writer)
        return ShardTable(file, part.row_hash.hexdigest(), part.made)

    def sorted_hashes(self) -> tuple[dict[str, HashRange], bytes]:
        """The sorted hashes of every group, one after the other, and the place of each group's."""
        ranges: dict[str, HashRange] = {}
        content: list[bytes] = []
        offset = 0
        for group in self._groups:
            parts = self._hashes[group.name]
            hashes = np.concatenate(parts) if parts else np.empty(0, np.uint64)
            hashes = np.sort(hashes)
            hashes = distinct(hashes) if group.parent else hashes
            ranges[group.name] = HashRange(offset, len(hashes))
            content.append(hashes.astype("<u8").tobytes())
            offset += len(hashes)
        return ranges, b"".join(content)


def _common(parts: Iterable[MixPart]) -> dict[str, TypedScalar]:
    """The constraints that all parts share, for the details of a rule that fails."""
    first, *others = parts
    return {
        name: value
        for name, value in first.effective.items()
        if all(other.effective[name] == value for other in others)
    }


def _joined(batches: Sequence[Mapping[str, pa.Table]]) -> dict[str, pa.Table]:
    if len(batches) == 1:
        return dict(batches[0])
    return {
        table: pa.concat_tables([batch[table] for batch in batches]).combine_chunks()
        for table in batches[0]
    }


def _report(record: Mapping[str, Any]) -> ShardReport:
    tables = {
        name: ShardTable(PartFile(**table["file"]), table["content_hash"], table["made"])
        for name, table in record["tables"].items()
    }
    ranges = {name: HashRange(**found) for name, found in record["hashes"].items()}
    return ShardReport(**{**record, "tables": tables, "hashes": ranges, "kept": True})
