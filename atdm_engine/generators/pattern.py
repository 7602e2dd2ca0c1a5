"""``pattern``: a text of a pattern, each as likely as any other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import from_matrix
from atdm_engine.generators.base import NumberedModel
from atdm_engine.generators.cells import Cells, Luhn
from atdm_engine.generators.context import ColumnContext, Finding
from atdm_engine.patterns.nodes import Characters, Sequence
from atdm_engine.patterns.pattern import PatternSpec, parse_pattern
from atdm_engine.random.permutation import MAX_CAPACITY, scrambled
from atdm_engine.random.stream import U64, below

NPI_SUM = 24
"""What the prefix 80840 adds to the Luhn sum of a National Provider Identifier."""


class Pattern(NumberedModel):
    """``{pattern: "[A-Z]{2}-[0-9]{4}"}``: a text of the anchored ASCII subset."""

    fits: ClassVar = ("text",)

    pattern: str

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        try:
            problem = self._problem(context.luhn)
        except ValueError as error:
            problem = str(error)
        if problem:
            yield Finding(("pattern",), repr(self.pattern), problem)

    def _problem(self, luhn: Luhn | None) -> str | None:
        spec = parse_pattern(self.pattern)
        _ = spec.pieces
        if luhn is None:
            return None
        if spec.last_characters != "0123456789":
            return "for a luhn column a pattern that ends in one digit of any value"
        if not all(set(node.letters) <= set("0123456789") for node in spec.characters()):
            return "for a luhn column a pattern of digits alone, of a fixed length"
        if len(spec.without_last().pieces) != 1:
            return "for a luhn column a pattern of at most 19 digits"
        return None

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        spec = parse_pattern(self.pattern)
        if cells.luhn is not None:
            head = spec.without_last()
            bits = cells.derive("digit").bits()
            return _with_check_digit(head, cells.below(head.capacity), cells.luhn, bits)
        if len(spec.pieces) == 1:
            return spec.unrank(cells.below(spec.capacity))
        parts = [
            piece.unrank(cells.derive(number).below(piece.capacity))
            for number, piece in enumerate(spec.pieces)
        ]
        return pc.binary_join_element_wise(*parts, "")

    def _numbered(self, luhn: Luhn | None) -> PatternSpec:
        """What is numbered: the check digit follows from the others."""
        spec = parse_pattern(self.pattern)
        return spec.without_last() if luhn else spec

    def capacity(self, luhn: Luhn | None) -> int:
        spec = self._numbered(luhn)
        parts = spec.node.items if isinstance(spec.node, Sequence) else (spec.node,)
        if not all(isinstance(part, Characters) for part in parts):
            raise ValueError("a unique pattern has a fixed length and no alternatives")
        if spec.capacity > MAX_CAPACITY:
            raise ValueError("a unique pattern has at most 2**62 texts: use a shorter one")
        return spec.capacity

    def unrank(self, ranks: NDArray[np.int64], column_type: str, luhn: Luhn | None) -> pa.Array:
        spec = self._numbered(luhn)
        return (
            _with_check_digit(spec, ranks, luhn, scrambled(ranks)) if luhn else spec.unrank(ranks)
        )

    def rank(self, values: pa.Array, column_type: str, luhn: Luhn | None) -> NDArray[np.int64]:
        if luhn:
            values = pc.utf8_slice_codeunits(values, 0, stop=-1)
        return self._numbered(luhn).rank(values)


def _with_check_digit(
    head: PatternSpec, indexes: NDArray[np.int64], luhn: Luhn, bits: U64
) -> pa.StringArray:
    """Digits and one more, so that the Luhn checksum holds, or neither it nor that of an NPI."""
    matrix = head.node.unrank(indexes)
    digits = matrix.astype(np.int64) - ord("0")
    total = np.zeros(len(indexes), np.int64)
    for place in range(digits.shape[1]):
        digit = digits[:, digits.shape[1] - 1 - place]
        doubled = digit * 2 if place % 2 == 0 else digit
        total += doubled - 9 * (doubled > 9)
    plain = -total % 10
    if luhn == "valid":
        last = plain
    else:
        # Two of the ten digits are wrong answers; count the other eight upwards around them.
        npi = -(total + NPI_SUM) % 10
        low, high = np.minimum(plain, npi), np.maximum(plain, npi)
        last = below(bits, 8).view(np.int64)
        last = last + (last >= low)
        last = last + (last >= high)
    return from_matrix(
        np.concatenate([matrix, (last + ord("0")).astype(np.uint8)[:, None]], axis=1)
    )
