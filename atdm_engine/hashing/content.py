"""The content hash: what a table holds, whatever the order, the batches, the machine or the ids.

A 128-bit multiset hash: every row becomes two 64-bit numbers that depend on all its cells, and
these are added up modulo 2**64. Cells are hashed by value: NULL is not the empty text, 0.0 is
-0.0, all NaNs are one, times are microseconds in UTC. What differs between two requests for the
same data is taken out first: the request's part of run ids and keys, and the request's part of
unique numbers (a unique value stands as its number within the request; a column computed by SQL
from unique columns follows from them and is left out). Rows read back from a database hash like
the rows that were generated.

It detects change and difference; it is no defence against somebody who forges rows on purpose.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.arrow import text_hash
from atdm_engine.arrow.text_hash import U64, mix
from atdm_engine.generation.plan import unique_columns
from atdm_engine.generators.base import walk
from atdm_engine.generators.sql import Sql
from atdm_engine.generators.unique import Unique
from atdm_engine.model import Domain
from atdm_engine.random.run_ids import RUN_DIGITS, is_request_id
from atdm_engine.random.stream import stream_key

_BLOCK = 65_536
_NULL = np.uint64(0x6E756C6C_A5A5C3C3)
_LANE = np.uint64(0xC2B2AE3D27D4EB4F)
_32 = np.uint64(32)
_NAN = np.float64("nan").view(np.uint64)
_WORD = re.compile(r"[a-z][a-z0-9_]*")


class ContentHash:
    """Accumulates the hash of one table of one request.

    ``number_base`` is the first unique number of the request. jsonb columns must hold canonical
    texts (``types.canonical_json``), as generation makes them.
    """

    def __init__(self, domain: Domain, table: str, request_id: str, number_base: int = 0) -> None:
        if not is_request_id(request_id):
            raise ValueError(f"{request_id!r} is no request id")
        self._marker = request_id[:-RUN_DIGITS].encode("ascii")
        self._number_base = number_base
        self._uniques = unique_columns(domain, table)
        left_out = computed_from_unique(domain, table)
        schema = domain.tables[table].arrow_schema
        self._types = {field.name: field.type for field in schema if field.name not in left_out}
        self._sums = [0, 0]
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Add rows. Every column of the table's specification must be there; others are ignored."""
        missing = [name for name in self._types if name not in table.column_names]
        if missing:
            raise ValueError(f"columns are missing: {', '.join(missing)}")
        wanted = table.select(list(self._types))
        for batch in wanted.to_batches(max_chunksize=_BLOCK):
            if batch.num_rows:
                self._add(batch)
        self.rows += table.num_rows

    def _add(self, batch: pa.RecordBatch) -> None:
        first = np.zeros(batch.num_rows, np.uint64)
        second = np.zeros(batch.num_rows, np.uint64)
        with np.errstate(over="ignore"):
            for number, (name, kind) in enumerate(self._types.items()):
                column = batch.column(number)
                if column.type != kind:
                    column = column.cast(kind)
                key, other = (np.uint64(half) for half in stream_key("column", name))
                cells = mix(self._cells(name, column) + key)
                first += cells
                cells ^= cells >> _32
                cells *= other | np.uint64(1)
                second += cells ^ (cells >> _32)
            rows = mix(first ^ (second >> _32))
            self._sums[0] = (self._sums[0] + int(rows.sum(dtype=np.uint64))) % 2**64
            rows = mix(second + first * _LANE)
            self._sums[1] = (self._sums[1] + int(rows.sum(dtype=np.uint64))) % 2**64

    def _cells(self, name: str, column: pa.Array) -> U64:
        unique = self._uniques.get(name)
        if unique is None:
            return cell_hashes(column, self._marker)
        return _unique_hashes(unique, column, self._number_base, self._marker)

    def merge(self, other: ContentHash) -> None:
        """Add the rows that another accumulator of the same table has seen."""
        self._sums = [(one + two) % 2**64 for one, two in zip(self._sums, other._sums, strict=True)]
        self.rows += other.rows

    def hexdigest(self) -> str:
        """The hash so far, 32 hexadecimal digits."""
        return "".join(f"{value:016x}" for value in self._sums)


