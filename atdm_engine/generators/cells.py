"""What a generator is given: which cells to make, their random bits, and the rows around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.random.stream import U64, Numbers, Stream, below, unit
from atdm_engine.values.scalars import TypedScalar

Luhn = Literal["valid", "invalid"]
"""Whether the Luhn checksum of a column of digits must hold or must not."""


class RowChoice(Protocol):
    """Which row of ``table`` (a table or a row group) a reference picks."""

    @property
    def table(self) -> str: ...

    def picked(self, cells: Cells, sizes: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        """One of ``sizes`` candidates for each cell, from 0 (0 where there is none).

        ``most`` bounds the sizes in any batch, so that rounding does not depend on the batch.
        """
        ...

    def picked_of_all(self, cells: Cells, size: int) -> NDArray[np.int64]:
        """One of ``size`` candidates that all cells share."""
        ...


class Surroundings(Protocol):
    """The rows that the cells belong to, aligned with the cells."""

    def fixed(self, name: str) -> tuple[bool, TypedScalar]:
        """Whether a column or constraint has one known value for all these rows, and which."""
        ...

    def column(self, name: str) -> pa.Array:
        """A column of the row (``status``), of its parent (``parent.x``) or of a row it refers
        to.
        """
        ...

    def keys(self, choice: RowChoice, cells: Cells) -> pa.Array:
        """The keys of the rows that the cells refer to."""
        ...

    def identities(self, prefix: str) -> pa.Array:
        """The keys of the rows themselves."""
        ...

    def expression(self, sql: str, column_type: str) -> pa.Array:
        """The values of an SQL expression over the rows."""
        ...


@dataclass(frozen=True)
class Setting:
    """What is the same for all cells of a request."""

    as_of: datetime
    locale: str
    vocabularies: Mapping[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True)
class Cells:
    """The cells to make: ``runs`` are run numbers, ``rows`` rows in run, ``lanes`` array positions.

    ``luhn`` is the check digit rule of the column.
    """

    stream: Stream
    runs: NDArray[np.int64]
    rows: Numbers
    lanes: Numbers
    around: Surroundings
    setting: Setting
    luhn: Luhn | None = None

    def __len__(self) -> int:
        return len(self.runs)

    def derive(self, name: str | int) -> Cells:
        """The same cells with independent random bits."""
        return replace(self, stream=self.stream.derive(name))

    def bits(self) -> U64:
        """64 random bits a cell."""
        return self.stream.u64(self.runs, self.rows, self.lanes)

    def uniform(self) -> NDArray[np.float64]:
        """A number in [0, 1) a cell."""
        return unit(self.bits())

    def below(self, limit: int | NDArray[Any]) -> NDArray[np.int64]:
        """An integer in [0, limit) a cell."""
        drawn: NDArray[np.int64] = below(self.bits(), limit).view(np.int64)
        return drawn
