"""Launchpad forms: what a constraint looks like, and reading values back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from atdm_assets.requests.run_config import as_of, constraint_field, request_schema
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.model import Scenario
from atdm_engine.spec.constraints import Constraint
from atdm_engine.spec.scenario import ScenarioSpec


def scenario_with(*constraints: Constraint) -> Scenario:
    spec = ScenarioSpec(scenario_id="s", linked_requirement_ids=[], rows={"t": 1})
    return Scenario(
        domain="d",
        name="s",
        spec=spec,
        version="v",
        groups={},
        constraints={constraint.name: constraint for constraint in constraints},
        defaults={constraint.name: constraint.default for constraint in constraints},
        rules=(),
        tables=("t",),
        exposes=(),
    )


def accepts(constraint: Constraint, value: Any) -> bool:
    field = constraint_field(scenario_with(constraint), constraint)

    @dg.op(config_schema={"value": field})
    def step() -> None:
        """Nothing."""

    @dg.job
    def job() -> None:
        step()

    config = {"ops": {"step": {"config": {"value": value}}}}
    return dg.validate_run_config(job, config) is not None


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (Constraint("c", "text", values=("in-network", "b c")), "in-network", "c"),
        (Constraint("c", "text"), "anything", 5),
        (Constraint("c", "integer", min=1, max=8), 3, "three"),
        (Constraint("c", "boolean"), False, "false"),
        (Constraint("c", "decimal"), "12.50", 12.5),
        (Constraint("c", "date"), "2026-01-31", 20260131),
        (Constraint("c", "timestamptz"), "2026-01-31T12:00:00Z", 1),
    ],
)
def test_a_field_takes_what_its_constraint_is_and_nothing_else(
    constraint: Constraint, good: Any, bad: Any
) -> None:
    assert accepts(constraint, good)
    with pytest.raises(dg.DagsterInvalidConfigError):
        accepts(constraint, bad)


def test_a_field_says_what_is_allowed_and_what_happens_when_it_is_left_out() -> None:
    constraint = Constraint("c", "integer", min=1, max=8, default=2, description="How many.")
    field = constraint_field(scenario_with(constraint), constraint)
    assert not field.is_required
    assert not field.default_provided, "a default would look like a value somebody gave"
    assert field.description is not None
    assert field.description.startswith("How many. Allowed: an integer at least 1 at most 8.")
    assert field.description.endswith("else 2.")


def test_as_of_is_read_as_an_instant_in_utc() -> None:
    assert as_of(None) is None
    assert as_of("2026-03-01T09:00:00+01:00") == datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert as_of("2026-03-01T09:00:00") == datetime(2026, 3, 1, 9, tzinfo=UTC)
    with pytest.raises(AtdmError) as caught:
        as_of("soon")
    assert caught.value.code == ErrorCode.REQUEST_INVALID
    assert caught.value.details == {"field": "as_of", "found": "soon"}


def test_the_form_of_request_data_lists_the_scenarios() -> None:
    schema = request_schema(["d/b", "d/a"])
    assert schema["scenario"].is_required
    assert schema["scenario"].description == "Name of a scenario: d/a, d/b."
    assert not any(field.is_required for name, field in schema.items() if name != "scenario")
