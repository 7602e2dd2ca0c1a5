"""Columns, definitions and sequences as PostgreSQL describes them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """A record that never changes and has no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TableColumn(FrozenModel):
    """One column as PostgreSQL describes it.

    ``type`` is what ``format_type`` says. ``generated`` columns (``stored`` or ``virtual``) are in
    no file: they follow from the others by ``expression``; for other columns that is the default.
    ``spec_type`` is set when the file holds the column as ``atdm_engine.arrow.types`` does
    (generated data, and dates and instants that were captured); otherwise the file holds
    PostgreSQL's own
    text, or an integer or a boolean as such.
    """

    name: str
    type: str
    nullable: bool = True
    collation: str | None = None
    identity: Literal["", "always", "by default"] = ""
    generated: Literal["", "stored", "virtual"] = ""
    expression: str | None = None
    spec_type: str | None = None


class Definition(FrozenModel):
    """A constraint (``kind`` as in pg_constraint) or an index (``i``) by its text, to compare."""

    table: str
    name: str
    kind: str
    definition: str


class SequenceState(FrozenModel):
    """Where a sequence stands. ``shared`` ones belong to another schema and only move onwards."""

    schema_name: str
    name: str
    last_value: int
    is_called: bool
    shared: bool = False
