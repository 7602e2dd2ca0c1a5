"""Patterns: the anchored ASCII subset of regular expressions that table files use.

A pattern always matches the whole text. It is made of literal ASCII characters, classes
(``[A-Z0-9_]``), ``\\d`` and ``\\w`` (ASCII only), ``.`` (any printable ASCII character), groups
with alternatives (``(AB|CD)``) and the quantifiers ``?``, ``{n}``, ``{m,n}``, ``*``, ``+``.
Python and PostgreSQL agree within this subset. Beyond it they do not, for example on ``$`` before a
newline or ``\\d`` and Arabic digits; so patterns are rendered anew from their tree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import from_padded, starts_and_lengths
from atdm_engine.patterns.nodes import (
    MAX_INDEX,
    Alternatives,
    Characters,
    Node,
    Repeat,
    Sequence,
)

PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F))
DIGITS = "0123456789"
WORD = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
_SPECIAL = set("^$*+?{}[]\\|().")
_ESCAPES = {"d": DIGITS, "w": WORD}
_MAX_REPEAT = 1000


@dataclass(frozen=True)
class PatternSpec:
    """A pattern as a tree of parts; ``source`` is its text."""

    source: str
    node: Node

    @cached_property
    def capacity(self) -> int:
        """How many texts match (an open quantifier counts up to eight more than its minimum)."""
        return self.node.capacity

    @cached_property
    def regex(self) -> str:
        """The whole text, as Python's ``re.search`` and PostgreSQL's ``~`` read it."""
        return rf"\A(?:{self.node.render()})\Z"

    @cached_property
    def re2_regex(self) -> str:
        """The whole text, as RE2 (Arrow, DuckDB) reads it."""
        return rf"\A(?:{self.node.render()})\z"

    @property
    def _items(self) -> tuple[Node, ...]:
        return _flattened(self.node)

    @cached_property
    def pieces(self) -> tuple[PatternSpec, ...]:
        """Consecutive parts that can be numbered with 62 bits each; together they are the pattern.

        ValueError when a group or a quantifier of varying length alone has more texts than that.
        """
        parts: list[list[Node]] = [[]]
        size = 1
        for item in self._items:
            if item.capacity > MAX_INDEX:
                raise ValueError(
                    f"pattern {self.source!r}: {item.render()} has too many texts to make one"
                )
            if size * item.capacity > MAX_INDEX:
                parts.append([])
                size = 1
            parts[-1].append(item)
            size *= item.capacity
        return tuple(PatternSpec(self.source, Sequence(tuple(part))) for part in parts)

    @property
    def last_characters(self) -> str:
        """The characters of the last place; empty if the pattern ends in a varying length."""
        last = self._items[-1:]
        return last[0].letters if last and isinstance(last[0], Characters) else ""

    def characters(self) -> tuple[Characters, ...]:
        """The places of a pattern of fixed length without alternatives; ValueError otherwise."""
        places = tuple(item for item in self._items if isinstance(item, Characters))
        if len(places) != len(self._items):
            raise ValueError(
                f"pattern {self.source!r} has texts of several lengths or alternatives"
            )
        return places

    def without_last(self) -> PatternSpec:
        """The pattern of all but the last character."""
        return PatternSpec(self.source, Sequence(self._items[:-1]))

    def unrank(self, indexes: NDArray[Any]) -> pa.StringArray:
        """The texts with these numbers, 0 <= number < min(capacity, 2**62)."""
        if self.capacity > MAX_INDEX and len(self.pieces) > 1:
            raise ValueError(f"pattern {self.source!r} has more texts than 62 bits can number")
        matrix = self.node.unrank(indexes.astype(np.int64))
        return from_padded(matrix, matrix != 0)

    def rank(self, texts: pa.StringArray) -> NDArray[np.int64]:
        """The numbers of texts; -1 where a text is NULL or ``unrank`` makes no such text."""
        data, starts, lengths = starts_and_lengths(texts)
        found = np.full(len(texts), -1, np.int64)
        for length in np.unique(lengths[lengths >= 0]):
            rows = np.flatnonzero(lengths == length)
            places = starts[rows, None] + np.arange(length)
            matrix = data[places] if length else np.empty((len(rows), 0), np.uint8)
            found[rows] = self.node.rank(matrix)
        return found


@lru_cache(maxsize=512)
def parse_pattern(pattern: str) -> PatternSpec:
    """Read a pattern; ValueError names the first character outside of the subset."""
    reader = _Reader(pattern)
    node = reader.alternatives()
    if reader.position < len(reader.text):
        raise reader.error("a closing parenthesis without an opening one")
    return PatternSpec(pattern, node)


class _Reader:
    def __init__(self, pattern: str) -> None:
        self.source = pattern
        text = pattern.removeprefix("^")
        if text.endswith("$") and not text.endswith("\\$"):
            text = text[:-1]
        self.text = text
        self.position = 0

    def error(self, what: str) -> ValueError:
        shift = len(self.source) - len(self.source.removeprefix("^"))
        return ValueError(
            f"pattern {self.source!r}, character {self.position + shift + 1}: {what} (allowed: "
            "literal ASCII, [A-Z] classes, \\d, \\w, ., (a|b), ?, {n}, {m,n}, *, +)"
        )

    @property
    def next(self) -> str:
        return self.text[self.position] if self.position < len(self.text) else ""

    def take(self) -> str:
        character = self.next
        if not character:
            raise self.error("the pattern ends too early")
        self.position += 1
        return character

    def alternatives(self) -> Node:
        options = [self.sequence()]
        while self.next == "|":
            self.position += 1
            options.append(self.sequence())
        return options[0] if len(options) == 1 else Alternatives(tuple(options))

    def sequence(self) -> Node:
        items: list[Node] = []
        while self.next not in ("", "|", ")"):
            atom = self.atom()
            low, high = self.quantifier()
            if high is not None and low == high:
                # A fixed repetition is written out: each place can then be numbered apart.
                items.extend([atom] * low)
            else:
                items.append(Repeat(atom, low, high))
        flat = [part for item in items for part in _flattened(item)]
        return flat[0] if len(flat) == 1 else Sequence(tuple(flat))

    def atom(self) -> Node:
        start = self.position
        character = self.take()
        if character == "(":
            if self.text.startswith("?:", self.position):
                self.position += 2
            elif self.next == "?":
                raise self.error("a group with options")
            inner = self.alternatives()
            if self.take() != ")":
                raise self.error("a group that is not closed")
            return inner
        if character == "[":
            return self.character_class()
        if character == "\\":
            return Characters(self.escape())
        if character == ".":
            return Characters(PRINTABLE)
        if character in _SPECIAL or character not in PRINTABLE:
            self.position = start
            raise self.error(f"{character!r} here")
        return Characters(character)

    def escape(self) -> str:
        character = self.take()
        if character in _ESCAPES:
            return _ESCAPES[character]
        if character.isalnum() or character not in PRINTABLE:
            raise self.error(f"the escape \\{character}")
        return character

    def character_class(self) -> Node:
        letters: set[str] = set()
        if self.next == "^":
            raise self.error("a negated class")
        first = True
        while first or self.next != "]":
            first = False
            character = self.take()
            if character == "]":
                raise self.error("an empty class")
            if character in "[" and self.next in (":", ".", "="):
                raise self.error("a named class")
            low = self.escape() if character == "\\" else character
            if low not in PRINTABLE and len(low) == 1:
                raise self.error(f"{low!r} here")
            if len(low) == 1 and self.next == "-" and self.text[self.position + 1 :][:1] != "]":
                self.position += 1
                character = self.take()
                high = self.escape() if character == "\\" else character
                if len(high) != 1 or high not in PRINTABLE or high < low:
                    raise self.error(f"the range {low}-{high}")
                letters.update(chr(code) for code in range(ord(low), ord(high) + 1))
            else:
                letters.update(low)
        self.position += 1
        return Characters("".join(sorted(letters)))

    def quantifier(self) -> tuple[int, int | None]:
        if self.next == "?":
            bounds: tuple[int, int | None] = (0, 1)
            self.position += 1
        elif self.next in ("*", "+") and self.next:
            bounds = (0 if self.next == "*" else 1, None)
            self.position += 1
        elif self.next == "{":
            match = re.match(r"\{(\d{1,4})(?:(,)(\d{1,4})?)?\}", self.text[self.position :])
            if match is None:
                raise self.error("a quantifier that is none")
            low = int(match[1])
            high = int(match[3]) if match[3] else (None if match[2] else low)
            if max(low, high or 0) > _MAX_REPEAT or (high is not None and high < low):
                raise self.error(f"the quantifier {match[0]}")
            bounds = (low, high)
            self.position += match.end()
        else:
            return 1, 1
        if self.next in ("?", "*", "+", "{") and self.next:
            raise self.error("a second quantifier")
        return bounds


def _flattened(node: Node) -> tuple[Node, ...]:
    return node.items if isinstance(node, Sequence) else (node,)
