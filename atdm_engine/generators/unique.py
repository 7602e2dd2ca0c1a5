"""Columns whose values never repeat, whatever the request: permuted unique numbers.

A request reserves a block of numbers; row k of run n has number ``base + (n - 1) * stride + k``.
The permutation depends on the column alone, never on the seed, so two requests cannot collide.
The inverse serves the content hash, in which a unique value stands as its number within the
request.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import from_matrix, starts_and_lengths
from atdm_engine.arrow.types import arrow_type
from atdm_engine.generators.base import GeneratorModel, NumberedModel, make_values, with_nulls
from atdm_engine.generators.cells import Cells, Luhn
from atdm_engine.generators.registry import GENERATORS
from atdm_engine.random.permutation import Permutation

_SUFFIX_DIGITS = 7
"""Base 36 digits that make a word unique."""
_LETTERS = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", np.uint8)


@dataclass(frozen=True)
class Unique:
    """A unique column. ``name`` (``<domain>.<table>.<column>``) selects its permutation."""

    name: str
    generator: GeneratorModel
    column_type: str
    luhn: Luhn | None = None

    @cached_property
    def capacity(self) -> int:
        """How many values there are; ValueError when the generator cannot be unique."""
        if isinstance(self.generator, NumberedModel):
            return self.generator.capacity(self.luhn)
        if self.generator.words and arrow_type(self.column_type) == pa.string():
            return int(36**_SUFFIX_DIGITS)
        able = [one.keyword() for one in GENERATORS if issubclass(one, NumberedModel) or one.words]
        raise ValueError(f"{self.generator.keyword()} cannot be unique; allowed: {', '.join(able)}")

    @cached_property
    def _permutation(self) -> Permutation:
        return Permutation(self.name, self.capacity)

    def make(self, numbers: NDArray[np.int64], cells: Cells) -> pa.Array:
        """The values of unique ``numbers``; the modifiers apply as everywhere."""
        generator = self.generator
        ranks = self._permutation.forward(numbers)
        if isinstance(generator, NumberedModel):
            values = generator.unrank(ranks, self.column_type, self.luhn)
            if generator.prefix:
                values = pc.binary_join_element_wise(generator.prefix, values, "")
        else:
            bare = generator.model_copy(update={"null_fraction": 0.0})
            words = make_values(bare, self.column_type, cells)
            values = pc.binary_join_element_wise(words, from_matrix(_base36(ranks)), "-")
        return with_nulls(values, generator.null_fraction, cells)

    def numbers_of(self, values: pa.Array) -> tuple[NDArray[np.int64], pa.Array | None]:
        """The numbers that values were made of, -1 where none makes exactly this value.

        Second comes what is left of a word without its suffix; None for other generators.
        """
        generator = self.generator
        if not isinstance(generator, NumberedModel):
            return self._numbers_of_words(values)
        bare = values
        if generator.prefix:
            starts = pc.starts_with(values, generator.prefix)
            cut = pc.utf8_slice_codeunits(values, len(generator.prefix))
            bare = pc.if_else(starts, cut, pa.scalar(None, pa.string()))
        ranks = generator.rank(bare, self.column_type, self.luhn)
        numbers = np.full(len(values), -1, np.int64)
        known = np.flatnonzero((ranks >= 0) & (ranks < self.capacity))
        numbers[known] = self._permutation.inverse(ranks[known])
        forward = self._permutation.forward(np.maximum(numbers, 0))
        again = generator.unrank(forward, self.column_type, self.luhn)
        same = pc.equal(again, bare).fill_null(False).to_numpy(zero_copy_only=False)
        numbers[~same] = -1
        return numbers, None

    def _numbers_of_words(self, values: pa.StringArray) -> tuple[NDArray[np.int64], pa.Array]:
        data, starts, lengths = starts_and_lengths(values)
        size = _SUFFIX_DIGITS
        table = np.full(256, -1, np.int64)
        table[_LETTERS] = np.arange(36)
        rows = np.flatnonzero(lengths > size)
        ends = starts[rows] + lengths[rows]
        good = data[ends - size - 1] == ord("-")
        total = np.zeros(len(rows), np.int64)
        for place in range(size, 0, -1):
            digit = table[data[ends - place]]
            good &= digit >= 0
            total = total * 36 + digit
        good &= total < self.capacity
        numbers = np.full(len(values), -1, np.int64)
        numbers[rows[good]] = self._permutation.inverse(total[good])
        known = pa.array(numbers >= 0)
        words = pc.if_else(known, pc.utf8_slice_codeunits(values, 0, stop=-size - 1), values)
        return numbers, words


def _base36(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Numbers as base 36 digits, one number a row."""
    matrix = np.empty((len(values), _SUFFIX_DIGITS), np.uint8)
    rest = values
    for place in range(_SUFFIX_DIGITS - 1, -1, -1):
        rest, digit = np.divmod(rest, 36)
        matrix[:, place] = _LETTERS[digit]
    return matrix
