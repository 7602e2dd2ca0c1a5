"""The ``generate:`` part of a column: how its cells are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from atdm_engine.values.fields import Duration, Scalar, SpecModel, TimeExpression
from atdm_engine.values.scalars import key_text


def _with_text_keys(data: Any) -> Any:
    """Values of a boolean or an integer column are written as such, and stand for their texts."""
    if not isinstance(data, Mapping):
        return data
    return {key_text(key): value for key, value in data.items()}


class GeneratorModel(SpecModel):
    """What every generator may carry besides its keyword."""

    null_fraction: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of cells that are NULL; the column is nullable."
    )
    prefix: str = Field("", description="Text put in front of every value (text columns only).")


class Id(GeneratorModel):
    """``{id: claim}``: the key ``claim-<test_run_id>``, and ``claim-<test_run_id>-<k>`` for row k >
    0.
    """

    id: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9]{0,15}$")


class ReferenceChoice(SpecModel):
    table: str
    distribution: Literal["uniform", "zipf", "round_robin"] = "uniform"
    exponent: float = Field(
        1.2, gt=0.0, description="zipf only: weight of rank r is r ** -exponent."
    )


class References(GeneratorModel):
    """``{references: provider}``: the key of a row of that table, of the same run where it can."""

    references: str | ReferenceChoice


class Constant(GeneratorModel):
    constant: Scalar


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
        return _with_text_keys(data)

    @property
    def branches(self) -> Mapping[str, Value]:
        return self.__pydantic_extra__ or {}


class Choice(GeneratorModel):
    """``{choice: [a, b]}`` uniform, ``{choice: {a: 3, b: 1}}`` weighted."""

    choice: (
        Annotated[list[Scalar], Field(min_length=1)]
        | Annotated[dict[str, float], Field(min_length=1)]
    )

    @model_validator(mode="before")
    @classmethod
    def _values_are_texts(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("choice"), Mapping):
            return {**data, "choice": _with_text_keys(data["choice"])}
        return data

    @model_validator(mode="after")
    def _weights_are_usable(self) -> Choice:
        if isinstance(self.choice, dict) and (
            min(self.choice.values()) < 0 or sum(self.choice.values()) <= 0
        ):
            raise ValueError("weights must not be negative and must have a positive sum")
        return self


class FakerPool(SpecModel):
    provider: str
    locale: str | None = Field(None, description="Default: the domain's locale.")
    pool: int | None = Field(None, ge=1, description="Use only the first so many words.")


class Faker(GeneratorModel):
    """``{faker: first_name}``: a word of a frozen vocabulary file."""

    faker: str | FakerPool


class IntegerRange(SpecModel):
    min: int = 0
    max: int = 100
    distribution: Literal["uniform", "zipf"] = "uniform"
    exponent: float = Field(1.2, gt=0.0)
    weights: list[float] | None = Field(None, description="Weights of equal bins of the range.")


class Integer(GeneratorModel):
    integer: IntegerRange


class DecimalRange(SpecModel):
    min: float = 0.0
    max: float = 1000.0
    weights: list[float] | None = Field(None, description="Weights of equal bins of the range.")


class Decimal(GeneratorModel):
    decimal: DecimalRange


class Boolean(GeneratorModel):
    """``{boolean: 0.85}``: true with that probability."""

    boolean: float = Field(0.5, ge=0.0, le=1.0)


class TimeRange(SpecModel):
    start: TimeExpression = Field(alias="from")
    stop: TimeExpression = Field(alias="to")
    weights: list[float] | None = Field(None, description="Weights of equal bins of the range.")
    hours: list[float] | None = Field(
        None, min_length=24, max_length=24, description="timestamp only: weight of each hour, UTC."
    )
    weekdays: list[float] | None = Field(
        None, min_length=7, max_length=7, description="timestamp only: weights from Monday on, UTC."
    )


class Date(GeneratorModel):
    date: TimeRange


class Timestamp(GeneratorModel):
    timestamp: TimeRange


class Offset(SpecModel):
    """``column`` is a column of the row (``created_at``) or of a parent (``order.created_at``)."""

    column: str
    min: Duration = "0s"
    max: Duration


class After(GeneratorModel):
    after: Offset


class Before(GeneratorModel):
    before: Offset


class Pattern(GeneratorModel):
    """``{pattern: "[A-Z]{2}-[0-9]{4}"}``: a text of the anchored ASCII subset."""

    pattern: str


class Uuid(GeneratorModel):
    """``{uuid: 4}``: a version 4 UUID made of the cell's own random bits."""

    uuid: Literal[4]


class TextLength(SpecModel):
    min_words: int = Field(3, ge=1)
    max_words: int = Field(12, ge=1)


class Text(GeneratorModel):
    text: TextLength


class Json(GeneratorModel):
    """``{json: {street: {faker: street_name}, country: US}}``: an object of generated values."""

    json_: dict[str, Value] = Field(alias="json")


class ArrayOf(SpecModel):
    of: Value
    min: int = Field(0, ge=0)
    max: int = Field(5, ge=0, le=1000)


class Array(GeneratorModel):
    array: ArrayOf


class Sql(GeneratorModel):
    """``{sql: quantity * unit_price}``: a DuckDB expression over the row.

    Columns of the row are bare names, columns of the row it refers to are ``<table>.<column>``,
    those of the row it was made for (``per``) are ``parent.<column>``; rows that refer to it are
    tables of their own names for a subquery.
    """

    sql: str = Field(min_length=1)


KEYWORDS: tuple[str, ...] = (
    "id", "references", "constant", "case", "choice", "faker", "integer", "decimal", "boolean",
    "date", "timestamp", "after", "before", "pattern", "uuid", "text", "json", "array", "sql",
)  # fmt: skip


def _keyword(value: Any) -> str | None:
    if isinstance(value, GeneratorModel):
        return type(value).__name__.lower()
    if not isinstance(value, Mapping):
        return "scalar"
    if "case" in value:
        return "case"
    found = [word for word in KEYWORDS if word in value]
    return found[0] if len(found) == 1 else None


_TAG = Discriminator(
    _keyword,
    custom_error_type="generator",
    custom_error_message="exactly one generator keyword is needed: " + ", ".join(KEYWORDS),
)
_Tagged = (
    Annotated[Id, Tag("id")]
    | Annotated[References, Tag("references")]
    | Annotated[Constant, Tag("constant")]
    | Annotated[Case, Tag("case")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[Faker, Tag("faker")]
    | Annotated[Integer, Tag("integer")]
    | Annotated[Decimal, Tag("decimal")]
    | Annotated[Boolean, Tag("boolean")]
    | Annotated[Date, Tag("date")]
    | Annotated[Timestamp, Tag("timestamp")]
    | Annotated[After, Tag("after")]
    | Annotated[Before, Tag("before")]
    | Annotated[Pattern, Tag("pattern")]
    | Annotated[Uuid, Tag("uuid")]
    | Annotated[Text, Tag("text")]
    | Annotated[Json, Tag("json")]
    | Annotated[Array, Tag("array")]
    | Annotated[Sql, Tag("sql")]
)

Generator = Annotated[_Tagged, _TAG]
"""What stands after ``generate:``."""

Value = Annotated[_Tagged | Annotated[Scalar, Tag("scalar")], _TAG]
"""A generator, or a scalar that stands for ``{constant: scalar}``."""

for _model in (Case, Json, ArrayOf, Array):
    _model.model_rebuild()
