"""The hash of a table's rows, whatever their order, batches or machine.

A 128-bit multiset hash: every row becomes two 64-bit numbers that depend on all its cells, and
these are added up modulo 2**64. Cells are hashed by value: NULL is not the empty text, 0.0 is
-0.0, all NaNs are one, times are microseconds in UTC.

``RowHash`` takes rows as they are, keys and ids included. ``ContentHash`` first takes out what
differs between two requests for the same data: the request's part of run ids and keys, and the
request's part of unique numbers (a unique value stands as its number within the request; a column
computed by SQL from unique columns follows from them and is left out). Rows read back from a
database hash like the rows that were generated.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from atdm_engine.arrow.text_columns import null_rows
from atdm_engine.generation.plan import unique_columns
from atdm_engine.generators.base import walk
from atdm_engine.generators.sql import Sql
from atdm_engine.hashing.texts import mix, text_hashes, word_sums
from atdm_engine.model import Domain
from atdm_engine.random.run_ids import RUN_DIGITS, is_request_id
from atdm_engine.random.stream import U64, stream_key

_BLOCK = 16_384
_NULL = np.uint64(0x6E756C6C_A5A5C3C3)
_ROW_NULL = np.uint64(stream_key("null")[0])
"""NULL among the texts, integers and booleans of rows as they are."""
_LANE = np.uint64(0xC2B2AE3D27D4EB4F)
_32 = np.uint64(32)
_NAN = np.float64("nan").view(np.uint64)
_WORD = re.compile(r"[a-z][a-z0-9_]*")
_NO_MARKER = b"\xff\xfe\xff"
"""Stands for no request: no text in UTF-8 can hold these bytes."""


class RowHash:
    """Accumulates the hash of one table; every batch must have the same columns."""

    def __init__(self) -> None:
        self._sums = [0, 0]
        self.rows = 0

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Add rows."""
        batches = rows.to_batches() if isinstance(rows, pa.Table) else [rows]
        for batch in batches:
            for start in range(0, batch.num_rows, _BLOCK):
                sums = self._row_hashes(batch.slice(start, _BLOCK))
                for half, numbers in enumerate(sums):
                    added = self._sums[half] + int(numbers.sum(dtype=np.uint64))
                    self._sums[half] = added % 2**64
        self.rows += rows.num_rows

    def _row_hashes(self, batch: pa.RecordBatch) -> tuple[U64, U64]:
        return row_hashes(batch)

    def hexdigest(self) -> str:
        """The hash so far, 32 hexadecimal digits."""
        return "".join(f"{value:016x}" for value in self._sums)


class ContentHash(RowHash):
    """Accumulates the hash of one table of one request.

    ``number_base`` is the first unique number of the request. jsonb columns must hold canonical
    texts (``types.canonical_json``), as generation makes them.
    """

    def __init__(self, domain: Domain, table: str, request_id: str, number_base: int = 0) -> None:
        super().__init__()
        if not is_request_id(request_id):
            raise ValueError(f"{request_id!r} is no request id")
        self._marker = request_id[:-RUN_DIGITS].encode("ascii")
        self._number_base = number_base
        self._uniques = unique_columns(domain, table)
        left_out = computed_from_unique(domain, table)
        schema = domain.tables[table].arrow_schema
        self._schema = pa.schema([field for field in schema if field.name not in left_out])

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Add rows. Every column of the table's specification must be there; others are ignored."""
        missing = [name for name in self._schema.names if name not in rows.schema.names]
        if missing:
            raise ValueError(f"columns are missing: {', '.join(missing)}")
        super().add(rows.select(self._schema.names).cast(self._schema))

    def _row_hashes(self, batch: pa.RecordBatch) -> tuple[U64, U64]:
        cells = ((name, self._cells(name, batch.column(name))) for name in batch.schema.names)
        return _mixed(cells, batch.num_rows)

    def _cells(self, name: str, column: pa.Array) -> U64:
        hashes = cell_hashes(column, self._marker)
        unique = self._uniques.get(name)
        if unique is None:
            return hashes
        numbers, words = unique.numbers_of(column)
        inside = numbers - self._number_base
        known = np.flatnonzero((numbers >= 0) & (inside >= 0))
        stands = mix(inside[known].astype(np.uint64) + _LANE)
        if words is not None:
            stands = stands + text_hashes(words, self._marker)[known]
        hashes[known] = stands
        return hashes


def row_hashes(batch: pa.RecordBatch) -> tuple[U64, U64]:
    """Two numbers a row, which depend on the names and the values of all columns."""
    cells = ((name, cell_hashes(batch.column(name))) for name in batch.schema.names)
    return _mixed(cells, batch.num_rows)


def _mixed(columns: Iterable[tuple[str, U64]], count: int) -> tuple[U64, U64]:
    """Two numbers for each of ``count`` rows from the hashes of their cells by column."""
    first = np.zeros(count, np.uint64)
    second = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for name, hashes in columns:
            key, other = (np.uint64(half) for half in stream_key("column", name))
            cells = mix(hashes + key)
            first += cells
            cells ^= cells >> _32
            cells *= other | np.uint64(1)
            second += cells ^ (cells >> _32)
        return mix(first ^ (second >> _32)), mix(second + first * _LANE)


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


def cell_hashes(column: pa.Array, marker: bytes | None = None) -> U64:
    """64 bits a cell, by value.

    ``marker`` in texts stands for the request; None takes the texts as they are.
    """
    if not len(column):
        return np.empty(0, np.uint64)
    kind = column.type
    as_is = marker is None
    null = _ROW_NULL if as_is else _NULL
    if pa.types.is_string(kind):
        hashes = word_sums(column) if marker is None else text_hashes(column, marker)
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        hashes = _integer_hashes(column)
    elif pa.types.is_date32(kind) or pa.types.is_timestamp(kind):
        hashes, null = _integer_hashes(column.view(f"int{kind.bit_width}")), _NULL
    else:
        hashes, null = _other_hashes(column, marker or _NO_MARKER), _NULL
    if column.null_count:
        hashes[null_rows(column)] = null
    return hashes


def _integer_hashes(column: pa.Array) -> U64:
    """The numbers themselves; the result for NULL is some number.

    Read from memory, because filling gaps in Arrow's own way loads pandas.
    """
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    sign = "u" if pa.types.is_unsigned_integer(column.type) else "i"
    values = np.frombuffer(column.buffers()[1], f"{sign}{column.type.bit_width // 8}")
    values = values[column.offset : column.offset + len(column)]
    hashes: U64 = values.astype(np.int64).view(np.uint64)
    return hashes


def _other_hashes(column: pa.Array, marker: bytes) -> U64:
    kind = column.type
    if pa.types.is_list(kind):
        return _list_hashes(column, marker)
    if pa.types.is_decimal(kind):
        words = np.frombuffer(column.buffers()[1], np.uint64).reshape(-1, 2)
        words = words[column.offset : column.offset + len(column)]
        return mix(words[:, 0] + _LANE) + words[:, 1]
    if pa.types.is_floating(kind):
        values = column.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64) + 0.0
        return np.where(np.isnan(values), _NAN, values.view(np.uint64))
    raise TypeError(f"no hash for {kind}")


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
