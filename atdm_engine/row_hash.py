"""The hash of a table's rows as they are, keys and ids included, whatever their order.

A 128-bit multiset hash like ``content_hash``, from which it differs in that nothing is taken out:
two tables have one hash exactly if they hold the same rows. Belongs here: hashing Arrow batches of
any table. Does not belong here: reading them, and the hash in which requests are alike
(``content_hash``). It detects accidents, not forgery.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atdm_engine.content_hash import cell_hashes
from atdm_engine.randomness import stream_key
from atdm_engine.text_hash import U64, mix

_BLOCK = 65_536
_SHORT_BYTES = 256
_LANE = np.uint64(0xC2B2AE3D27D4EB4F)
_32 = np.uint64(32)
_MARKER = b"\xff\xfe\xff"
"""Stands for no request: no text in UTF-8 can hold these bytes."""


class RowHash:
    """Accumulates the hash of one table; every batch must have the same columns."""

    def __init__(self) -> None:
        self._sums = [0, 0]
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        for start in range(0, batch.num_rows, _BLOCK):
            first, second = row_hashes(batch.slice(start, _BLOCK))
            self._sums[0] = (self._sums[0] + int(first.sum(dtype=np.uint64))) % 2**64
            self._sums[1] = (self._sums[1] + int(second.sum(dtype=np.uint64))) % 2**64
        self.rows += batch.num_rows

    def merge(self, other: RowHash) -> None:
        """Add the rows that another accumulator of the same table has seen."""
        self._sums = [(one + two) % 2**64 for one, two in zip(self._sums, other._sums, strict=True)]
        self.rows += other.rows

    def hexdigest(self) -> str:
        """The hash so far, 32 hexadecimal digits."""
        return "".join(f"{value:016x}" for value in self._sums)


def row_hashes(batch: pa.RecordBatch) -> tuple[U64, U64]:
    """Two numbers a row, which depend on the names and the values of all columns."""
    first = np.zeros(batch.num_rows, np.uint64)
    second = np.zeros(batch.num_rows, np.uint64)
    with np.errstate(over="ignore"):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            key, other = (np.uint64(half) for half in stream_key("column", name))
            cells = mix(column_hashes(column) + key)
            first += cells
            cells ^= cells >> _32
            cells *= other | np.uint64(1)
            second += cells ^ (cells >> _32)
        return mix(first ^ (second >> _32)), mix(second + first * _LANE)


def column_hashes(column: pa.Array) -> U64:
    """One number a cell, by its value alone."""
    if not pa.types.is_string(column.type) or not len(column):
        return cell_hashes(column, _MARKER)
    lengths = pc.binary_length(column)
    if (pc.max(lengths).as_py() or 0) <= _SHORT_BYTES:
        return cell_hashes(column, _MARKER)
    # Eight bytes of all rows at a time is fast for short texts and hopeless for one long one.
    long = pc.fill_null(pc.greater(lengths, _SHORT_BYTES), False)
    short = pc.if_else(long, pa.scalar("", pa.string()), column)
    hashes = cell_hashes(short, _MARKER)
    places = np.flatnonzero(long.to_numpy(zero_copy_only=False))
    digests = b"".join(
        hashlib.blake2b(column[int(place)].as_buffer(), digest_size=8).digest() for place in places
    )
    hashes[places] = np.frombuffer(digests, "<u8")
    return hashes
