"""``id``: the key of a row, which follows from its test run."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from atdm_engine.generators.base import GeneratorModel
from atdm_engine.generators.cells import Cells


class Id(GeneratorModel):
    """``{id: claim}``: the key ``claim-<test_run_id>``, and ``claim-<test_run_id>-<k>`` for row k >
    0.
    """

    fits: ClassVar = ("text",)
    names_rows: ClassVar = True

    id: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9]{0,15}$")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        return cells.around.identities(self.id)
