"""Checks over all shards of a dataset together, in bounded memory.

Keys and references are compared by 64-bit hashes, range by range: each shard's hashes are sorted,
so that one range of all shards fits into memory however many there are. Two keys that share a hash
by accident (about one pair in 4 * 10**10 rows) are distinguished by reading them.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atdm_engine.checks.dataset import (
    WHOLE_COUNTS,
    WHOLE_KEYS,
    WHOLE_REFERENCES,
    HashGroup,
    distinct,
    group_hashes,
    hash_groups,
    whole_outcome,
)
from atdm_engine.checks.results import MAX_CASES
from atdm_engine.generation.datasets import dataset_id
from atdm_engine.random.stream import U64
from atdm_services.datasets.shards import ShardReport, ShardWork

HELD = 4_000_000
"""Hashes in memory at once, about, for each thread (32 MB)."""

_THREADS = 2
_PIECES = 256
"""The most parts that the range of hashes is cut into; a shard's place of each is remembered."""


def whole_checks(work: ShardWork, reports: Sequence[ShardReport]) -> list[dict[str, Any]]:
    """The outcomes of every check over all shards; ``reports`` are of accepted shards, all of them.

    Raises:
        AtdmError: STORE_FAILED.
    """
    comparison = _Comparison(work, reports)
    groups = hash_groups(work.domain)
    keys = [group for group in groups if group.parent is None]
    referring = [[other for other in groups if other.parent == group.name] for group in keys]
    # Reading and sorting take most of the time and release the interpreter's lock.
    with ThreadPoolExecutor(_THREADS) as threads:
        compared = list(threads.map(comparison.compared, keys, referring))
        counted = list(
            threads.map(lambda table: _counted(work, reports, table), work.domain.tables)
        )
    return [outcome for outcomes in compared for outcome in outcomes] + counted


def _counted(work: ShardWork, reports: Sequence[ShardReport], table: str) -> dict[str, Any]:
    """Whether every file holds as many rows, by its own metadata, as were made for it."""
    cases: list[dict[str, Any]] = []
    rows = 0
    for report in reports:
        part = report.tables.get(table)
        if part is None:
            continue
        with work.store.open(work.files.full(part.file)) as handle:
            written = int(pq.read_metadata(handle).num_rows)
        rows += written
        if not written == part.made == part.file.rows:
            cases.append({"file": part.file.path, "made": part.made, "written": written})
    return whole_outcome(table, WHOLE_COUNTS, rows, len(cases), cases)


