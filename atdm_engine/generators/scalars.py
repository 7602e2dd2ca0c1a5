"""Generators of numbers, booleans, UUIDs and picks from a list."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR
from decimal import Decimal as Exact
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import from_matrix
from atdm_engine.arrow.types import arrow_type, column_kind, typed_array
from atdm_engine.generators.cells import Cells
from atdm_engine.random.stream import cumulative, pick, zipf_shares
from atdm_engine.spec.generators import Boolean, Choice, Decimal, Integer
from atdm_engine.values.scalars import TypedScalar

MAX_RANKS = 1_000_000
"""The longest range a zipf distribution may have."""

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def pooled(pool: pa.Array, index: NDArray[Any]) -> pa.DictionaryArray:
    """Cells that are picks from a few values: modifiers work on the pool, not on the cells."""
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), pool)


def choice_values(generator: Choice) -> list[TypedScalar]:
    """The values of a choice, in order."""
    return list(generator.choice)


def choice(generator: Choice, column_type: str, cells: Cells) -> pa.Array:
    """One of several values, uniform or weighted."""
    return pooled(
        typed_array(column_type, choice_values(generator)), choice_index(generator, cells)
    )


def choice_index(generator: Choice, cells: Cells) -> NDArray[np.int64]:
    """Which value each cell has."""
    if isinstance(generator.choice, dict):
        return pick(cumulative(list(generator.choice.values())), cells.uniform())
    return cells.below(len(generator.choice))


def ranged(low: int, high: int, weights: list[float] | None, cells: Cells) -> NDArray[np.int64]:
    """Integers from ``low`` to ``high``, both included; ``weights`` are those of equal bins."""
    if weights is None:
        return cells.below(high - low + 1) + low
    edges = bin_edges(low, high, len(weights))
    index = pick(cumulative(weights), cells.derive("bin").uniform())
    return cells.below(np.diff(edges)[index]) + edges[index]


def bin_edges(low: int, high: int, bins: int) -> NDArray[np.int64]:
    """Where equal bins of the integers low..high begin, and one past the end."""
    span = high - low + 1
    return np.array([low + span * number // bins for number in range(bins + 1)], np.int64)


def integer(generator: Integer, column_type: str, cells: Cells) -> pa.Array:
    """An integer of a range."""
    form = generator.integer
    if form.distribution == "zipf":
        shares = _zipf(form.max - form.min + 1, form.exponent)
        values = pick(shares, cells.uniform()) + form.min
    else:
        values = ranged(form.min, form.max, form.weights, cells)
    return numbers(values, column_type)


@lru_cache(maxsize=32)
def _zipf(count: int, exponent: float) -> NDArray[np.float64]:
    return zipf_shares(count, exponent)


def numbers(values: NDArray[np.int64], column_type: str) -> pa.Array:
    """Integers as a numeric column type."""
    kind = column_kind(column_type)
    if kind.base == "numeric":
        return exact(values * 10**kind.scale, column_type)
    array = pa.array(values)
    target = arrow_type(column_type)
    return array if array.type == target else array.cast(target)


def decimal(generator: Decimal, column_type: str, cells: Cells) -> pa.Array:
    """A decimal of a range: integers at the column's scale, so that nothing is rounded."""
    kind = column_kind(column_type)
    if kind.base == "double":
        low, high = generator.decimal.min, generator.decimal.max
        if generator.decimal.weights is None:
            return pa.array(low + cells.uniform() * (high - low))
        bins = len(generator.decimal.weights)
        index = pick(cumulative(generator.decimal.weights), cells.derive("bin").uniform())
        return pa.array(low + (index + cells.uniform()) * ((high - low) / bins))
    low_units, high_units = scaled_bounds(generator, kind.scale)
    return exact(ranged(low_units, high_units, generator.decimal.weights, cells), column_type)


def scaled_bounds(generator: Decimal, scale: int) -> tuple[int, int]:
    """The range in units of 10 ** -scale, inwards where a bound lies between two units."""
    low = Exact(repr(generator.decimal.min)).scaleb(scale)
    high = Exact(repr(generator.decimal.max)).scaleb(scale)
    return int(low.to_integral_value(ROUND_CEILING)), int(high.to_integral_value(ROUND_FLOOR))


def exact(units: NDArray[np.int64], column_type: str) -> pa.Array:
    """Integers at the scale of a numeric type as decimals of that type."""
    words = np.empty((len(units), 2), np.int64)
    words[:, 0] = units
    words[:, 1] = units >> 63
    return pa.Array.from_buffers(arrow_type(column_type), len(units), [None, pa.py_buffer(words)])


def boolean(generator: Boolean, cells: Cells) -> pa.Array:
    """True with a probability."""
    return pa.array(cells.uniform() < generator.boolean)


def uuid_texts(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> pa.StringArray:
    """Version 4 UUIDs with these upper and lower 64 bits; version and variant bits are set."""
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
