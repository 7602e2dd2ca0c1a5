"""``text``: a sentence of common words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from atdm_engine.generators.base import GeneratorModel
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding
from atdm_engine.values.fields import SpecModel

WORDS = (  # noqa: SIM905 (so many quoted words would not read better)
    "able after again agree along always among answer area around arrive away base before begin "
    "behind between board bring build call carry case cause center change check choose clear "
    "close common consider continue cost course cover create current daily deal decide detail "
    "develop direct discuss early easy effect enough enter even exact example expect explain "
    "fact field final find first follow form full further general give good great grow half "
    "hand happen hard head help high hold hour house idea important include inform join keep "
    "kind know large last later lead learn leave level light line list little local long look "
    "main make many matter mean measure middle mind minute month more morning most move much "
    "name near need never next night notice number offer often open other over page part pass "
    "past pattern perhaps place plan point possible present price problem process produce "
    "provide public question quick raise range rate reach ready real reason receive recent "
    "reduce remain require rest result return right rule same second send serve several short "
    "show side simple since size small sort sound speak special stand start state step still "
    "story street strong study such support sure system table take talk tell test think time "
    "today together total toward train travel true turn type under unit until usual value "
    "various wait walk want watch week well whole wide wonder word work world write year young"
).split()
"""Words of running text; append only, or texts of a seed change."""


class TextLength(SpecModel):
    min_words: int = Field(3, ge=1)
    max_words: int = Field(12, ge=1)


class Text(GeneratorModel):
    fits: ClassVar = ("text",)
    words: ClassVar = True

    text: TextLength

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        least, most = self.text.min_words, self.text.max_words
        if most < least:
            yield Finding(("text", "min_words"), str(least), f"at most max_words, {most}")

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        least, most = self.text.min_words, self.text.max_words
        words = pa.array(WORDS, pa.string())
        length = cells.derive("words").below(most - least + 1) + least
        first = pc.utf8_capitalize(words).take(pa.array(cells.below(len(words))))
        spaced = pa.concat_arrays([pc.binary_join_element_wise(" ", words, ""), pa.array([""])])
        parts = [first]
        for number in range(1, most):
            index = cells.derive(number).below(len(words))
            parts.append(spaced.take(pa.array(np.where(number < length, index, len(words)))))
        return pc.binary_join_element_wise(*parts, ".", "")
