"""A dataset file: ``scenarios/<domain>/datasets/<name>.yaml``. A mix of scenarios, made as one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from atdm_engine.generators.choice import WeightedValues
from atdm_engine.random.run_ids import MAX_RUNS
from atdm_engine.random.stream import MAX_SEED
from atdm_engine.spec.cron import cron_problem
from atdm_engine.values.fields import Identifier, Scalar, SpecModel


class Shares(WeightedValues):
    """``{choice: {paid: 80, denied: 20}}``: which part of the runs has which value.

    The shares are exact: of 1,000 runs 800 are paid. A list gives all values the same share.
    """

    def weights(self) -> list[tuple[Scalar, float]]:
        """Values and weights, in the file's order. ``null`` leaves it to the column's generator."""
        if isinstance(self.choice, dict):
            return [(None if key == "null" else key, share) for key, share in self.choice.items()]
        return [(value, 1.0) for value in self.choice]


class MixEntry(SpecModel):
    """So many test runs of one scenario."""

    scenario: Identifier = Field(description="A scenario of the domain, not a negative one.")
    runs: int = Field(ge=1, le=MAX_RUNS, description="How many test runs of it.")
    constraints: dict[Identifier, Scalar | Shares] = Field(
        {}, description="Values of its constraints, or shares: {choice: {value: weight}}."
    )


class DatasetSpec(SpecModel):
    """A golden baseline that is generated: which scenarios, how often, and when anew."""

    description: str = Field(min_length=1, description="What the dataset is for, in a sentence.")
    seed: int = Field(ge=0, le=MAX_SEED, description="The same seed gives the same data.")
    mix: Annotated[list[MixEntry], Field(min_length=1)] = Field(
        description="The scenarios that it is made of, each with the number of its test runs."
    )
    runs_per_shard: int = Field(
        10_000, ge=1, le=1_000_000, description="Test runs of one shard, the unit of parallel work."
    )
    cron: str | None = Field(
        None, description="When the next version is made (UTC), like 0 2 * * *; default: on demand."
    )
    retention: int = Field(
        3, ge=1, le=1000, description="How many versions are kept; older ones are deleted."
    )
    restore: bool = Field(
        False, description="Whether a scheduled refresh puts the new version into the target."
    )

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, text: str | None) -> str | None:
        problem = cron_problem(text) if text is not None else None
        if problem:
            raise ValueError(problem)
        return text

    @property
    def runs(self) -> int:
        """How many test runs there are in all."""
        return sum(entry.runs for entry in self.mix)
