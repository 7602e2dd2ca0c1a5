"""``array``: a list of a varying number of generated elements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from atdm_engine.arrow.types import ColumnKind, column_kind
from atdm_engine.generators.base import GeneratorModel, check, make_json_texts, make_values
from atdm_engine.generators.cells import Cells, RowChoice, Surroundings
from atdm_engine.generators.context import ColumnContext, Finding
from atdm_engine.values.fields import SpecModel
from atdm_engine.values.scalars import TypedScalar

if TYPE_CHECKING:
    from atdm_engine.generators.base import Value


class ArrayOf(SpecModel):
    of: Value
    min: int = Field(0, ge=0)
    max: int = Field(5, ge=0, le=1000)


class Array(GeneratorModel):
    json_type: ClassVar = "jsonb"

    array: ArrayOf

    def parts(self) -> Iterable[Any]:
        return (self.array.of,)

    def fits_kind(self, kind: ColumnKind) -> bool:
        return kind.array or kind.base == "jsonb"

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        form = self.array
        if form.max < form.min:
            yield Finding(("array", "min"), str(form.min), f"at most max, {form.max}")
        yield from check(form.of, context.element(), "array", "of")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        if not column_kind(column_type).array:
            return self._json_lists(cells)
        inner, counts = self._elements(cells)
        values = make_values(self.array.of, column_type.removesuffix("[]"), inner)
        return pa.ListArray.from_arrays(pa.array(_offsets(counts)), values)

    def _json_lists(self, cells: Cells) -> pa.StringArray:
        inner, counts = self._elements(cells)
        elements = make_json_texts(self.array.of, inner)
        lists = pa.ListArray.from_arrays(pa.array(_offsets(counts)), elements)
        return pc.binary_join_element_wise("[", pc.binary_join(lists, ","), "]", "")

    def _elements(self, cells: Cells) -> tuple[Cells, NDArray[np.int64]]:
        """The cells of all elements, and how many each array has."""
        form = self.array
        counts = cells.derive("length").below(form.max - form.min + 1) + form.min
        owner = np.repeat(np.arange(len(cells)), counts)
        place = np.arange(len(owner)) - _offsets(counts)[:-1][owner]
        rows, lanes = cells.rows, cells.lanes
        outer = lanes[owner] if isinstance(lanes, np.ndarray) else lanes
        inner = replace(
            cells.derive("of"),
            runs=cells.runs[owner],
            rows=rows[owner] if isinstance(rows, np.ndarray) else rows,
            # Room for 1000 elements a level: the lane of an element never meets that of another.
            lanes=outer * 1024 + place + 1,
            around=_Repeated(cells.around, owner),
        )
        return inner, counts


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int32]:
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return offsets


class _Repeated:
    """The surroundings of array elements: those of their row."""

    def __init__(self, around: Surroundings, owner: NDArray[np.int64]) -> None:
        self._around = around
        self._owner = owner

    def fixed(self, name: str) -> tuple[bool, TypedScalar]:
        return self._around.fixed(name)

    def column(self, name: str) -> pa.Array:
        return self._around.column(name).take(pa.array(self._owner))

    def keys(self, choice: RowChoice, cells: Cells) -> pa.Array:
        raise ValueError("an element of an array cannot be a reference")

    def identities(self, prefix: str) -> pa.Array:
        raise ValueError("an element of an array cannot be a key")

    def expression(self, sql: str, column_type: str) -> pa.Array:
        return self._around.expression(sql, column_type).take(pa.array(self._owner))
