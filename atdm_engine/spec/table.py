"""A table file: ``scenarios/<domain>/tables/<table>.yaml``. What is valid, and how it is made."""

from __future__ import annotations

from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field, StringConstraints

from atdm_engine.arrow.types import COLUMN_TYPE, arrow_type
from atdm_engine.generators.registry import Generator
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_engine.values.fields import Identifier, Scalar, SpecModel

ColumnType = Annotated[
    str,
    StringConstraints(pattern=COLUMN_TYPE.pattern),
    Field(
        description="text, smallint, integer, bigint, double, boolean, date, timestamptz, uuid, "
        "jsonb, numeric(precision,scale); with [] behind it an array of these."
    ),
]


class ColumnSpec(SpecModel):
    """A column: its type, what values are valid, and how a cell is made.

    ``generate`` may be left out where ``references`` is given (the parent's key), where ``values``
    is (the first of them) and where the column is nullable (NULL).
    """

    type: ColumnType
    description: str = ""
    nullable: bool = Field(False, description="Whether a cell may be NULL.")
    values: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="The only values allowed, as texts."
    )
    min: Scalar = Field(None, description="The least value allowed.")
    max: Scalar = Field(None, description="The greatest value allowed.")
    min_length: int | None = Field(None, ge=0, description="In characters.")
    max_length: int | None = Field(None, ge=0, description="In characters.")
    pattern: str | None = Field(
        None, description="Anchored; the ASCII subset of regular expressions."
    )
    luhn: Literal["valid", "invalid"] | None = Field(
        None, description="Digits whose Luhn checksum must hold (valid) or must not (invalid)."
    )
    unique: bool = Field(False, description="No two rows share a value, whatever their test runs.")
    references: str | None = Field(None, description="The table whose key this column holds.")
    generate: Generator | None = Field(None, description="How a cell is made.")


class ConstraintSpec(SpecModel):
    """A typed, named knob of a scenario.

    With ``sets``, its type, allowed values and default are those of the column, as far as they are
    not given.
    """

    sets: str | None = Field(None, description="The column of this table whose value it sets.")
    type: Literal["text", "integer", "decimal", "boolean", "date", "timestamptz"] | None = Field(
        None, description="Default: that of the column it sets."
    )
    description: str = ""
    values: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="The only values a caller may give, as texts."
    )
    min: Scalar = Field(None, description="The least value a caller may give.")
    max: Scalar = Field(None, description="The greatest value a caller may give.")
    default: Scalar = Field(None, description="The value where nobody gives one.")


class TableSpec(SpecModel):
    """A table of a domain. ATDM adds the column ``test_run_id`` (text, nullable, indexed) by
    itself.
    """

    description: str = Field(min_length=1, description="What one row stands for.")
    key: Identifier | Annotated[list[Identifier], Field(min_length=1)] = Field(
        description="The column, or columns, that tell rows apart."
    )
    columns: Annotated[dict[Identifier, ColumnSpec], Field(min_length=1)] = Field(
        description="The columns in their order."
    )
    constraints: dict[Identifier, ConstraintSpec] = Field(
        {}, description="The knobs that a caller may turn on rows of this table."
    )
    unique: list[Annotated[list[Identifier], Field(min_length=2)]] = Field(
        [], description="Groups of columns that are unique together."
    )
    checks: dict[Identifier, str] = Field(
        {}, description="SQL conditions over one row: a pandera check and a database CHECK each."
    )
    managed: Literal["atdm"] = Field("atdm", description="Who creates the table.")

    @property
    def arrow_schema(self) -> pa.Schema:
        """The columns in their order and, last, ``test_run_id``, as Arrow types."""
        fields = [pa.field(name, arrow_type(column.type)) for name, column in self.columns.items()]
        return pa.schema([*fields, pa.field(RUN_COLUMN, pa.string())])

    @property
    def key_columns(self) -> tuple[str, ...]:
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)

    @property
    def unique_groups(self) -> tuple[tuple[str, ...], ...]:
        """The columns, or groups of columns, whose values occur once: the key comes first."""
        groups = [self.key_columns, *(tuple(group) for group in self.unique)]
        groups += [(name,) for name, column in self.columns.items() if column.unique]
        return tuple(dict.fromkeys(groups))

    @property
    def foreign_keys(self) -> dict[str, str]:
        """The columns that refer to tables, each with the name of its table."""
        return {name: c.references for name, c in self.columns.items() if c.references}
