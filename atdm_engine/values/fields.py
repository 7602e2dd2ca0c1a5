"""Field types of specification models, and the base of these models."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from atdm_engine.values.times import DURATION

Scalar = str | int | float | bool | date | datetime | None

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,50}$")]
"""A name that is also safe as an SQL identifier, a Dagster name and a file name."""

Duration = Annotated[
    str,
    StringConstraints(pattern=rf"^{DURATION}$"),
    Field(description="A length of time: a number and s, m, h, d, w or y (365 days), like 30d."),
]

TimeExpression = Annotated[
    str | date | datetime,
    Field(
        description="A point in time: a date, a timestamp, or as_of, as_of - 30d, as_of + 12h. "
        "as_of is the request's own clock."
    ),
]


class SpecModel(BaseModel):
    """A strict, immutable model: unknown keys are errors, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)
