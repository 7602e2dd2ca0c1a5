"""What all specification models share."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Scalar = str | int | float | bool | date | datetime | None

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,50}$")]
"""A name that is also safe as an SQL identifier, a Dagster name and a file name."""

DURATION = r"(\d+(?:\.\d+)?)(s|m|h|d|w|y)"
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
TIME_EXPRESSION = re.compile(rf"^as_of(?:\s*([+-])\s*{DURATION})?$")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}


def key_text(key: object) -> str:
    """A mapping's key as text: YAML reads ``true`` and ``1`` as other types."""
    if isinstance(key, bool):
        return "true" if key else "false"
    return "null" if key is None else str(key)


class SpecModel(BaseModel):
    """A strict, immutable model: unknown keys are errors, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


def duration(text: str) -> timedelta:
    """The length of time that ``text`` (``30d``, ``4h``) names; ValueError if it is none."""
    match = re.fullmatch(DURATION, text)
    if match is None:
        raise ValueError(f"{text!r} is no duration: a number and s, m, h, d, w or y, like 30d")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
