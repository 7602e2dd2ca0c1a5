"""``faker``: a word of a frozen vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from atdm_engine.generators.base import GeneratorModel, pooled
from atdm_engine.generators.cells import Cells
from atdm_engine.generators.context import ColumnContext, Finding
from atdm_engine.values.fields import SpecModel


class FakerPool(SpecModel):
    provider: str
    locale: str | None = Field(None, description="Default: the domain's locale.")
    pool: int | None = Field(None, ge=1, description="Use only the first so many words.")


class Faker(GeneratorModel):
    """``{faker: first_name}``: a word of a frozen vocabulary file."""

    fits: ClassVar = ("text",)
    words: ClassVar = True

    faker: str | FakerPool

    @property
    def pool(self) -> FakerPool:
        """The provider, and what is taken of its words."""
        return FakerPool(provider=self.faker) if isinstance(self.faker, str) else self.faker

    def own_findings(self, context: ColumnContext) -> Iterator[Finding]:
        locale, provider = self.pool.locale or context.locale, self.pool.provider
        if (locale, provider) not in context.vocabularies:
            known = sorted(name for place, name in context.vocabularies if place == locale)
            listed = f"a vocabulary of {locale}: " + (", ".join(known) or "none")
            path = ("faker",) if isinstance(self.faker, str) else ("faker", "provider")
            yield Finding(path, repr(provider), listed, known)

    def make(self, column_type: str, cells: Cells) -> pa.Array:
        pool, setting = self.pool, cells.setting
        vocabulary = setting.vocabularies[pool.locale or setting.locale, pool.provider]
        words = _array(vocabulary[: pool.pool])
        return pooled(words, cells.below(len(words)))


@lru_cache(maxsize=256)
def _array(words: tuple[str, ...]) -> pa.StringArray:
    return pa.array(words, pa.string())
