"""The replay specification: all that is needed to make a recorded test run again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.random.run_ids import MAX_RUNS, is_run_id, request_of, run_number
from atdm_engine.random.stream import MAX_SEED
from atdm_engine.values.fields import Identifier, SpecModel

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
JsonScalar = str | int | float | bool | None


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time needs its offset, like 2026-01-31T12:00:00Z")
    return moment.astimezone(UTC)


class ReplaySpec(SpecModel):
    """A test run and its request.

    ``given`` are the constraints of the caller, ``effective`` those and the defaults. ``parts`` are
    the parts that the scenario's version covers (``version_parts``; empty for requests of an older
    ATDM). ``content_hash`` and ``tables`` are the hashes of the whole request and of its tables
    (None and empty: the request was rejected).
    """

    format: Literal["atdm-replay/1"] = "atdm-replay/1"
    test_run_id: str
    domain: Identifier
    scenario_id: Identifier
    scenario_version: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    parts: dict[str, str] = Field(default_factory=dict)
    given: dict[str, JsonScalar]
    effective: dict[str, JsonScalar]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    as_of: Annotated[datetime, AfterValidator(_in_utc)]
    runs: Annotated[int, Field(ge=1, le=MAX_RUNS)]
    number_base: Annotated[int, Field(ge=0, le=MAX_SEED)]
    content_hash: Digest | None
    tables: dict[str, Digest]

    @model_validator(mode="after")
    def _fits(self) -> ReplaySpec:
        if not is_run_id(self.test_run_id):
            raise ValueError(f"test_run_id {self.test_run_id[:64]!r} is no test run's id")
        if self.run_number > self.runs:
            raise ValueError(
                f"test_run_id {self.test_run_id} is number {self.run_number} of {self.runs} runs"
            )
        return self

    @property
    def request_id(self) -> str:
        """The request that made the run."""
        return request_of(self.test_run_id)

    @property
    def run_number(self) -> int:
        """The run's number within its request, from 1."""
        return run_number(self.test_run_id)

    @property
    def scenario(self) -> str:
        """``<domain>/<scenario>``."""
        return f"{self.domain}/{self.scenario_id}"

    @property
    def rejected(self) -> bool:
        """Whether the request was rejected by its checks, so that it never had rows."""
        return self.content_hash is None


def read_replay_spec(text: str, where: str) -> ReplaySpec:
    """The specification that a JSON text holds; ``where`` names the text in errors.

    Raises:
        AtdmError: REQUEST_INVALID with every problem.
    """
    try:
        return ReplaySpec.model_validate_json(text)
    except ValidationError as error:
        problems = [
            ": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"])))
            for one in error.errors(include_url=False, include_input=False)
        ]
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{where} is no replay specification: {'; '.join(problems)}",
            {
                "file": where,
                "problems": problems,
                "hint": "`atdm replay RUN --print-spec` writes one.",
            },
        ) from error
