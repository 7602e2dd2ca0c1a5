"""Constraints and their values: typed, named knobs, read from text and written as text.

Light: a shell that completes a word and a command that only lists scenarios import it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Literal

from atdm_engine.errors import spelling_hint
from atdm_engine.values.scalars import TypedScalar, scalar_text
from atdm_engine.values.times import timestamp

ConstraintType = Literal["text", "integer", "decimal", "boolean", "date", "timestamptz"]
_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0"})
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")
_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?\Z")


@dataclass(frozen=True)
class Constraint:
    """A typed, named knob. ``sets`` are the (table, column) pairs whose cells it fixes.

    ``values`` are the allowed values, typed (empty: any), ``min`` and ``max`` are inclusive bounds,
    ``reference`` is the table whose keys a given value must be one of. ``default`` None means that
    the column's own generator decides.
    """

    name: str
    type: ConstraintType
    values: tuple[TypedScalar, ...] = ()
    min: TypedScalar = None
    max: TypedScalar = None
    default: TypedScalar = None
    sets: tuple[tuple[str, str], ...] = ()
    reference: str | None = None
    description: str = ""

    def parse(self, value: TypedScalar) -> TypedScalar:
        """``value`` (often text from a command line) as this constraint's type.

        None stays None: the column's own generator decides. ValueError says what is allowed.
        """
        if value is None:
            return None
        typed = parse_scalar(self.type, value)
        if self.values and typed not in self.values:
            words = [scalar_text(allowed) for allowed in self.values]
            hint = spelling_hint(scalar_text(typed), words)
            raise ValueError(f"{scalar_text(value)!r} is not one of: {', '.join(words)}{hint}")
        if self.min is not None and typed < self.min:  # type: ignore[operator]
            raise ValueError(f"{scalar_text(typed)} is less than the minimum {self.allowed()}")
        if self.max is not None and typed > self.max:  # type: ignore[operator]
            raise ValueError(f"{scalar_text(typed)} is more than the maximum {self.allowed()}")
        return typed

    def allowed(self) -> str:
        """What may be given, in words."""
        if self.values:
            return "one of: " + ", ".join(scalar_text(allowed) for allowed in self.values)
        bounds = [
            f"{word} {scalar_text(bound)}"
            for word, bound in (("at least", self.min), ("at most", self.max))
            if bound is not None
        ]
        return " ".join([_WORDS[self.type], *bounds])


_WORDS: Mapping[str, str] = {
    "text": "a text",
    "integer": "an integer",
    "decimal": "a decimal number like 12.50",
    "boolean": "true or false",
    "date": "a date like 2026-01-31",
    "timestamptz": "a timestamp like 2026-01-31T12:00:00Z",
}


def parse_scalar(kind: ConstraintType, value: TypedScalar) -> TypedScalar:
    """``value`` as ``kind``: text is read, other values must fit; ValueError says what is
    allowed.
    """
    text = scalar_text(value)
    refusal = f"{text!r} is not {_WORDS[kind]}"
    stripped = text.strip()
    if kind == "text":
        return text
    if kind == "boolean":
        if isinstance(value, bool):
            return value
        if stripped.lower() in _TRUE and not isinstance(value, float):
            return True
        if stripped.lower() in _FALSE and not isinstance(value, float):
            return False
        raise ValueError(refusal)
    if isinstance(value, bool):
        raise ValueError(refusal)
    try:
        if kind == "integer" and _INTEGER.match(stripped):
            return int(stripped)
        if kind == "decimal" and _DECIMAL.match(stripped):
            return Decimal(stripped)
        if kind == "date" and not isinstance(value, datetime):
            return date.fromisoformat(stripped)
        if kind == "timestamptz":
            return timestamp(stripped)
    except (ValueError, InvalidOperation) as error:
        raise ValueError(refusal) from error
    raise ValueError(refusal)
