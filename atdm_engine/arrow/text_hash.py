"""Hashing Arrow text columns by content, eight bytes at a time over all rows at once.

A text's hash depends on its bytes and length alone: not on Python's or a library's own hash, nor on
the machine.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import starts_and_lengths

U64 = NDArray[np.uint64]
STAND_IN = b"\0"
"""What the request's part of an id is replaced by: no text of a database can hold it."""

_MAX_LENGTHS = 64
_FIRST = np.uint64(0xFF51AFD7ED558CCD)
_SECOND = np.uint64(0xC4CEB9FE1A85EC53)
_SEED = np.uint64(0x9E3779B97F4A7C15)
_29 = np.uint64(29)
_32 = np.uint64(32)
_MASKS = np.array([(1 << (8 * size)) - 1 for size in range(8)] + [2**64 - 1], np.uint64)


def mix(values: U64) -> U64:
    """Every bit of a number spread over all bits of the result."""
    with np.errstate(over="ignore"):
        mixed = values * _FIRST
        scratch = mixed >> _32
        mixed ^= scratch
        mixed *= _SECOND
        np.right_shift(mixed, _29, out=scratch)
        mixed ^= scratch
        mixed *= _SEED
        np.right_shift(mixed, _32, out=scratch)
        mixed ^= scratch
    return mixed


def text_hashes(texts: pa.StringArray, marker: bytes) -> U64:
    """64 bits a text, in which ``marker`` (the request's part of ids) stands as one fixed byte.

    The result for NULL is some number.
    """
    data, starts, lengths = starts_and_lengths(texts)
    if not len(texts):
        return np.empty(0, np.uint64)
    begin, end = int(starts[0]), int(starts[-1] + max(lengths[-1], 0))
    if marker not in data[begin:end].tobytes():
        return _hashed(data, starts, lengths)
    hashes = np.zeros(len(texts), np.uint64)
    alike = int(lengths.min()) == int(lengths.max())
    sizes = lengths[:1] if alike else np.unique(lengths[lengths >= 0])
    rest: list[NDArray[np.int64]] = []
    for size in sizes[:_MAX_LENGTHS].tolist():
        everywhere = alike and not texts.null_count
        rows = np.arange(len(texts)) if everywhere else np.flatnonzero(lengths == size)
        matrix = (
            data[begin:end].reshape(len(texts), size)
            if everywhere
            else data[starts[rows][:, None] + np.arange(size)]
        )
        rest.append(_hash_alike(matrix, rows, marker, hashes))
    rest.extend(np.flatnonzero(lengths == size) for size in sizes[_MAX_LENGTHS:].tolist())
    others = np.concatenate(rest)
    if len(others):
        replaced = pc.replace_substring(
            texts.take(pa.array(others)), marker.decode("ascii"), STAND_IN.decode("ascii")
        )
        hashes[others] = _hashed(*starts_and_lengths(replaced))
    return hashes


def _hash_alike(
    matrix: NDArray[np.uint8], rows: NDArray[np.int64], marker: bytes, hashes: U64
) -> NDArray[np.int64]:
    """Hash texts of one length that have the marker where the first has it; return the others."""
    size = matrix.shape[1]
    place = matrix[0].tobytes().find(marker)
    after = place + len(marker)
    # With less than a marker's length on either side there is no room for a second one.
    if place < 0 or place >= len(marker) or size - after >= len(marker):
        return rows
    same = matrix[:, place:after] == np.frombuffer(marker, np.uint8)
    if not same.all():
        same = same.all(axis=1)
        fits = np.flatnonzero(same)
        _hash_alike(matrix[fits], rows[fits], marker, hashes)
        others: NDArray[np.int64] = rows[~same]
        return others
    length = size - len(marker) + len(STAND_IN)
    words = np.zeros((len(matrix), (length + 7) // 8 * 8), np.uint8)
    words[:, :place] = matrix[:, :place]
    words[:, place] = STAND_IN[0]
    words[:, place + 1 : length] = matrix[:, after:]
    state = np.full(len(matrix), (int(_SEED) * (length + 1)) % 2**64, np.uint64)
    for word in words.view("<u8").T:
        state = mix(state ^ word)
    hashes[rows] = state
    return rows[:0]


def _hashed(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> U64:
    """The hash chain over words of eight bytes, the last one filled up with zeros."""
    sizes = np.maximum(lengths, 0)
    with np.errstate(over="ignore"):
        state = (sizes + 1).astype(np.uint64) * _SEED
    longest = int(sizes.max(initial=0))
    if not longest:
        return state
    first = int(starts[0])
    padded = np.zeros(int(starts[-1] + sizes[-1]) - first + 8, np.uint8)
    padded[:-8] = data[first : first + len(padded) - 8]
    # A word at every byte: no copy of the texts, whatever their alignment.
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    places = starts - first
    active: NDArray[np.int64] | None = None if int(sizes.min()) > 0 else np.flatnonzero(sizes > 0)
    for begin in range(0, longest, 8):
        if begin:
            still = np.flatnonzero(sizes > begin)
            active = None if len(still) == len(sizes) else still
        if active is None:
            word = words[places + begin] & _MASKS[np.minimum(sizes - begin, 8)]
            state = mix(state ^ word)
        else:
            left = np.minimum(sizes[active] - begin, 8)
            word = words[places[active] + begin] & _MASKS[left]
            state[active] = mix(state[active] ^ word)
    return state
