"""Scalars as text and as JSON. Standard library only: shell completion imports it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from math import isfinite
from typing import Any

TypedScalar = str | int | float | bool | date | datetime | Decimal | None
"""A scalar after parsing: decimals are ``Decimal``, timestamps are aware and in UTC."""


def scalar_text(value: TypedScalar) -> str:
    """A scalar as a person writes it: ``true``, ``null``, ISO dates, decimals without exponent."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value)


def scalar_json(value: TypedScalar) -> str | int | float | bool | None:
    """A scalar as a JSON value: decimals and times are texts that constraints read back."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return scalar_text(value)


def json_value(value: Any) -> Any:
    """Any value as JSON values: times (in UTC), decimals and what JSON has no word for are texts.

    Lists, tuples and mappings are converted as a whole; NaN and infinities become texts too.
    """
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(UTC).isoformat()
    return scalar_text(value)


def key_text(key: object) -> str:
    """A key of a YAML mapping as text: YAML reads ``true`` and ``1`` as other types."""
    if isinstance(key, bool):
        return "true" if key else "false"
    return "null" if key is None else str(key)


def with_text_keys(data: Any) -> Any:
    """A mapping with texts as keys: ``true`` and ``1`` stand for their texts."""
    if not isinstance(data, Mapping):
        return data
    return {key_text(key): value for key, value in data.items()}
