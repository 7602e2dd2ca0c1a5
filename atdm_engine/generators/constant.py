"""``constant``: the same value in every cell."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from atdm_engine.arrow.types import repeated
from atdm_engine.generators.base import GeneratorModel, check, make_json_texts
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding
from atdm_engine.values.fields import Scalar


class Constant(GeneratorModel):
    constant: Scalar

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        yield from check(self.marked(self.constant), context, "constant")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        return repeated(column_type, self.constant, len(cells))

    def make_json(self, cells: Cells) -> pa.StringArray:
        return make_json_texts(self.constant, cells)
