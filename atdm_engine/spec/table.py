"""A table file: ``scenarios/<domain>/tables/<table>.yaml``. What is valid, and how it is made.

Belongs here: the models of columns, constraints and table files and what can be checked within one
file. Does not belong here: checks that need other files (``atdm_engine.registry``).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from atdm_engine.spec.base import Identifier, Scalar, SpecModel
from atdm_engine.spec.generators import Generator

COLUMN_TYPE = re.compile(
    r"^(?P<base>text|smallint|integer|bigint|double|boolean|date|timestamptz|uuid|jsonb"
    r"|numeric\((?P<precision>\d{1,2}),(?P<scale>\d{1,2})\))(?P<array>\[\])?$"
)
ColumnType = Annotated[
    str,
    StringConstraints(pattern=COLUMN_TYPE.pattern),
    Field(
        description="text, smallint, integer, bigint, double, boolean, date, timestamptz, uuid, jsonb, "
        "numeric(precision,scale); with [] behind it an array of these."
    ),
]


class ColumnSpec(SpecModel):
    """A column: its type, what values are valid, and how a cell is made.

    ``generate`` may be left out where ``references`` is given (the parent's key), where ``values``
    is (the first of them) and where the column is nullable (NULL).
    """

    type: ColumnType
    description: str = ""
    nullable: bool = False
    values: Annotated[list[str], Field(min_length=1)] | None = None
    min: Scalar = None
    max: Scalar = None
    min_length: int | None = Field(None, ge=0)
    max_length: int | None = Field(None, ge=0)
    pattern: str | None = Field(None, description="Anchored; the ASCII subset of regular expressions.")
    luhn: Literal["valid", "invalid"] | None = Field(
        None, description="Digits whose Luhn checksum must hold (valid) or must not (invalid)."
    )
    unique: bool = Field(False, description="No two rows share a value, whatever their test runs.")
    references: str | None = Field(None, description="The table whose key this column holds.")
    generate: Generator | None = None


class ConstraintSpec(SpecModel):
    """A typed, named knob of a scenario.

    With ``sets``, its type, allowed values and default are those of the column, as far as they are not given.
    """

    sets: str | None = Field(None, description="The column of this table whose value it sets.")
    type: Literal["text", "integer", "decimal", "boolean", "date", "timestamptz"] | None = None
    description: str = ""
    values: Annotated[list[str], Field(min_length=1)] | None = None
    min: Scalar = None
    max: Scalar = None
    default: Scalar = None


class TableSpec(SpecModel):
    """A table of a domain. ATDM adds the column ``test_run_id`` (text, nullable, indexed) by itself."""

    description: str = Field(min_length=1)
    key: Identifier | Annotated[list[Identifier], Field(min_length=1)]
    columns: Annotated[dict[Identifier, ColumnSpec], Field(min_length=1)]
    constraints: dict[Identifier, ConstraintSpec] = {}
    unique: list[Annotated[list[Identifier], Field(min_length=2)]] = Field(
        [], description="Groups of columns that are unique together."
    )
    checks: dict[Identifier, str] = Field(
        {}, description="SQL conditions over one row: a pandera check and a database CHECK each."
    )
    managed: Literal["atdm"] = "atdm"

    @property
    def key_columns(self) -> tuple[str, ...]:
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)
