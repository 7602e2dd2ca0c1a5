"""Ranges of whole numbers: what is wrong with one, how it is drawn from, and as which column."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.arrow.types import ColumnKind, arrow_type, column_kind
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import Finding
from atdm_engine.random.stream import check_weights, cumulative, pick

Weights = list[float] | None


def weight_findings(weights: Weights, span: int | None = None) -> Iterator[Finding]:
    """What is wrong with the weights of equal bins of a range that has ``span`` values."""
    if weights is None:
        return
    try:
        check_weights(weights)
    except ValueError as error:
        yield Finding(("weights",), str(weights), str(error))
    if span is not None and len(weights) > span:
        yield Finding(("weights",), f"{len(weights)} weights for {span} values", "at most as many")


def unit_findings(low: int, high: int, kind: ColumnKind) -> Iterator[Finding]:
    """What is wrong with a range of a numeric type, given in units of its last decimal place."""
    if max(abs(low), abs(high)) >= min(10**kind.precision, 2**62):
        first, last = (Decimal(units).scaleb(-kind.scale) for units in (low, high))
        allowed = f"values that numeric({kind.precision},{kind.scale}) and 62 bits hold"
        yield Finding((), f"{first} to {last}", allowed)


def drawn(low: int, high: int, weights: Weights, cells: Cells) -> NDArray[np.int64]:
    """Integers from ``low`` to ``high``, both included; ``weights`` are those of equal bins."""
    if weights is None:
        return cells.below(high - low + 1) + low
    span = high - low + 1
    edges = np.array(
        [low + span * number // len(weights) for number in range(len(weights) + 1)], np.int64
    )
    index = pick(cumulative(weights), cells.derive("bin").uniform())
    return cells.below(np.diff(edges)[index]) + edges[index]


def number_array(values: NDArray[np.int64], column_type: str) -> pa.Array:
    """Integers as a numeric column type."""
    kind = column_kind(column_type)
    if kind.base == "numeric":
        return decimal_array(values * 10**kind.scale, column_type)
    array = pa.array(values)
    target = arrow_type(column_type)
    return array if array.type == target else array.cast(target)


def decimal_array(units: NDArray[np.int64], column_type: str) -> pa.Array:
    """Integers in units of the last decimal place of a numeric type as values of that type."""
    words = np.empty((len(units), 2), np.int64)
    words[:, 0] = units
    words[:, 1] = units >> 63
    return pa.Array.from_buffers(arrow_type(column_type), len(units), [None, pa.py_buffer(words)])
