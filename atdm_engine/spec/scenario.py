"""A scenario file: ``scenarios/<domain>/<scenario>.yaml``. Which rows, which constraints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from atdm_engine.generators.registry import Value
from atdm_engine.spec.table import ConstraintSpec
from atdm_engine.values.fields import Duration, Identifier, Scalar, SpecModel


class UniformCount(SpecModel):
    """``{uniform: [1, 3]}``: each number in the range is as likely."""

    uniform: Annotated[list[int], Field(min_length=2, max_length=2)]


class PoissonRange(SpecModel):
    """Mean and cut of a Poisson distribution."""

    mean: float = Field(gt=0.0, le=1000.0)
    max: int = Field(ge=1, le=10_000, description="More than so many are cut to it.")


class PoissonCount(SpecModel):
    """``{poisson: {mean: 2, max: 8}}``."""

    poisson: PoissonRange


class ZipfRange(SpecModel):
    """Greatest number and exponent of a Zipf distribution."""

    max: int = Field(ge=1, le=10_000)
    exponent: float = Field(1.2, gt=0.0)


class ZipfCount(SpecModel):
    """1 .. max, weight of n is n ** -exponent."""

    zipf: ZipfRange


class WeightedCount(SpecModel):
    """``{weights: {1: 70, 2: 30}}``: the number, and how often."""

    weights: Annotated[dict[int, float], Field(min_length=1)]


COUNT_KEYWORDS = ("uniform", "poisson", "zipf", "weights")


def _count_keyword(value: Any) -> str | None:
    if isinstance(value, SpecModel):
        return type(value).__name__.lower().removesuffix("count").replace("weighted", "weights")
    if not isinstance(value, Mapping):
        return "constraint" if isinstance(value, str) else "number"
    found = [word for word in COUNT_KEYWORDS if word in value]
    return found[0] if len(found) == 1 else None


Count = Annotated[
    Annotated[int, Field(ge=0, le=10_000), Tag("number")]
    | Annotated[Identifier, Tag("constraint")]
    | Annotated[UniformCount, Tag("uniform")]
    | Annotated[PoissonCount, Tag("poisson")]
    | Annotated[ZipfCount, Tag("zipf")]
    | Annotated[WeightedCount, Tag("weights")],
    Discriminator(
        _count_keyword,
        custom_error_type="keyword",
        custom_error_message="a number, the name of an integer constraint, or exactly one of "
        + ", ".join(COUNT_KEYWORDS),
    ),
]
"""How many rows: a number, the name of an integer constraint, or a distribution."""


class RowGroup(SpecModel):
    """Rows of one table that are made alike."""

    table: str | None = Field(None, description="Default: the name of the group.")
    per: str | None = Field(
        None, description="The row group each of whose rows gets so many; default: the test run."
    )
    count: Count = Field(1, description="How many rows, of the test run or of each row of per.")
    constraints: dict[Identifier, Scalar] = Field(
        {},
        alias="with",
        description="Constraints fixed for these rows; a caller cannot change them.",
    )
    set: dict[Identifier, Value] = Field(
        {}, description="Columns whose cells are made otherwise here than the table file says."
    )


class Pool(SpecModel):
    """Test runs that are made ahead, so that a lease takes milliseconds."""

    ready: int = Field(ge=1, le=1_000_000, description="How many to hold ready.")
    max_age: Duration = Field("1d", description="Older ones are replaced.")


class ScenarioSpec(SpecModel):
    """A named recipe over one domain.

    ``generators`` (``[generate_plan, ...]``) stands for ``rows`` with one row of each table.
    """

    scenario_id: Identifier = Field(description="Its name, unique in the domain.")
    description: str = Field(
        "", description="The data in a sentence, as a tester would ask for it."
    )
    domain: Identifier | None = Field(
        None, description="Default: the folder's, else the default domain."
    )
    tags: list[str] = Field([], description="Words to find it by.")
    linked_requirement_ids: list[str] = Field(
        description="The requirements that tests with this data cover; may be empty."
    )
    default_constraints: dict[Identifier, Scalar] = Field(
        {}, description="Values of constraints where a caller names none."
    )
    constraints: dict[Identifier, ConstraintSpec] = Field(
        {}, description="Constraints of this scenario alone, for counts and case generators."
    )
    rows: dict[Identifier, Annotated[int, Field(ge=0, le=10_000)] | RowGroup] | None = Field(
        None, description="The row groups by name; a number stands for so many rows of a table."
    )
    generators: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="generate_<table>, one row each; instead of rows."
    )
    validators: list[str] = Field([], description="The rules that the scenario is about.")
    violates: list[str] = Field(
        [], description="Rules that this negative scenario breaks, exactly."
    )
    exposes: dict[Identifier, str] | None = Field(
        None, description="What a lease hands out: name: table.column of the run's first row."
    )
    pool: Pool | None = Field(None, description="Test runs to hold ready.")
    lease_ttl: Duration = Field("4h", description="How long a lease lasts when none is asked for.")

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


SchemaKind = Literal["scenario", "domain", "table", "dataset"]
