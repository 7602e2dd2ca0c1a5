"""Patterns that no text may contain, searched for in whole columns at once."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atdm_engine.arrow.text_columns import text_bytes
from atdm_engine.patterns.pattern import parse_pattern

_MAX_WIDTH = 64


class Forbidden:
    """A pattern that may not occur anywhere in a text."""

    def __init__(self, pattern: str) -> None:
        self._pattern = parse_pattern(pattern)
        self._regex = self._pattern.node.render()

    def absent(self, array: pa.Array) -> pa.Array:
        """Whether each text is free of the pattern; NULL for NULL."""
        if not self._may_occur(array):
            return pa.repeat(pa.scalar(True), len(array))
        return pc.invert(pc.match_substring_regex(array, pattern=self._regex))

    @cached_property
    def _places(self) -> list[str] | None:
        """The characters of each place; None if occurrences differ in length."""
        try:
            letters = [place.letters for place in self._pattern.characters()]
        except ValueError:
            return None
        return letters if 0 < len(letters) <= _MAX_WIDTH else None

    def _may_occur(self, array: pa.Array) -> bool:
        """False if the bytes of the whole column, read as one text, hold no occurrence.

        Ten times faster than a search in each text: it searches for the place with the fewest
        characters first, then for the others around the hits. An occurrence across two texts only
        costs the search in each text.
        """
        if self._places is None:
            return True
        data = text_bytes(array)
        width = len(self._places)
        if len(data) < width:
            return False
        order = sorted(range(width), key=lambda place: len(self._places[place]))  # type: ignore[index]
        starts: NDArray[np.int64] | None = None
        for place in order:
            letters = self._places[place]
            if starts is None:
                window = data[place : len(data) - width + place + 1]
                starts = np.flatnonzero(_one_of(window, letters))
            else:
                starts = starts[_one_of(data[starts + place], letters)]
            if len(starts) == 0:
                return False
        return True


def _one_of(data: NDArray[np.uint8], letters: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_]
    if len(letters) == 1:
        found = data == ord(letters)
    else:
        table = np.zeros(256, bool)
        table[np.frombuffer(letters.encode("ascii"), np.uint8)] = True
        found = table[data]
    return found
