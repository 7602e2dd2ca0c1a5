"""A keyed bijection of [0, capacity) onto itself, for columns whose values never repeat.

Numbers 0, 1, 2, ... become values that look random and cannot collide; the inverse tells which
number a value was. A Feistel network over the smallest even number of bits that holds the
capacity, walked until the value falls inside (cycle walking: less than four rounds on average).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atdm_engine.random.stream import U64, stream_key

MAX_CAPACITY = 2**62
_ROUNDS = 6
_MULTIPLIER = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(32)


@dataclass(frozen=True)
class Permutation:
    """The bijection named ``name`` on [0, capacity), 1 <= capacity <= 2**62."""

    name: str
    capacity: int

    def __post_init__(self) -> None:
        if not 1 <= self.capacity <= MAX_CAPACITY:
            raise ValueError(f"capacity {self.capacity} is not between 1 and 2**62")

    @cached_property
    def _half(self) -> int:
        return max(1, ((self.capacity - 1).bit_length() + 1) // 2)

    @cached_property
    def _keys(self) -> tuple[np.uint64, ...]:
        return tuple(np.uint64(stream_key(self.name, number)[0] | 1) for number in range(_ROUNDS))

    def forward(self, numbers: NDArray[Any]) -> NDArray[np.int64]:
        """The values of ``numbers``; each must lie in [0, capacity)."""
        return self._walk(numbers, self._keys, inverse=False)

    def inverse(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """The numbers whose values these are; each must lie in [0, capacity)."""
        return self._walk(values, self._keys[::-1], inverse=True)

    def _walk(
        self, start: NDArray[Any], keys: tuple[np.uint64, ...], *, inverse: bool
    ) -> NDArray[np.int64]:
        if len(start) and not (start.min() >= 0 and start.max() < self.capacity):
            raise ValueError(f"a number is not between 0 and {self.capacity - 1}")
        limit = np.uint64(self.capacity)
        values = self._network(start.astype(np.uint64), keys, inverse)
        outside = np.flatnonzero(values >= limit)
        while len(outside):
            values[outside] = self._network(values[outside], keys, inverse)
            outside = outside[values[outside] >= limit]
        return values.view(np.int64)

    def _network(self, values: U64, keys: tuple[np.uint64, ...], inverse: bool) -> U64:
        half = np.uint64(self._half)
        mask = np.uint64((1 << self._half) - 1)
        left, right = values >> half, values & mask
        if inverse:
            left, right = right, left
        for key in keys:
            mixed = (right + key) * _MULTIPLIER
            mixed ^= mixed >> _SHIFT
            mixed *= key
            mixed >>= np.uint64(64 - self._half)
            left, right = right, left ^ (mixed & mask)
        if inverse:
            left, right = right, left
        result: U64 = (left << half) | right
        return result


def scrambled(values: NDArray[np.int64]) -> U64:
    """Bits that follow from a number, for the parts of a value that do not hold it."""
    with np.errstate(over="ignore"):
        bits = values.astype(np.uint64) * np.uint64(stream_key("scrambled")[0] | 1)
        bits ^= bits >> np.uint64(29)
        bits *= np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(32)
    return bits
