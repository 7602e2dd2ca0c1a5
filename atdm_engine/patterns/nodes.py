"""The parts of a pattern: each counts, numbers and makes the texts that match it.

Texts are rows of a byte matrix padded with NUL, which no pattern can match.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

MAX_INDEX = 2**62
"""The most texts that are numbered together."""

OPEN_EXTRA = 8
"""Generated texts repeat an open quantifier at most so often beyond its minimum."""

_NEEDS_ESCAPE = set("^$*+?{}[]\\|().-&~\"#,/:;<=>@!%'`")
Bytes = NDArray[np.uint8]
Index = NDArray[np.int64]


class Node:
    """A part of a pattern."""

    @cached_property
    def capacity(self) -> int:
        """The number of texts that match."""
        raise NotImplementedError

    @cached_property
    def lengths(self) -> tuple[int, int]:
        """Length of the shortest and of the longest text, in characters."""
        raise NotImplementedError

    def render(self) -> str:
        """The regular expression, as Python and PostgreSQL read it alike."""
        raise NotImplementedError

    def unrank(self, index: Index) -> Bytes:
        """The texts with these numbers."""
        raise NotImplementedError

    def rank(self, matrix: Bytes) -> Index:
        """The numbers of the texts, all as wide as the matrix; -1 where one does not match."""
        raise NotImplementedError


@dataclass(frozen=True)
class Characters(Node):
    """One character of ``letters`` (sorted ASCII)."""

    letters: str

    @cached_property
    def capacity(self) -> int:
        return len(self.letters)

    @cached_property
    def lengths(self) -> tuple[int, int]:
        return 1, 1

    @cached_property
    def codes(self) -> Bytes:
        return np.frombuffer(self.letters.encode("ascii"), np.uint8)

    @cached_property
    def numbers(self) -> Index:
        table = np.full(256, -1, np.int64)
        table[self.codes] = np.arange(len(self.codes))
        return table

    def render(self) -> str:
        if len(self.letters) == 1:
            return _escaped(self.letters)
        parts: list[str] = []
        start = 0
        for end in range(1, len(self.letters) + 1):
            if end < len(self.letters) and ord(self.letters[end]) == ord(self.letters[end - 1]) + 1:
                continue
            run = self.letters[start:end]
            parts.append(
                "".join(map(_escaped, run))
                if len(run) < 3
                else f"{_escaped(run[0])}-{_escaped(run[-1])}"
            )
            start = end
        return f"[{''.join(parts)}]"

    def unrank(self, index: Index) -> Bytes:
        return self.codes[index][:, None]

    def rank(self, matrix: Bytes) -> Index:
        if matrix.shape[1] != 1:
            return np.full(len(matrix), -1, np.int64)
        return self.numbers[matrix[:, 0]]


def _escaped(character: str) -> str:
    return "\\" + character if character in _NEEDS_ESCAPE else character


@dataclass(frozen=True)
class Sequence(Node):
    """One part after the other; the last varies fastest."""

    items: tuple[Node, ...]

    @cached_property
    def capacity(self) -> int:
        total = 1
        for item in self.items:
            total *= item.capacity
        return total

    @cached_property
    def lengths(self) -> tuple[int, int]:
        return sum(item.lengths[0] for item in self.items), sum(
            item.lengths[1] for item in self.items
        )

    def render(self) -> str:
        texts = [
            f"(?:{item.render()})" if isinstance(item, Alternatives) else item.render()
            for item in self.items
        ]
        counted = [(text, len(list(alike))) for text, alike in groupby(texts)]
        return "".join(
            f"{text}{{{count}}}" if count > 2 and text[-1] in "])" else text * count
            for text, count in counted
        )

    def unrank(self, index: Index) -> Bytes:
        matrix = np.zeros((len(index), self.lengths[1]), np.uint8)
        rest = index
        end = self.lengths[1]
        for item in reversed(self.items):
            if item.capacity == 1:
                part = rest * 0
            else:
                rest, part = np.divmod(rest, min(item.capacity, MAX_INDEX))
            end -= item.lengths[1]
            matrix[:, end : end + item.lengths[1]] = item.unrank(part)
        return matrix

    def rank(self, matrix: Bytes) -> Index:
        return self._rank_from(0, matrix)

    def _rank_from(self, first: int, matrix: Bytes) -> Index:
        """Numbers within ``items[first:]``; the shortest fitting split of each text counts."""
        found = np.full(len(matrix), -1, np.int64)
        if first == len(self.items):
            return found * 0 if matrix.shape[1] == 0 else found
        tail = Sequence(self.items[first + 1 :])
        item = self.items[first]
        for length in range(item.lengths[0], item.lengths[1] + 1):
            rest = matrix.shape[1] - length
            if not tail.lengths[0] <= rest <= tail.lengths[1]:
                continue
            open_rows = np.flatnonzero(found < 0)
            head = item.rank(matrix[open_rows, :length])
            below = self._rank_from(first + 1, matrix[open_rows, length:])
            fits = (head >= 0) & (below >= 0)
            found[open_rows[fits]] = head[fits] * tail.capacity + below[fits]
        return found


@dataclass(frozen=True)
class Alternatives(Node):
    """One of several parts; numbered in their order."""

    options: tuple[Node, ...]

    @cached_property
    def capacity(self) -> int:
        return sum(option.capacity for option in self.options)

    @cached_property
    def lengths(self) -> tuple[int, int]:
        return min(option.lengths[0] for option in self.options), max(
            option.lengths[1] for option in self.options
        )

    def render(self) -> str:
        return "|".join(option.render() for option in self.options)

    def unrank(self, index: Index) -> Bytes:
        matrix = np.zeros((len(index), self.lengths[1]), np.uint8)
        start = 0
        for option in self.options:
            rows = np.flatnonzero((index >= start) & (index < start + option.capacity))
            matrix[rows, : option.lengths[1]] = option.unrank(index[rows] - start)
            start += option.capacity
        return matrix

    def rank(self, matrix: Bytes) -> Index:
        found = np.full(len(matrix), -1, np.int64)
        start = 0
        for option in self.options:
            if option.lengths[0] <= matrix.shape[1] <= option.lengths[1]:
                open_rows = np.flatnonzero(found < 0)
                number = option.rank(matrix[open_rows])
                fits = number >= 0
                found[open_rows[fits]] = number[fits] + start
            start += option.capacity
        return found


@dataclass(frozen=True)
class Repeat(Node):
    """A part ``low`` to ``high`` times (None: open); numbered by length first."""

    item: Node
    low: int
    high: int | None

    @cached_property
    def most(self) -> int:
        return self.low + OPEN_EXTRA if self.high is None else self.high

    @cached_property
    def options(self) -> Alternatives:
        return Alternatives(
            tuple(Sequence((self.item,) * count) for count in range(self.low, self.most + 1))
        )

    @cached_property
    def capacity(self) -> int:
        return self.options.capacity

    @cached_property
    def lengths(self) -> tuple[int, int]:
        return self.options.lengths

    def render(self) -> str:
        inner = self.item.render()
        if not isinstance(self.item, Characters):
            inner = f"(?:{inner})"
        if (self.low, self.high) == (0, 1):
            return inner + "?"
        if self.high is None and self.low < 2:
            return inner + ("*" if self.low == 0 else "+")
        return f"{inner}{{{self.low},{'' if self.high is None else self.high}}}"

    def unrank(self, index: Index) -> Bytes:
        return self.options.unrank(index)

    def rank(self, matrix: Bytes) -> Index:
        return self.options.rank(matrix)
