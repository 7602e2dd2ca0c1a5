"""Columns, definitions and sequences as PostgreSQL describes them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """A record that never changes and has no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TableColumn(FrozenModel):
    """One column as PostgreSQL describes it.

    ``type`` is the text of ``format_type``. ``generated`` columns (``stored`` or ``virtual``) are
    in no file: PostgreSQL computes them by ``expression``; for other columns that is the default.
    ``spec_type`` is set when a file holds the column as ``atdm_engine.arrow.types`` does (generated
    data, and captured dates and instants). Otherwise the file holds PostgreSQL's text of it, or an
    integer or a boolean.
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
    """The text of a constraint (``kind`` as in pg_constraint) or an index (``i``)."""

    table: str
    name: str
    kind: str
    definition: str


class SequenceState(FrozenModel):
    """The position of a sequence. A ``shared`` one is in another schema and only moves onwards."""

    schema_name: str
    name: str
    last_value: int
    is_called: bool
    shared: bool = False
