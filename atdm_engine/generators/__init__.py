"""Generators: a ``generate:`` entry and cells become an Arrow array, without a loop over rows.

``make`` serves any generator, with the modifiers ``prefix`` and ``null_fraction``, and ``case``,
which is made of other generators. Each family has a module; unique columns are in ``unique``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atdm_engine.arrow.types import repeated
from atdm_engine.generators import nested, scalars, texts, times
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.texts import Luhn
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
    Faker,
    GeneratorModel,
    Id,
    Integer,
    Json,
    Pattern,
    References,
    Sql,
    Text,
    Timestamp,
    Uuid,
)
from atdm_engine.values.scalars import TypedScalar, scalar_text

__all__ = ["branches_of", "make"]


def make(value: Any, column_type: str, cells: Cells, luhn: Luhn | None = None) -> pa.Array:
    """The cells of a generator (or of a scalar, for all cells alike) as a column type.

    ``luhn`` is the column's check digit rule, used with a pattern. ValueError says what does not
    fit, without naming the column.
    """
    if not isinstance(value, GeneratorModel):
        return repeated(column_type, value, len(cells))
    values = _made(value, column_type, cells, luhn)
    if value.prefix:
        values = _prefixed(value.prefix, values)
    if value.null_fraction:
        missing = cells.derive("null").uniform() < value.null_fraction
        values = pc.if_else(pa.array(missing), pa.scalar(None, values.type), plain(values))
    return plain(values)


def _made(value: GeneratorModel, column_type: str, cells: Cells, luhn: Luhn | None) -> pa.Array:
    match value:
        case Constant():
            return repeated(column_type, value.constant, len(cells))
        case Case():
            return branches_of(
                value, cells, lambda branch, inner: make(branch, column_type, inner, luhn)
            )
        case Choice():
            return scalars.choice(value, column_type, cells)
        case Faker():
            return texts.faker(value, cells)
        case Integer():
            return scalars.integer(value, column_type, cells)
        case Decimal():
            return scalars.decimal(value, column_type, cells)
        case Boolean():
            return scalars.boolean(value, cells)
        case Date():
            return times.dates(value, cells)
        case Timestamp():
            return times.timestamps(value, cells)
        case After() | Before():
            return times.offset(value, column_type, cells)
        case Pattern():
            return texts.pattern(value.pattern, luhn, cells)
        case Uuid():
            return scalars.uuid_texts(cells.bits(), cells.derive("low").bits())
        case Text():
            return texts.text(value, cells)
        case Json():
            return nested.json_objects(value, cells)
        case Array():
            return nested.arrays(value, column_type, cells)
        case Id():
            return cells.around.identities(value.id)
        case References():
            return cells.around.keys(value, cells)
        case Sql():
            return cells.around.expression(value.sql, column_type)
    raise TypeError(f"no generator {type(value).__name__}")


def plain(values: pa.Array) -> pa.Array:
    """Picks from a pool written out."""
    if isinstance(values, pa.DictionaryArray):
        return values.dictionary.take(values.indices)
    return values


def _prefixed(prefix: str, values: pa.Array) -> pa.Array:
    if isinstance(values, pa.DictionaryArray):
        pool = pc.binary_join_element_wise(prefix, values.dictionary, "")
        return pa.DictionaryArray.from_arrays(values.indices, pool)
    if not pa.types.is_string(values.type):
        raise ValueError("a prefix needs a text column")
    return pc.binary_join_element_wise(prefix, values, "")


def branches_of(
    case: Case, cells: Cells, make_branch: Callable[[Any, Cells], pa.Array]
) -> pa.Array:
    """The cells of ``case``: each from the branch that the subject names, else from ``else``."""
    known, subject = cells.around.fixed(case.case)
    if known:
        return make_branch(branch_for(case, subject), cells)
    column = cells.around.column(case.case)
    labels = pa.array(list(case.branches), pa.string())
    # Distinct values are few: write those as text, not every cell.
    subjects = column.dictionary_encode()
    distinct = [scalar_text(value) for value in subjects.dictionary.to_pylist()]
    places = pc.index_in(pa.array(distinct, pa.string()), value_set=labels)
    otherwise = len(labels)
    table = np.append(places.fill_null(otherwise).to_numpy(), otherwise)
    if "null" in case.branches:
        table[-1] = list(case.branches).index("null")
    branch = table[subjects.indices.fill_null(len(distinct)).to_numpy()]
    options = [*case.branches.items(), ("else", case.otherwise)]
    used = np.flatnonzero(np.bincount(branch, minlength=len(options)))
    made = [make_branch(options[number][1], cells.derive(options[number][0])) for number in used]
    if not made:
        return make_branch(case.otherwise, cells)
    if len(made) == 1:
        return made[0]
    return pc.choose(pa.array(np.searchsorted(used, branch)), *made)


def branch_for(case: Case, subject: TypedScalar) -> Any:
    """The branch for one value of the subject."""
    return case.branches.get(scalar_text(subject), case.otherwise)
