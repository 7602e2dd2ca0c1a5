"""``uuid``: a version 4 UUID."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import from_matrix, starts_and_lengths
from atdm_engine.generators.base import NumberedModel
from atdm_engine.generators.cells import Cells, Luhn
from atdm_engine.random.permutation import scrambled
from atdm_engine.random.stream import U64

_CAPACITY = 2**60
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


class Uuid(NumberedModel):
    """``{uuid: 4}``: a version 4 UUID made of the cell's own random bits."""

    fits: ClassVar = ("uuid", "text")

    uuid: Literal[4]

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        return _texts(cells.bits(), cells.derive("low").bits())

    def capacity(self, luhn: Luhn | None) -> int:
        return _CAPACITY

    def unrank(self, ranks: NDArray[np.int64], column_type: str, luhn: Luhn | None) -> pa.Array:
        """60 bits of the number above, 62 bits that follow from it below."""
        high = ranks.astype(np.uint64)
        high = ((high >> np.uint64(12)) << np.uint64(16)) | (high & np.uint64(0xFFF))
        return _texts(high, scrambled(ranks))

    def rank(self, values: pa.Array, column_type: str, luhn: Luhn | None) -> NDArray[np.int64]:
        data, starts, lengths = starts_and_lengths(values)
        ranks = np.full(len(values), -1, np.int64)
        rows = np.flatnonzero(lengths == 36)
        table = np.zeros(256, np.int64)
        table[_HEX] = np.arange(16)
        total = np.zeros(len(rows), np.int64)
        for place in (*range(8), *range(9, 13), 15, 16, 17):
            total = (total << 4) | table[data[starts[rows] + place]]
        ranks[rows] = total
        return ranks


def _texts(high: U64, low: U64) -> pa.StringArray:
    """UUIDs with these upper and lower 64 bits; version and variant bits are set."""
    with np.errstate(over="ignore"):
        high = (high & np.uint64(0xFFFFFFFFFFFF0FFF)) | np.uint64(0x4000)
        low = (low & np.uint64(0x3FFFFFFFFFFFFFFF)) | np.uint64(0x8000000000000000)
    raw = np.stack([high, low], axis=1).astype(">u8").view(np.uint8).reshape(-1, 16)
    digits = np.empty((len(high), 32), np.uint8)
    digits[:, 0::2] = _HEX[raw >> 4]
    digits[:, 1::2] = _HEX[raw & 15]
    matrix = np.full((len(high), 36), ord("-"), np.uint8)
    source = 0
    for start, stop in ((0, 8), (9, 13), (14, 18), (19, 23), (24, 36)):
        matrix[:, start:stop] = digits[:, source : source + stop - start]
        source += stop - start
    return from_matrix(matrix)
