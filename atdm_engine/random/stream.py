"""The random source: a pure function of the place of a cell, not of earlier draws.

A cell's 64 bits follow from (seed, scenario, table, column, run number, row in run, lane) alone.
Batches, processes, neighbouring columns and ids cannot change it, and no state is kept. The key
of a column comes from BLAKE2b; the counter (run number, row) is mixed with it in three rounds of
the xor-shift-multiply construction of SplitMix64 and MurmurHash3's finaliser, which pass the
tests in ``tests/unit/random/test_randomness.py``. It is no cryptographic generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
MAX_SEED = 2**63 - 1
Numbers = NDArray[Any] | int

_BLOCK = 32_768
"""Rows mixed at a time: the working arrays stay in the second-level cache."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LANE = np.uint64(0xD1B54A32D192ED03)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_THIRD = np.uint64(0xFF51AFD7ED558CCD)
_ROW_SHIFT = np.uint64(30)
_SHIFTS = tuple(np.uint64(bits) for bits in (30, 27, 31, 33))
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def stream_key(*path: str | int) -> tuple[int, int]:
    """Two 64-bit keys for a path of names and numbers, the same on every machine for ever."""
    text = "\x1f".join(str(part) for part in ("atdm", *path))
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


@dataclass(frozen=True, slots=True)
class Stream:
    """The cells of one column. ``path`` names it, from the seed down."""

    path: tuple[str | int, ...]

    def derive(self, name: str | int) -> Stream:
        """An independent stream for a second number of the same cells."""
        return Stream((*self.path, name))

    def u64(self, run_numbers: NDArray[Any], row_index: Numbers = 0, lane: Numbers = 0) -> U64:
        """64 random bits a cell. ``row_index`` and ``lane`` are arrays alike, or one number."""
        first, second = (np.uint64(key) for key in stream_key(*self.path))
        numbers = np.asarray(run_numbers)
        out = np.empty(len(numbers), np.uint64)
        rows = _part(row_index)
        lanes = _part(lane)
        for start in range(0, len(out), _BLOCK):
            stop = min(start + _BLOCK, len(out))
            z = out[start:stop]
            z[:] = numbers[start:stop]
            row = rows[start:stop] if isinstance(rows, np.ndarray) else rows
            if isinstance(row, np.ndarray) or row:
                z |= row << _ROW_SHIFT
            _mix(z, first, second, lanes[start:stop] if isinstance(lanes, np.ndarray) else lanes)
        return out


def stream_for(seed: int, scenario: str, table: str, column: str) -> Stream:
    """The stream of a column. ``scenario`` is its bundle-wide key, ``<domain>/<scenario>``."""
    return Stream((seed, scenario, table, column))


def _part(value: Numbers) -> U64 | np.uint64:
    return value.astype(np.uint64) if isinstance(value, np.ndarray) else np.uint64(value)


def _mix(z: U64, first: np.uint64, second: np.uint64, lane: U64 | np.uint64) -> None:
    """Mix ``z`` in place: every bit of the counter, keys and lane reaches every bit of the
    result.
    """
    scratch = np.empty_like(z)
    with np.errstate(over="ignore"):
        injected = second + lane * _LANE
        z *= _GOLDEN
        z += first
        for shift, factor in zip(_SHIFTS, (_FIRST, _SECOND, _THIRD, None), strict=True):
            np.right_shift(z, shift, out=scratch)
            z ^= scratch
            if factor is None:
                return
            if factor is _SECOND:
                z += injected
            z *= factor


def unit(bits: U64) -> NDArray[np.float64]:
    """The upper 53 bits as a number in [0, 1)."""
    numbers: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64)
    numbers *= 2.0**-53
    return numbers


def below(bits: U64, limit: int | NDArray[Any]) -> U64:
    """Integers in [0, limit) from 64 random bits each: the upper half of the product.

    No value is more likely than another by more than limit / 2**64.
    """
    if isinstance(limit, int):
        if not 0 < limit <= 2**63:
            raise ValueError(f"limit {limit} is not between 1 and 2**63")
        if limit & (limit - 1) == 0:
            return (
                bits >> np.uint64(64 - limit.bit_length() + 1) if limit > 1 else bits & np.uint64(0)
            )
        factor: Any = np.uint64(limit)
    else:
        factor = limit.astype(np.uint64)
    # The product has 96 or 128 bits: multiply the halves apart.
    high, low = bits >> _32, bits & _LOW
    if isinstance(limit, int) and limit < 2**32:
        high *= factor
        low *= factor
        low >>= _32
        high += low
        high >>= _32
        return high
    factor_high, factor_low = factor >> _32, factor & _LOW
    middle = ((low * factor_low) >> _32) + high * factor_low
    carried = (middle & _LOW) + low * factor_high
    drawn: U64 = high * factor_high + (middle >> _32) + (carried >> _32)
    return drawn


def check_weights(weights: Collection[float]) -> None:
    """ValueError unless shares follow from the weights."""
    if min(weights, default=-1.0) < 0 or sum(weights) <= 0:
        raise ValueError("weights must not be negative and must have a positive sum")


def cumulative(weights: Any) -> NDArray[np.float64]:
    """Running shares of ``weights``, ending in 1."""
    running = np.cumsum(np.asarray(weights, np.float64))
    shares: NDArray[np.float64] = running / running[-1]
    shares[-1] = 1.0
    return shares


def pick(shares: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which share each number in [0, 1) falls into. A share of zero is never picked."""
    return np.searchsorted(shares, uniform, side="right")


@lru_cache(maxsize=32)
def zipf_shares(count: int, exponent: float) -> NDArray[np.float64]:
    """Running shares of ranks 1..count, the weight of rank r being r ** -exponent."""
    # Exponents need no exact pow: weights rounded to 40 bits are the same with every libm.
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return cumulative(np.maximum(np.round(weights * 2.0**40), 1.0))
