"""``choice``: one of several values, uniform or weighted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from atdm_engine.arrow.json_texts import json_text
from atdm_engine.arrow.types import typed_array
from atdm_engine.generators.base import GeneratorModel, check, pooled
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding
from atdm_engine.random.stream import check_weights, cumulative, pick
from atdm_engine.values.fields import Scalar, SpecModel
from atdm_engine.values.scalars import with_text_keys


class WeightedValues(SpecModel):
    """A list of values, or values with weights. The keys of a mapping stand for their texts."""

    choice: (
        Annotated[list[Scalar], Field(min_length=1)]
        | Annotated[dict[str, float], Field(min_length=1)]
    )

    @model_validator(mode="before")
    @classmethod
    def _values_are_texts(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("choice"), Mapping):
            return {**data, "choice": with_text_keys(data["choice"])}
        return data

    @model_validator(mode="after")
    def _weights_are_usable(self) -> Self:
        if isinstance(self.choice, dict):
            check_weights(self.choice.values())
        return self


class Choice(GeneratorModel, WeightedValues):
    """``{choice: [a, b]}`` uniform, ``{choice: {a: 3, b: 1}}`` weighted."""

    words: ClassVar = True

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        for option in self.choice:
            yield from check(self.marked(option), context, "choice")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        return pooled(typed_array(column_type, list(self.choice)), self._index(cells))

    def make_json(self, cells: Cells) -> pa.StringArray:
        texts = pa.array([json_text(option) for option in self.choice], pa.string())
        return pooled(texts, self._index(cells)).cast(pa.string())

    def _index(self, cells: Cells) -> NDArray[np.int64]:
        """Which value each cell has."""
        if isinstance(self.choice, dict):
            return pick(cumulative(list(self.choice.values())), cells.uniform())
        return cells.below(len(self.choice))
