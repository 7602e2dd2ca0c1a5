"""``json``: an object of generated values, as canonical JSON: sorted keys, no spaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from atdm_engine.arrow.types import canonical_json
from atdm_engine.generators.base import GeneratorModel, check, make_json_texts
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding

if TYPE_CHECKING:
    from atdm_engine.generators.base import Value


class Json(GeneratorModel):
    """``{json: {street: {faker: street_name}, country: US}}``: an object of generated values."""

    fits: ClassVar = ("jsonb", "text")
    json_type: ClassVar = "jsonb"

    json_: dict[str, Value] = Field(alias="json")

    def parts(self) -> Iterable[Any]:
        return self.json_.values()

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        for name, value in self.json_.items():
            yield from check(value, context.member(), "json", name)

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        parts: list[Any] = []
        glue = "{"
        for key in sorted(self.json_):
            texts = make_json_texts(self.json_[key], cells.derive(key))
            parts += [glue + canonical_json(key) + ":", texts]
            glue = ","
        if not parts:
            return pa.repeat(pa.scalar("{}"), len(cells))
        return pc.binary_join_element_wise(*parts, "}", "")
