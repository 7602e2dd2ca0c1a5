"""``case``: one value or another, by a column of the row or by a constraint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field, model_validator

from atdm_engine.generators.base import (
    GeneratorModel,
    check,
    make_json_texts,
    make_values,
)
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding
from atdm_engine.values.scalars import TypedScalar, scalar_text, with_text_keys

if TYPE_CHECKING:
    from atdm_engine.generators.base import Value


class Case(GeneratorModel):
    """``{case: status, denied: X, else: Y}``: by the value of a column of the row or of a
    constraint.

    Every key besides ``case``, ``else`` and the modifiers is a value of the subject.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Value]

    case: str
    otherwise: Value = Field(None, alias="else")

    @model_validator(mode="before")
    @classmethod
    def _values_are_texts(cls, data: Any) -> Any:
        return with_text_keys(data)

    @property
    def branches(self) -> Mapping[str, Any]:
        """The values by the text of the subject's value."""
        return self.__pydantic_extra__ or {}

    def branch(self, subject: TypedScalar) -> Any:
        """The value for one value of the subject."""
        return self.branches.get(scalar_text(subject), self.otherwise)

    def parts(self) -> Iterable[Any]:
        return (*self.branches.values(), self.otherwise)

    def own_columns(self) -> Iterable[str]:
        return (self.case,)

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        known, subject = context.fixed(self.case)
        if known:
            name = scalar_text(subject)
            place = name if name in self.branches else "else"
            yield from check(self.branch(subject), context, place)
            return
        allowed = yield from context.subject(("case",), self.case)
        for name, branch in self.branches.items():
            if allowed and name not in allowed and name != "null":
                words = sorted(allowed)
                listed = f"a value of {self.case}: " + ", ".join(words)
                yield Finding((name,), repr(name), listed, words)
            yield from check(branch, context, name)
        if "otherwise" in self.model_fields_set:
            yield from check(self.otherwise, context, "else")
        elif allowed is not None and not context.nullable:
            missing = sorted(set(allowed) - set(self.branches))
            if missing or not allowed:
                found = "no else" + (f" and nothing for {', '.join(missing)}" if missing else "")
                yield Finding((), found, "else, or every value: the column is not nullable")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        return self._make(cells, lambda branch, inner: make_values(branch, column_type, inner))

    def make_json(self, cells: Cells) -> pa.StringArray:
        return self._make(cells, make_json_texts)

    def _make(self, cells: Cells, make_branch: Callable[[Any, Cells], pa.Array]) -> pa.Array:
        """Each cell from the branch that the subject names, else from ``else``."""
        known, subject = cells.around.fixed(self.case)
        if known:
            return make_branch(self.branch(subject), cells)
        column = cells.around.column(self.case)
        labels = pa.array(list(self.branches), pa.string())
        # Distinct values are few: write those as text, not every cell.
        subjects = column.dictionary_encode()
        distinct = [scalar_text(value) for value in subjects.dictionary.to_pylist()]
        places = pc.index_in(pa.array(distinct, pa.string()), value_set=labels)
        otherwise = len(labels)
        table = np.append(places.fill_null(otherwise).to_numpy(), otherwise)
        if "null" in self.branches:
            table[-1] = list(self.branches).index("null")
        branch = table[subjects.indices.fill_null(len(distinct)).to_numpy()]
        options = [*self.branches.items(), ("else", self.otherwise)]
        used = np.flatnonzero(np.bincount(branch, minlength=len(options)))
        made = [
            make_branch(options[number][1], cells.derive(options[number][0])) for number in used
        ]
        if not made:
            return make_branch(self.otherwise, cells)
        if len(made) == 1:
            return made[0]
        return pc.choose(pa.array(np.searchsorted(used, branch)), *made)
