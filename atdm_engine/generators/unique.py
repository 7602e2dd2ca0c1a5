"""Columns whose values never repeat, whatever the request: permuted unique numbers.

A request reserves a block of numbers; row k of run n has number ``base + (n - 1) * stride + k``.
The permutation depends on the column alone, never on the seed, so two requests cannot collide.
The inverse serves the content hash, in which a unique value stands as its number within the
request.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import from_matrix, starts_and_lengths
from atdm_engine.arrow.types import arrow_type, column_kind
from atdm_engine.generators import make, scalars, texts
from atdm_engine.generators.cells import Cells
from atdm_engine.patterns.nodes import Characters, Sequence
from atdm_engine.patterns.parser import PatternSpec, parse
from atdm_engine.random.permutation import MAX_CAPACITY, Permutation
from atdm_engine.random.stream import stream_key
from atdm_engine.spec.generators import (
    Choice,
    Faker,
    GeneratorModel,
    Id,
    Integer,
    Pattern,
    References,
    Text,
    Uuid,
)

_UUID_CAPACITY = 2**60
_WORDS = (Faker, Text, Choice)


def needs_numbers(value: Any) -> bool:
    """Whether a unique column made by this generator takes its values from the numbers.

    Keys and references are as unique as the rows they name.
    """
    return not isinstance(value, Id | References)


@dataclass(frozen=True)
class Unique:
    """A unique column. ``name`` (``<domain>.<table>.<column>``) selects its permutation."""

    name: str
    generator: GeneratorModel
    column_type: str
    luhn: texts.Luhn | None = None

    @cached_property
    def capacity(self) -> int:
        """How many values there are; ValueError when the generator cannot be unique."""
        generator = self.generator
        if isinstance(generator, Integer):
            form = generator.integer
            if form.distribution != "uniform" or form.weights is not None:
                raise ValueError("a unique integer has no distribution and no weights")
            return min(form.max - form.min + 1, MAX_CAPACITY)
        if isinstance(generator, Pattern):
            spec = self._numbered_pattern
            parts = spec.node.items if isinstance(spec.node, Sequence) else (spec.node,)
            if not all(isinstance(part, Characters) for part in parts):
                raise ValueError("a unique pattern has a fixed length and no alternatives")
            if spec.capacity > MAX_CAPACITY:
                raise ValueError("a unique pattern has at most 2**62 texts: use a shorter one")
            return spec.capacity
        if isinstance(generator, _WORDS) and arrow_type(self.column_type) == pa.string():
            return int(36**texts.SUFFIX_DIGITS)
        if isinstance(generator, Uuid):
            return _UUID_CAPACITY
        name = type(generator).__name__.lower()
        raise ValueError(
            f"{name} cannot be unique; allowed: integer, pattern, faker, text, choice, uuid"
        )

    @cached_property
    def _numbered_pattern(self) -> PatternSpec:
        assert isinstance(self.generator, Pattern)
        spec = parse(self.generator.pattern)
        # The check digit follows from the others: only those are numbered.
        return spec.without_last() if self.luhn else spec

    @cached_property
    def _permutation(self) -> Permutation:
        return Permutation(self.name, self.capacity)

    def make(self, numbers: NDArray[np.int64], cells: Cells) -> pa.Array:
        """The values of unique ``numbers``; the modifiers apply as everywhere."""
        generator = self.generator
        if isinstance(generator, _WORDS):
            bare = generator.model_copy(update={"null_fraction": 0.0})
            words = make(bare, self.column_type, cells)
            values = pc.binary_join_element_wise(words, self._suffix(numbers), "-")
        else:
            values = self._values(numbers)
            if generator.prefix:
                values = pc.binary_join_element_wise(generator.prefix, values, "")
        if generator.null_fraction:
            missing = cells.derive("null").uniform() < generator.null_fraction
            values = pc.if_else(pa.array(missing), pa.scalar(None, values.type), values)
        return values

    def _suffix(self, numbers: NDArray[np.int64]) -> pa.StringArray:
        return from_matrix(texts.base36(self._permutation.forward(numbers)))

    def _values(self, numbers: NDArray[np.int64]) -> pa.Array:
        values = self._permutation.forward(numbers)
        if isinstance(self.generator, Integer):
            return scalars.numbers(values + self.generator.integer.min, self.column_type)
        if isinstance(self.generator, Pattern):
            spec = self._numbered_pattern
            if not self.luhn:
                return spec.unrank(values)
            return texts.with_check_digit(spec, values, self.luhn, _scrambled(values))
        # 60 permuted bits above, 62 bits that follow from them below.
        high = values.astype(np.uint64)
        high = ((high >> np.uint64(12)) << np.uint64(16)) | (high & np.uint64(0xFFF))
        return scalars.uuid_texts(high, _scrambled(values))

    def numbers_of(self, values: pa.Array) -> tuple[NDArray[np.int64], pa.Array | None]:
        """The numbers that values were made of, -1 where none makes exactly this value.

        Second comes what is left of a word without its suffix; None for other generators.
        """
        if isinstance(self.generator, _WORDS):
            return self._numbers_of_words(values)
        bare = values
        if self.generator.prefix:
            starts = pc.starts_with(values, self.generator.prefix)
            cut = pc.utf8_slice_codeunits(values, len(self.generator.prefix))
            bare = pc.if_else(starts, cut, pa.scalar(None, pa.string()))
        ranks = self._ranks(bare)
        numbers = np.full(len(values), -1, np.int64)
        known = np.flatnonzero((ranks >= 0) & (ranks < self.capacity))
        numbers[known] = self._permutation.inverse(ranks[known])
        again = self._values(np.maximum(numbers, 0))
        same = pc.equal(again, bare).fill_null(False).to_numpy(zero_copy_only=False)
        numbers[~same] = -1
        return numbers, None

    def _ranks(self, bare: pa.Array) -> NDArray[np.int64]:
        if isinstance(self.generator, Integer):
            if column_kind(self.column_type).base == "numeric":
                bare = pc.floor(bare)
            least = self.generator.integer.min
            whole = bare.cast(pa.int64()).fill_null(least - 1)
            ranks: NDArray[np.int64] = whole.to_numpy(zero_copy_only=False) - least
            return ranks
        if isinstance(self.generator, Pattern):
            if self.luhn:
                bare = pc.utf8_slice_codeunits(bare, 0, stop=-1)
            return self._numbered_pattern.rank(bare)
        data, starts, lengths = starts_and_lengths(bare)
        ranks = np.full(len(bare), -1, np.int64)
        rows = np.flatnonzero(lengths == 36)
        table = np.full(256, 0, np.int64)
        table[scalars._HEX] = np.arange(16)
        total = np.zeros(len(rows), np.int64)
        for place in (*range(8), *range(9, 13), 15, 16, 17):
            total = (total << 4) | table[data[starts[rows] + place]]
        ranks[rows] = total
        return ranks

    def _numbers_of_words(self, values: pa.StringArray) -> tuple[NDArray[np.int64], pa.Array]:
        data, starts, lengths = starts_and_lengths(values)
        size = texts.SUFFIX_DIGITS
        table = np.full(256, -1, np.int64)
        table[np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", np.uint8)] = np.arange(36)
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


def _scrambled(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Bits that follow from a value, for the parts of it that carry no number."""
    with np.errstate(over="ignore"):
        bits = values.astype(np.uint64) * np.uint64(stream_key("scrambled")[0] | 1)
        bits ^= bits >> np.uint64(29)
        bits *= np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(32)
    return bits
