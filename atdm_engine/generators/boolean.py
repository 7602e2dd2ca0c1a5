"""``boolean``: true with a probability."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from atdm_engine.generators.base import GeneratorModel
from atdm_engine.generators.cells import Cells


class Boolean(GeneratorModel):
    """``{boolean: 0.85}``: true with that probability."""

    fits: ClassVar = ("boolean",)
    json_type: ClassVar = "boolean"

    boolean: float = Field(0.5, ge=0.0, le=1.0)

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        return pa.array(cells.uniform() < self.boolean)
