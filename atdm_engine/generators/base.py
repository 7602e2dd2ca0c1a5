"""The model that all generators extend, and how any value of a ``generate:`` clause is checked and
made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from atdm_engine.arrow.json_texts import json_text, json_texts
from atdm_engine.arrow.types import ColumnKind, column_kind, repeated
from atdm_engine.generators.cells import Cells, Luhn
from atdm_engine.generators.context import ColumnContext, Finding, placed, scalar_findings
from atdm_engine.values.fields import SpecModel
from atdm_engine.values.scalars import TypedScalar, scalar_text

Value = Any
"""A generator or a scalar. The union of all generators, which models need, is in ``registry``."""


class GeneratorModel(SpecModel):
    """What every generator may carry besides its keyword."""

    fits: ClassVar[tuple[str, ...] | None] = None
    """The base types of the columns that it makes values of; None: any column."""
    json_type: ClassVar[str] = "text"
    """The column type of its values inside JSON."""
    names_rows: ClassVar[bool] = False
    """Whether its values name rows, so that they are as unique as the rows."""
    words: ClassVar[bool] = False
    """Whether a suffix can make its values unique."""

    null_fraction: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of cells that are NULL; the column is nullable."
    )
    prefix: str = Field("", description="Text put in front of every value (text columns only).")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        """The values of the cells, without the modifiers.

        ValueError says what does not fit, without naming the column.
        """
        raise NotImplementedError

    def make_json(self, cells: Cells) -> pa.StringArray:
        """The values of the cells as JSON texts, without the modifiers."""
        return _as_json(plain(self.make(self.json_type, cells)), self.json_type)

    @classmethod
    def keyword(cls) -> str:
        """The key that selects this generator."""
        return cls.__name__.lower()

    @property
    def modified(self) -> bool:
        """Whether a modifier changes what the generator makes."""
        return bool(self.null_fraction or self.prefix)

    def parts(self) -> Iterable[Any]:
        """The values that it is made of."""
        return ()

    def own_columns(self) -> Iterable[str]:
        """The columns of its own row that it reads itself; its parts name theirs."""
        return ()

    def kind(self, context: ColumnContext) -> ColumnKind:
        """The type of its values."""
        return column_kind(context.type or self.json_type)

    def fits_kind(self, kind: ColumnKind) -> bool:
        """Whether it makes values of a column type."""
        return self.fits is None or (kind.base in self.fits and not kind.array)

    def findings(self, context: ColumnContext) -> Iterator[Finding]:
        """Everything that is wrong with it, as far as the context knows."""
        kind = self.kind(context)
        if self.null_fraction and not context.nullable:
            found = str(self.null_fraction)
            yield Finding(("null_fraction",), found, "0: not a nullable column")
        if self.prefix and (kind.base != "text" or kind.array):
            yield Finding(("prefix",), repr(self.prefix), "this for text columns only")
        if context.type is None or self.fits_kind(kind):
            yield from self.own_findings(context)
        else:
            word = self.keyword()
            wanted = " or ".join(self.fits or ("array", "jsonb"))
            yield Finding((), f"{word} for {context.type}", f"{word} for {wanted} columns")

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        """What is wrong besides the modifiers and the type of the column."""
        return iter(())

    def marked(self, value: TypedScalar) -> TypedScalar:
        """One of its values as it stands in a cell, behind the prefix."""
        return self.prefix + scalar_text(value) if self.prefix and value is not None else value


class NumberedModel(GeneratorModel):
    """A generator whose values are numbered, so that a unique column takes each number once."""

    def capacity(self, luhn: Luhn | None) -> int:
        """How many values there are; ValueError when these options allow no numbering."""
        raise NotImplementedError

    def unrank(self, ranks: NDArray[np.int64], column_type: str, luhn: Luhn | None) -> pa.Array:
        """The values of these numbers, each from 0 and below the capacity."""
        raise NotImplementedError

    def rank(self, values: pa.Array, column_type: str, luhn: Luhn | None) -> NDArray[np.int64]:
        """The numbers of values; any number outside of the capacity where there is none."""
        raise NotImplementedError


def walk(value: Any) -> Iterator[GeneratorModel]:
    """A value's generator and all generators inside it."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, GeneratorModel):
            yield part
            waiting.extend(part.parts())


def check(value: Any, context: ColumnContext, *path: object) -> Iterator[Finding]:
    """What is wrong with a generator or a scalar for the cells of a column."""
    generator = isinstance(value, GeneratorModel)
    found = value.findings(context) if generator else scalar_findings(value, context)
    return placed(found, *path)


def make_values(value: Any, column_type: str, cells: Cells) -> pa.Array:
    """The cells of a generator, with its modifiers, or of a scalar, which is the same in all cells.

    ValueError says what does not fit, without naming the column.
    """
    if not isinstance(value, GeneratorModel):
        return repeated(column_type, value, len(cells))
    values = value.make(column_type, cells)
    if value.prefix:
        values = _prefixed(value.prefix, values)
    return plain(with_nulls(values, value.null_fraction, cells))


def make_json_texts(value: Any, cells: Cells) -> pa.StringArray:
    """The cells of a generator or of a scalar as JSON texts."""
    if not isinstance(value, GeneratorModel):
        return pa.repeat(pa.scalar(json_text(value)), len(cells))
    if value.modified:
        return _as_json(make_values(value, value.json_type, cells), value.json_type)
    return value.make_json(cells)


def _as_json(values: pa.Array, column_type: str) -> pa.StringArray:
    return values.fill_null("null") if column_type == "jsonb" else json_texts(values)


def with_nulls(values: pa.Array, fraction: float, cells: Cells) -> pa.Array:
    """The values, with a fraction of them replaced by NULL."""
    if not fraction:
        return values
    missing = cells.derive("null").uniform() < fraction
    return pc.if_else(pa.array(missing), pa.scalar(None, values.type), plain(values))


def pooled(pool: pa.Array, index: NDArray[Any]) -> pa.DictionaryArray:
    """Cells that are picks from a few values: modifiers work on the pool, not on the cells."""
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), pool)


def plain(values: pa.Array) -> pa.Array:
    """Picks from a pool written out."""
    if isinstance(values, pa.DictionaryArray):
        return values.dictionary.take(values.indices)
    return values


def _prefixed(prefix: str, values: pa.Array) -> pa.Array:
    if isinstance(values, pa.DictionaryArray):
        return pa.DictionaryArray.from_arrays(values.indices, _prefixed(prefix, values.dictionary))
    if not pa.types.is_string(values.type):
        raise ValueError("a prefix needs a text column")
    return pc.binary_join_element_wise(prefix, values, "")
