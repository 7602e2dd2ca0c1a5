"""A scenario file: ``scenarios/<domain>/<scenario>.yaml``. Which rows, which constraints.

Belongs here: the model of a scenario and of its row groups. Does not belong here: resolving a
request against it (``atdm_engine.planning``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from atdm_engine.spec.base import Duration, Identifier, Scalar, SpecModel
from atdm_engine.spec.generators import Value
from atdm_engine.spec.table import ConstraintSpec


class UniformCount(SpecModel):
    uniform: Annotated[list[int], Field(min_length=2, max_length=2)]


class PoissonRange(SpecModel):
    mean: float = Field(gt=0.0, le=1000.0)
    max: int = Field(ge=1, le=10_000, description="More than so many are cut to it.")


class PoissonCount(SpecModel):
    poisson: PoissonRange


class ZipfRange(SpecModel):
    max: int = Field(ge=1, le=10_000)
    exponent: float = Field(1.2, gt=0.0)


class ZipfCount(SpecModel):
    """1 .. max, weight of n is n ** -exponent."""

    zipf: ZipfRange


class WeightedCount(SpecModel):
    weights: Annotated[dict[int, float], Field(min_length=1)]


Count = Annotated[int, Field(ge=0, le=10_000)] | Identifier | UniformCount | PoissonCount | ZipfCount | WeightedCount
"""How many rows: a number, the name of an integer constraint, or a distribution."""


class RowGroup(SpecModel):
    """Rows of one table that are made alike."""

    table: str | None = Field(None, description="Default: the name of the group.")
    per: str | None = Field(
        None, description="The row group each of whose rows gets so many; default: the test run."
    )
    count: Count = 1
    constraints: dict[Identifier, Scalar] = Field(
        {}, alias="with", description="Constraints fixed for these rows; a caller cannot change them."
    )
    set: dict[Identifier, Value] = Field(
        {}, description="Columns whose cells are made otherwise here than the table file says."
    )


class Pool(SpecModel):
    ready: int = Field(ge=1, le=1_000_000)
    max_age: Duration = "1d"


class ScenarioSpec(SpecModel):
    """A named recipe over one domain.

    ``generators`` (``[generate_plan, ...]``) stands for ``rows`` with one row of each table.
    """

    scenario_id: Identifier
    description: str = ""
    domain: Identifier | None = Field(None, description="Default: the folder's, else the default domain.")
    tags: list[str] = []
    linked_requirement_ids: list[str]
    default_constraints: dict[Identifier, Scalar] = {}
    constraints: dict[Identifier, ConstraintSpec] = Field(
        {}, description="Constraints of this scenario alone, for counts and case generators."
    )
    rows: dict[Identifier, Annotated[int, Field(ge=0, le=10_000)] | RowGroup] | None = None
    generators: Annotated[list[str], Field(min_length=1)] | None = None
    validators: list[str] = []
    violates: list[str] = Field([], description="Rules that this negative scenario breaks, exactly.")
    exposes: dict[Identifier, str] | None = Field(
        None, description="What a lease hands out: name: table.column of the run's first row."
    )
    pool: Pool | None = None
    lease_ttl: Duration = "4h"

    @model_validator(mode="after")
    def _rows_or_generators(self) -> ScenarioSpec:
        if (self.rows is None) == (self.generators is None):
            raise ValueError("exactly one of rows and generators is needed")
        if self.rows is not None and not self.rows:
            raise ValueError("rows must name at least one row group")
        return self

    def row_groups(self) -> dict[str, RowGroup]:
        """The row groups by name, in the file's order, short forms written out."""
        rows: dict[str, Any] = dict(self.rows or {})
        for name in self.generators or ():
            rows[name.removeprefix("generate_")] = 1
        return {
            name: RowGroup(table=name, count=group)
            if isinstance(group, int)
            else group.model_copy(update={"table": group.table or name})
            for name, group in rows.items()
        }


SchemaKind = Literal["scenario", "domain", "table"]
