"""The hash of a table's rows as they are, keys and ids included, whatever their order.

A 128-bit multiset hash like ``content_hash``, from which it differs in that nothing is taken out:
two tables have one hash exactly if they hold the same rows. It detects accidents, not forgery.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import null_rows, starts_and_lengths
from atdm_engine.arrow.text_hash import U64, mix
from atdm_engine.hashing.content import cell_hashes
from atdm_engine.random.stream import stream_key

_BLOCK = 16_384
_SHORT_BYTES = 256
_KEYS = np.array([stream_key("word", place)[0] | 1 for place in range(32)], np.uint64)
_LENGTH_KEY = np.uint64(stream_key("length")[0] | 1)
_NULL = np.uint64(stream_key("null")[0])
_NO_MOMENT = np.uint64(0x6E756C6C_A5A5C3C3)
"""NULL among dates and instants, which hash as ``content_hash`` does it."""
_MASKS = np.array([(1 << (8 * size)) - 1 for size in range(8)] + [2**64 - 1], np.uint64)
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
    kind = column.type
    if not len(column):
        return np.empty(0, np.uint64)
    if pa.types.is_string(kind):
        hashes = _text_hashes(column)
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        hashes = _integer_hashes(column)
    elif pa.types.is_date32(kind) or pa.types.is_timestamp(kind):
        hashes = _integer_hashes(column.view(f"int{kind.bit_width}"))
        if column.null_count:
            hashes[null_rows(column)] = _NO_MOMENT
        return hashes
    else:
        return cell_hashes(column, _MARKER)
    if column.null_count:
        hashes[null_rows(column)] = _NULL
    return hashes


def _integer_hashes(column: pa.Array) -> U64:
    """The numbers themselves; what stands where there is none is replaced by the caller.

    Read from memory, because filling gaps in Arrow's own way loads pandas.
    """
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    kind = np.dtype(f"{'u' if pa.types.is_unsigned_integer(column.type) else 'i'}"
                    f"{column.type.bit_width // 8}")  # fmt: skip
    values = np.frombuffer(column.buffers()[1], kind)
    values = values[column.offset : column.offset + len(column)]
    hashes: U64 = values.astype(np.int64).view(np.uint64)
    return hashes


def _text_hashes(column: pa.StringArray) -> U64:
    """The words of each text times one key each, added up: the row's mixing does the rest."""
    data, starts, lengths = starts_and_lengths(column)
    sizes = np.maximum(lengths, 0)
    longest = int(sizes.max())
    if longest > _SHORT_BYTES:
        return _with_long_texts(column, sizes)
    hashes: U64 = (sizes + 1).astype(np.uint64) * _LENGTH_KEY
    if not longest:
        return hashes
    if longest == int(sizes.min()):
        width = (longest + 7) // 8
        padded = np.zeros((len(column), width * 8), np.uint8)
        begin = int(starts[0])
        padded[:, :longest] = data[begin : begin + len(column) * longest].reshape(-1, longest)
        words = padded.view("<u8")
        for place in range(width):
            hashes += words[:, place] * _KEYS[place]
        return hashes
    begin, end = int(starts[0]), int(starts[-1] + sizes[-1])
    filled = np.zeros(end - begin + longest + 8, np.uint8)
    filled[: end - begin] = data[begin:end]
    # A word at every byte: no copy of the texts, whatever their alignment.
    at = np.ndarray((len(filled) - 7,), "<u8", filled, strides=(1,))
    places, left = starts - begin, sizes.copy()
    shortest = int(sizes.min())
    for number, offset in enumerate(range(0, longest, 8)):
        words = at[places]
        if offset + 8 > shortest:
            words &= _MASKS[np.clip(left, 0, 8)]
        words *= _KEYS[number]
        hashes += words
        places += 8
        left -= 8
    return hashes


def _with_long_texts(column: pa.StringArray, sizes: NDArray[np.int64]) -> U64:
    """Eight bytes of all rows at a time is fast for short texts and hopeless for one long one."""
    long = sizes > _SHORT_BYTES
    hashes = np.empty(len(column), np.uint64)
    short = np.flatnonzero(~long)
    if len(short):
        hashes[short] = _text_hashes(column.take(pa.array(short)))
    places = np.flatnonzero(long)
    digests = b"".join(
        hashlib.blake2b(column[int(place)].as_buffer(), digest_size=8).digest() for place in places
    )
    hashes[places] = np.frombuffer(digests, "<u8")
    return hashes
