"""Arrow text columns from bytes, and bytes from Arrow text columns, without a loop over rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MAX_BYTES = 2**31 - 1
"""What one Arrow string column of a batch can hold (32-bit offsets)."""


def from_matrix(matrix: NDArray[np.uint8]) -> pa.StringArray:
    """Texts of equal length, one a row of a byte matrix (ASCII or valid UTF-8)."""
    count, width = matrix.shape
    _require_room(count * width)
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    return pa.StringArray.from_buffers(
        count, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(matrix))
    )


def joined(parts: Sequence[bytes | NDArray[Any]], count: int) -> pa.StringArray:
    """Row-wise concatenation of constants, byte matrices and fixed-size byte strings (dtype S).

    In dtype S arrays trailing NULs are no part of the text.
    """
    blocks: list[NDArray[np.uint8]] = []
    keep: list[NDArray[np.bool_]] = []
    for part in parts:
        if isinstance(part, bytes):
            row = np.frombuffer(part, np.uint8)
            blocks.append(np.broadcast_to(row, (count, len(row))))
        elif part.dtype.kind == "S":
            width = part.dtype.itemsize
            blocks.append(np.ascontiguousarray(part).view(np.uint8).reshape(count, width))
        else:
            blocks.append(part)
        block = blocks[-1]
        padded = not isinstance(part, bytes) and part.dtype.kind == "S"
        keep.append(block != 0 if padded else np.ones((1, 1), bool))
    matrix = np.concatenate(blocks, axis=1)
    mask = np.concatenate(
        [np.broadcast_to(flag, block.shape) for flag, block in zip(keep, blocks, strict=True)],
        axis=1,
    )
    return from_padded(matrix, mask)


def from_padded(matrix: NDArray[np.uint8], mask: NDArray[np.bool_]) -> pa.StringArray:
    """Texts of unequal length: the bytes of each row of ``matrix`` where ``mask`` is true."""
    lengths = mask.sum(axis=1)
    total = int(lengths.sum())
    _require_room(total)
    offsets = np.zeros(len(matrix) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.StringArray.from_buffers(
        len(matrix), pa.py_buffer(offsets), pa.py_buffer(matrix[mask])
    )


def null_rows(column: pa.Array) -> NDArray[np.bool_]:
    """Which rows are NULL. Arrow's own conversion of booleans to numpy loads pandas."""
    marks = column.is_null().cast(pa.uint8())
    return np.frombuffer(marks.buffers()[1], np.bool_)[marks.offset : marks.offset + len(marks)]


def text_bytes(array: pa.Array) -> NDArray[np.uint8]:
    """The bytes that an Arrow text array's rows lie in, one after the other."""
    if len(array) == 0:
        return np.empty(0, np.uint8)
    _, offsets, data = array.buffers()
    if data is None or data.size == 0:
        return np.empty(0, np.uint8)
    places = np.frombuffer(offsets, np.int32)
    first, last = places[array.offset], places[array.offset + len(array)]
    return np.frombuffer(data, np.uint8)[first:last]


def starts_and_lengths(
    texts: pa.StringArray,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The bytes of a text column and where each row's lie in them (length -1: NULL)."""
    _, offset_buffer, data_buffer = texts.buffers()
    if len(texts) == 0:
        return np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64)
    offsets = np.frombuffer(offset_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = (
        np.frombuffer(data_buffer, np.uint8)
        if data_buffer is not None and data_buffer.size
        else np.empty(0, np.uint8)
    )
    starts = offsets[:-1].astype(np.int64)
    lengths = np.diff(offsets).astype(np.int64)
    if texts.null_count:
        lengths[null_rows(texts)] = -1
    return data, starts, lengths


def _require_room(size: int) -> None:
    if size > MAX_BYTES:
        raise OverflowError(f"{size} bytes of text in one column of a batch: use smaller batches")