@dataclass
class _Comparison:
    work: ShardWork
    reports: Sequence[ShardReport]

    def __post_init__(self) -> None:
        self._groups = {group.name: group for group in hash_groups(self.work.domain)}
        self._identity = dataset_id(self.work.domain.name, self.work.dataset.name)
        self._places: dict[tuple[int, str], NDArray[np.int64]] = {}

    def compared(self, group: HashGroup, referring: Sequence[HashGroup]) -> list[dict[str, Any]]:
        """Keys or unique values that occur twice, and values that refer to none of them."""
        twice = _Failing(self, group)
        dangling = [_Failing(self, other) for other in referring]
        for first, last in self._ranges([one.name for one in (group, *referring)]):
            keys = np.sort(self._hashes(group.name, first, last))
            twice.judged += len(keys)
            repeated = keys[1:][keys[1:] == keys[:-1]]
            if len(repeated):
                twice.add_repeated(distinct(repeated))
            for other in dangling:
                values = np.sort(self._hashes(other.group.name, first, last))
                other.judged += len(values)
                missing = values[~_is_in(values, keys)]
                if len(missing):
                    other.add_missing(distinct(missing))
        return [
            twice.outcome(WHOLE_KEYS),
            *(other.outcome(WHOLE_REFERENCES) for other in dangling),
        ]

    def _ranges(self, names: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Cuts of 0.._PIECES in which the named groups have about ``HELD`` hashes together."""
        total = sum(report.hashes[name].count for report in self.reports for name in names)
        pieces = min(_PIECES, max(1, -(-total // HELD)))
        edges = [round(place * _PIECES / pieces) for place in range(pieces + 1)]
        yield from itertools.pairwise(edges)

    def _hashes(self, name: str, first: int, last: int) -> U64:
        """The hashes of a group in a range, of all shards."""
        return np.concatenate(
            [np.empty(0, np.uint64)]
            + [self._of_shard(report, name, first, last) for report in self.reports]
        )

    def _of_shard(self, report: ShardReport, name: str, first: int, last: int) -> U64:
        part = report.hashes[name]
        if not part.count:
            return np.empty(0, np.uint64)
        begin, end = 0, part.count
        if (first, last) != (0, _PIECES):
            places = self._cuts(report, name)
            begin, end = int(places[first]), int(places[last])
        return self._read(report, part.offset + begin, end - begin)

    def _cuts(self, report: ShardReport, name: str) -> NDArray[np.int64]:
        """Where each piece begins in a shard's sorted hashes."""
        known = self._places.get((report.shard, name))
        if known is None:
            part = report.hashes[name]
            hashes = self._read(report, part.offset, part.count)
            edges = np.arange(1, _PIECES, dtype=np.uint64) << np.uint64(64 - 8)
            inner = np.searchsorted(hashes, edges)
            known = np.concatenate([[0], inner, [part.count]]).astype(np.int64)
            self._places[report.shard, name] = known
        return known

    def _read(self, report: ShardReport, offset: int, count: int) -> U64:
        with self.work.store.open(self.work.hashes_path(report.shard)) as handle:
            handle.seek(offset * 8, io.SEEK_SET)
            return np.frombuffer(handle.read(count * 8), "<u8").astype(np.uint64)

    def values(self, group: HashGroup, hashes: U64) -> dict[tuple[Any, ...], list[str]]:
        """The values behind hashes, and the files that hold each (a file per occurrence)."""
        bare = HashGroup(group.table, group.columns)
        found: dict[tuple[Any, ...], list[str]] = {}
        for report in self.reports:
            part = report.tables.get(group.table)
            mine = self._of_shard(report, group.name, 0, _PIECES)
            if part is None or not np.isin(hashes, mine).any():
                continue
            path = self.work.files.full(part.file)
            with self.work.store.open(path) as handle, pq.ParquetFile(handle) as parquet:
                for batch in parquet.iter_batches(columns=list(group.columns)):
                    rows = pa.Table.from_batches([batch]).drop_null()
                    own = group_hashes(rows, bare, self._identity)
                    for row in rows.take(np.flatnonzero(np.isin(own, hashes))).to_pylist():
                        places = found.setdefault(tuple(row[name] for name in group.columns), [])
                        places.append(part.file.path)
        return found


@dataclass
class _Failing:
    """The failures of one group in a check."""

    comparison: _Comparison
    group: HashGroup
    judged: int = 0
    failed: int = 0
    cases: list[dict[str, Any]] = field(default_factory=list)

    def add_repeated(self, hashes: U64) -> None:
        """Values that share a hash; those that are one value fail."""
        for value, places in self.comparison.values(self.group, hashes).items():
            if len(places) > 1:
                self.failed += len(places) - 1
                self.cases.append(_case(self.group, value, places))

    def add_missing(self, hashes: U64) -> None:
        """Values that are no key."""
        self.failed += len(hashes)
        if len(self.cases) < MAX_CASES:
            values = self.comparison.values(self.group, hashes[:MAX_CASES])
            self.cases += [_case(self.group, value, places[:1]) for value, places in values.items()]

    def outcome(self, check: str) -> dict[str, Any]:
        return whole_outcome(self.group.table, check, self.judged, self.failed, self.cases)


def _case(group: HashGroup, value: tuple[Any, ...], places: Sequence[str]) -> dict[str, Any]:
    cells = {name: str(cell) for name, cell in zip(group.columns, value, strict=True)}
    return {**cells, "files": ", ".join(places[:2])}


def _is_in(values: U64, known: U64) -> Any:
    if not len(known):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return known[places] == values
