"""All generators, and the types of what may stand in a specification file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag

from atdm_engine.generators.array import Array, ArrayOf
from atdm_engine.generators.base import GeneratorModel
from atdm_engine.generators.boolean import Boolean
from atdm_engine.generators.case import Case
from atdm_engine.generators.choice import Choice
from atdm_engine.generators.constant import Constant
from atdm_engine.generators.date import Date
from atdm_engine.generators.decimal import Decimal
from atdm_engine.generators.faker import Faker
from atdm_engine.generators.id import Id
from atdm_engine.generators.integer import Integer
from atdm_engine.generators.json import Json
from atdm_engine.generators.offset import After, Before
from atdm_engine.generators.pattern import Pattern
from atdm_engine.generators.references import References
from atdm_engine.generators.sql import Sql
from atdm_engine.generators.text import Text
from atdm_engine.generators.timestamp import Timestamp
from atdm_engine.generators.uuid import Uuid
from atdm_engine.values.fields import Scalar

GENERATORS: tuple[type[GeneratorModel], ...] = (
    Id, References, Constant, Case, Choice, Faker, Integer, Decimal, Boolean, Date, Timestamp,
    After, Before, Pattern, Uuid, Text, Json, Array, Sql,
)  # fmt: skip
"""In the order in which messages and the JSON Schema list them."""

KEYWORDS = tuple(model.keyword() for model in GENERATORS)


def _keyword(value: Any) -> str | None:
    if isinstance(value, GeneratorModel):
        return value.keyword()
    if not isinstance(value, Mapping):
        return "scalar"
    if "case" in value:
        return "case"  # Its other keys are values, which may be spelled like keywords.
    found = [word for word in KEYWORDS if word in value]
    return found[0] if len(found) == 1 else None


if TYPE_CHECKING:
    Generator = GeneratorModel
    Value = GeneratorModel | Scalar
else:
    _keyed = Union[tuple(Annotated[model, Tag(model.keyword())] for model in GENERATORS)]  # noqa: UP007
    _by_keyword = Discriminator(
        _keyword,
        custom_error_type="generator",
        custom_error_message="exactly one generator keyword is needed: " + ", ".join(KEYWORDS),
    )

    Generator = Annotated[_keyed, _by_keyword]
    """What stands after ``generate:``."""

    Value = Annotated[_keyed | Annotated[Scalar, Tag("scalar")], _by_keyword]
    """A generator, or a scalar that stands for ``{constant: scalar}``."""

    # Generators that hold others could not be completed before all of them were known.
    for model in (ArrayOf, *GENERATORS):
        model.model_rebuild(_types_namespace={"Value": Value})
