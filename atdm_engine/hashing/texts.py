"""Hashing Arrow text columns by content, eight bytes at a time over all rows at once.

A text's hash depends on its bytes and length alone: not on Python's or a library's own hash, nor on
the machine. ``text_hashes`` leaves the request's part of ids out; ``word_sums`` is faster and takes
texts as they are.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import starts_and_lengths
from atdm_engine.random.stream import U64, stream_key

STAND_IN = b"\0"
"""What the request's part of an id is replaced by: no text of a database can hold it."""

_MAX_LENGTHS = 64
_FIRST = np.uint64(0xFF51AFD7ED558CCD)
_SECOND = np.uint64(0xC4CEB9FE1A85EC53)
_SEED = np.uint64(0x9E3779B97F4A7C15)
_29 = np.uint64(29)
_32 = np.uint64(32)
_MASKS = np.array([(1 << (8 * size)) - 1 for size in range(8)] + [2**64 - 1], np.uint64)
_SHORT_BYTES = 256
_WORD_KEYS = np.array([stream_key("word", place)[0] | 1 for place in range(32)], np.uint64)
_LENGTH_KEY = np.uint64(stream_key("length")[0] | 1)


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
    if longest == int(sizes.min()):
        for word in _words_alike(data, starts, longest):
            state = mix(state ^ word)
        return state
    words, places = _words(data, starts, sizes)
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


def word_sums(texts: pa.StringArray) -> U64:
    """64 bits a text: its words times one key each, added up. The mixing of the row does the rest.

    The result for NULL is some number.
    """
    data, starts, lengths = starts_and_lengths(texts)
    if not len(texts):
        return np.empty(0, np.uint64)
    sizes = np.maximum(lengths, 0)
    longest, shortest = int(sizes.max()), int(sizes.min())
    if longest > _SHORT_BYTES:
        return _with_long_texts(texts, sizes)
    hashes: U64 = (sizes + 1).astype(np.uint64) * _LENGTH_KEY
    if not longest:
        return hashes
    if longest == shortest:
        for place, word in enumerate(_words_alike(data, starts, longest)):
            hashes += word * _WORD_KEYS[place]
        return hashes
    words, places = _words(data, starts, sizes, longest)
    left = sizes.copy()
    for number, offset in enumerate(range(0, longest, 8)):
        part = words[places]
        if offset + 8 > shortest:
            part &= _MASKS[np.clip(left, 0, 8)]
        part *= _WORD_KEYS[number]
        hashes += part
        places += 8
        left -= 8
    return hashes


def _words_alike(data: NDArray[np.uint8], starts: NDArray[np.int64], size: int) -> U64:
    """The first word of all texts, the second, ...: the texts are all ``size`` bytes long."""
    padded = np.zeros((len(starts), (size + 7) // 8 * 8), np.uint8)
    begin = int(starts[0])
    padded[:, :size] = data[begin : begin + len(starts) * size].reshape(-1, size)
    words: U64 = padded.view("<u8").T
    return words


def _words(
    data: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64], beyond: int = 0
) -> tuple[U64, NDArray[np.int64]]:
    """A word at every byte, and where each text's first one is, with zeros behind the last text.

    No copy of each text is made, whatever its alignment. ``beyond`` are the bytes that may be read
    behind a text.
    """
    begin, end = int(starts[0]), int(starts[-1] + sizes[-1])
    padded = np.zeros(end - begin + beyond + 8, np.uint8)
    padded[: end - begin] = data[begin:end]
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    return words, starts - begin


def _with_long_texts(texts: pa.StringArray, sizes: NDArray[np.int64]) -> U64:
    """Eight bytes of all rows at a time is fast for short texts and hopeless for one long one."""
    long = sizes > _SHORT_BYTES
    hashes = np.empty(len(texts), np.uint64)
    short = np.flatnonzero(~long)
    if len(short):
        hashes[short] = word_sums(texts.take(pa.array(short)))
    places = np.flatnonzero(long)
    digests = b"".join(
        hashlib.blake2b(texts[int(place)].as_buffer(), digest_size=8).digest() for place in places
    )
    hashes[places] = np.frombuffer(digests, "<u8")
    return hashes
