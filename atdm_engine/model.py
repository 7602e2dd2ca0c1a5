"""The resolved domain model: what the specification files mean once they are read and checked.

Belongs here: the immutable dataclasses that the registry builds and that generation, validation and
the asset factories read. Does not belong here: parsing files (``loading``), checking them
(``registry``), resolving a request (``planning``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Literal

import pyarrow as pa

from atdm_engine.errors import nearest_spelling
from atdm_engine.spec.dataset import DatasetSpec
from atdm_engine.spec.domain import DomainSpec
from atdm_engine.spec.scenario import RowGroup, ScenarioSpec
from atdm_engine.spec.table import TableSpec

ConstraintType = Literal["text", "integer", "decimal", "boolean", "date", "timestamptz"]
TypedScalar = str | int | float | bool | date | datetime | Decimal | None
"""A scalar after parsing: decimals are ``Decimal``, timestamps are aware and in UTC."""

_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0"})
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")
_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?\Z")


@dataclass(frozen=True)
class Rule:
    """A rule file: ``table`` is whose key its query selects first, ``tables`` all it reads."""

    name: str
    description: str
    sql: str
    table: str
    tables: tuple[str, ...]


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
            listed = ", ".join(scalar_text(allowed) for allowed in self.values)
            nearest = nearest_spelling(
                scalar_text(typed), [scalar_text(allowed) for allowed in self.values]
            )
            hint = f"; did you mean {nearest!r}?" if nearest else ""
            raise ValueError(f"{scalar_text(value)!r} is not one of: {listed}{hint}")
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
            instant = datetime.fromisoformat(stripped)
            # A timestamp without an offset is UTC: never the machine's zone.
            return instant.replace(tzinfo=UTC) if not instant.tzinfo else instant.astimezone(UTC)
    except (ValueError, InvalidOperation) as error:
        raise ValueError(refusal) from error
    raise ValueError(refusal)


def scalar_text(value: TypedScalar) -> str:
    """A scalar as a person writes it: ``true``, ``null``, ISO dates, decimals without exponent."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value)


def scalar_json(value: TypedScalar) -> str | int | float | bool | None:
    """A scalar as a JSON value: decimals and times are texts that ``parse`` reads back."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return scalar_text(value)


@dataclass(frozen=True)
class Exposure:
    """What a lease hands out under ``name``: a column of a row of ``group``.

    ``row`` is the row's index within the run when every run has it at the same place, so that a key
    follows from the run id alone; None when the row must be read.
    """

    name: str
    table: str
    column: str
    group: str
    row: int | None


@dataclass(frozen=True)
class Scenario:
    """A scenario with everything it takes from its domain resolved.

    ``version`` covers all that shapes its data. ``groups`` are in file order, ``tables`` (those it
    makes rows of) in insert order. ``defaults`` has an entry for every one of ``constraints``.
    """

    domain: str
    name: str
    spec: ScenarioSpec
    version: str
    groups: Mapping[str, RowGroup]
    constraints: Mapping[str, Constraint]
    defaults: Mapping[str, TypedScalar]
    rules: tuple[str, ...]
    tables: tuple[str, ...]
    exposes: tuple[Exposure, ...]

    @property
    def key(self) -> str:
        """``<domain>/<scenario>``, unique in the bundle."""
        return f"{self.domain}/{self.name}"


@dataclass(frozen=True)
class MixPart:
    """Test runs of a dataset that are made alike: numbers ``first`` to ``last``, both included.

    ``given`` are the constraints that the mix sets, ``effective`` those of all constraints.
    ``number_base`` is what unique numbers are counted from, so that no part takes another's: run n
    has the numbers from ``number_base + (n - 1) * stride`` on. It may be negative.
    """

    scenario: str
    first: int
    last: int
    given: Mapping[str, TypedScalar]
    effective: Mapping[str, TypedScalar]
    number_base: int

    @property
    def runs(self) -> int:
        """How many test runs it has."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Dataset:
    """A dataset with its mix resolved: ``parts`` follow each other from run 1 to ``runs``.

    ``version`` covers all that shapes its data and all that judges it. ``numbers`` is how many
    unique numbers it takes, from 0 on.
    """

    domain: str
    name: str
    spec: DatasetSpec
    version: str
    parts: tuple[MixPart, ...]
    numbers: int = 0

    @property
    def key(self) -> str:
        """``<domain>/<dataset>``, unique in the bundle."""
        return f"{self.domain}/{self.name}"

    @property
    def runs(self) -> int:
        """How many test runs there are in all."""
        return self.parts[-1].last

    @property
    def shards(self) -> int:
        """How many shards of test runs there are."""
        return -(-self.runs // self.spec.runs_per_shard)


@dataclass(frozen=True)
class Domain:
    """A domain: ``tables`` in insert order, ``vocabularies`` by (locale, provider).

    ``reference`` rows are typed as their tables, without ``test_run_id``.
    """

    name: str
    spec: DomainSpec
    tables: Mapping[str, TableSpec]
    rules: Mapping[str, Rule] = field(default_factory=dict)
    reference: Mapping[str, pa.Table] = field(default_factory=dict)
    scenarios: Mapping[str, Scenario] = field(default_factory=dict)
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    vocabularies: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
