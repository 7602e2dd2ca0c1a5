"""Generators of JSON objects and of arrays, made of other generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal as Exact
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atdm_engine.arrow.types import canonical_json
from atdm_engine.generators.cells import Cells, Surroundings
from atdm_engine.generators.scalars import choice_index, choice_values, pooled
from atdm_engine.spec.generators import (
    After,
    Array,
    Before,
    Boolean,
    Case,
    Choice,
    Constant,
    Date,
    Decimal,
    GeneratorModel,
    Integer,
    Json,
    References,
    Timestamp,
)
from atdm_engine.values.scalars import TypedScalar

_NATURAL: Mapping[type[GeneratorModel], str] = {
    Integer: "bigint",
    Decimal: "numeric(18,2)",
    Boolean: "boolean",
    Date: "date",
    Timestamp: "timestamptz",
    After: "timestamptz",
    Before: "timestamptz",
}
_TRIMMED = [f"{number:02}".rstrip("0") or "0" for number in range(100)]
_CONTROLS = {chr(code): canonical_json(chr(code))[1:-1] for code in range(0x20)}


def json_objects(generator: Json, cells: Cells) -> pa.StringArray:
    """Canonical JSON objects: sorted keys, no spaces."""
    parts: list[Any] = []
    glue = "{"
    for key in sorted(generator.json_):
        parts += [
            glue + canonical_json(key) + ":",
            fragment(generator.json_[key], cells.derive(key)),
        ]
        glue = ","
    parts.append("}" if parts else "{}")
    return _concatenated(parts, len(cells))


def fragment(value: Any, cells: Cells) -> pa.StringArray:
    """The JSON texts of a generated value."""
    from atdm_engine.generators import branches_of, make

    if not isinstance(value, GeneratorModel):
        return pa.repeat(pa.scalar(canonical_json(json_scalar(value))), len(cells))
    plain = value.null_fraction == 0.0 and value.prefix == ""
    if isinstance(value, Constant) and plain:
        return fragment(value.constant, cells)
    if isinstance(value, Choice) and plain:
        texts = [canonical_json(json_scalar(item)) for item in choice_values(value)]
        return pooled(pa.array(texts, pa.string()), choice_index(value, cells)).cast(pa.string())
    if isinstance(value, Case) and plain:
        return branches_of(value, cells, fragment)
    if isinstance(value, Array):
        inner, counts = _elements(value, cells)
        return _json_lists(fragment(value.array.of, inner), counts)
    if isinstance(value, Json):
        return make(value, "jsonb", cells).fill_null("null")
    return encoded(make(value, _NATURAL.get(type(value), "text"), cells))


def json_scalar(value: TypedScalar) -> Any:
    """A scalar as what ``json.dumps`` takes."""
    if isinstance(value, date | datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Exact) else value


def encoded(values: pa.Array) -> pa.StringArray:
    """Values as JSON texts; NULL becomes ``null``."""
    kind = values.type
    if pa.types.is_boolean(kind):
        texts = pc.if_else(values, "true", "false")
    elif pa.types.is_integer(kind):
        texts = values.cast(pa.string())
    elif pa.types.is_decimal(kind):
        units = np.frombuffer(values.buffers()[1], np.int64)[0::2][values.offset :][: len(values)]
        whole, rest = np.divmod(np.abs(units), 100)
        sign = pa.array(["", "-"]).take(pa.array((units < 0).astype(np.int8)))
        fraction = pa.array(_TRIMMED).take(pa.array(rest))
        texts = pc.binary_join_element_wise(
            sign, pa.array(whole).cast(pa.string()), ".", fraction, ""
        )
        texts = pc.if_else(values.is_valid(), texts, pa.scalar(None, pa.string()))
    elif pa.types.is_date32(kind) or pa.types.is_timestamp(kind):
        form = "%Y-%m-%d" if pa.types.is_date32(kind) else "%Y-%m-%dT%H:%M:%SZ"
        texts = pc.binary_join_element_wise('"', pc.strftime(values, format=form), '"', "")
    else:
        escaped = pc.replace_substring(pc.replace_substring(values, "\\", "\\\\"), '"', '\\"')
        for control, escape in _CONTROLS.items():
            if pc.any(pc.match_substring(escaped, control)).as_py():
                escaped = pc.replace_substring(escaped, control, escape)
        texts = pc.binary_join_element_wise('"', escaped, '"', "")
    return texts.fill_null("null")


def arrays(generator: Array, column_type: str, cells: Cells) -> pa.ListArray:
    """Arrays of a varying number of generated elements."""
    from atdm_engine.generators import make

    inner, counts = _elements(generator, cells)
    values = make(generator.array.of, column_type.removesuffix("[]"), inner)
    return pa.ListArray.from_arrays(pa.array(_offsets(counts)), values)


def _elements(generator: Array, cells: Cells) -> tuple[Cells, NDArray[np.int64]]:
    """The cells of all elements, and how many each array has."""
    form = generator.array
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

    def keys(self, generator: References, cells: Cells) -> pa.Array:
        raise ValueError("an element of an array cannot be a reference")

    def identities(self, prefix: str) -> pa.Array:
        raise ValueError("an element of an array cannot be a key")

    def expression(self, sql: str, column_type: str) -> pa.Array:
        return self._around.expression(sql, column_type).take(pa.array(self._owner))


def _json_lists(elements: pa.StringArray, counts: NDArray[np.int64]) -> pa.StringArray:
    lists = pa.ListArray.from_arrays(pa.array(_offsets(counts)), elements)
    return pc.binary_join_element_wise("[", pc.binary_join(lists, ","), "]", "")


def _concatenated(parts: list[Any], count: int) -> pa.StringArray:
    if all(isinstance(part, str) for part in parts):
        return pa.repeat(pa.scalar("".join(parts)), count)
    return pc.binary_join_element_wise(*parts, "")