def added(digests: Iterable[str]) -> str:
    """The hash of a table from the hashes of its parts, whatever their order."""
    sums = [0, 0]
    for digest in digests:
        for half, place in enumerate((0, 16)):
            sums[half] = (sums[half] + int(digest[place : place + 16], 16)) % 2**64
    return "".join(f"{value:016x}" for value in sums)


def combined(hashes: Mapping[str, str]) -> str:
    """One hash for a request, from those of its tables by name."""
    text = "\n".join(f"{table} {digest}" for table, digest in sorted(hashes.items()))
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def computed_from_unique(domain: Domain, table: str) -> frozenset[str]:
    """The columns of a table whose values follow from unique columns by SQL, case or JSON."""
    unique = set(unique_columns(domain, table))
    found: set[str] = set()
    columns = domain.tables[table].columns
    if not unique:
        return frozenset()
    while True:
        more = {
            name
            for name, spec in columns.items()
            if name not in unique | found and _reads(spec.generate) & (unique | found)
        }
        if not more:
            return frozenset(found)
        found |= more


def _reads(value: Any) -> set[str]:
    """Names that a value may follow from: for SQL every word of its text."""
    found: set[str] = set()
    for generator in walk(value):
        if isinstance(generator, Sql):
            found.update(_WORD.findall(generator.sql.lower()))
        else:
            found.update(generator.own_columns())
    return found


def cell_hashes(column: pa.Array, marker: bytes) -> U64:
    """64 bits a cell, by value; ``marker`` in texts stands for the request."""
    kind = column.type
    if pa.types.is_string(kind):
        hashes = text_hash.text_hashes(column, marker)
    elif pa.types.is_list(kind):
        hashes = _list_hashes(column, marker)
    elif pa.types.is_decimal(kind):
        words = np.frombuffer(column.buffers()[1], np.uint64).reshape(-1, 2)
        words = words[column.offset : column.offset + len(column)]
        hashes = mix(words[:, 0] + _LANE) + words[:, 1]
    elif pa.types.is_floating(kind):
        values = column.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64) + 0.0
        hashes = np.where(np.isnan(values), _NAN, values.view(np.uint64))
    elif pa.types.is_boolean(kind):
        hashes = column.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint64)
    else:
        hashes = _integers(column).view(np.uint64)
    if column.null_count:
        hashes = np.where(column.is_null().to_numpy(zero_copy_only=False), _NULL, hashes)
    return hashes


def _integers(column: pa.Array) -> NDArray[np.int64]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.view(pa.int64())
    elif pa.types.is_date32(kind):
        column = column.view(pa.int32())
    if column.null_count:
        column = column.fill_null(0)
    values: NDArray[np.int64] = column.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return values


def _list_hashes(column: pa.ListArray, marker: bytes) -> U64:
    offsets = column.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    elements = column.values.slice(offsets[0], offsets[-1] - offsets[0])
    starts = offsets - offsets[0]
    lengths = np.diff(starts)
    place = np.arange(len(elements)) - np.repeat(starts[:-1], lengths)
    cells = mix(cell_hashes(elements, marker) ^ mix(place.astype(np.uint64) + _LANE))
    running = np.zeros(len(cells) + 1, np.uint64)
    np.cumsum(cells, out=running[1:])
    hashes: U64 = mix(running[starts[1:]] - running[starts[:-1]]) + lengths.astype(np.uint64)
    return hashes


def _unique_hashes(unique: Unique, column: pa.Array, base: int, marker: bytes) -> U64:
    hashes = cell_hashes(column, marker)
    numbers, words = unique.numbers_of(column)
    inside = numbers - base
    known = np.flatnonzero((numbers >= 0) & (inside >= 0))
    stands = mix(inside[known].astype(np.uint64) + _LANE)
    if words is not None:
        stands = stands + text_hash.text_hashes(words, marker)[known]
    hashes[known] = stands
    return hashes
