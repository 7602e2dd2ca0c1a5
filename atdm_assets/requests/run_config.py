"""The typed forms of Dagster's launchpad, built from constraints.

Raw schemas instead of ``dg.Config`` classes: those know neither an optional choice nor a mapping of
constraints, and every scenario has fields of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.model import Scenario
from atdm_engine.spec.constraints import Constraint, parse_scalar
from atdm_engine.values.scalars import scalar_text

Schema = dict[str, dg.Field]

UNSET = "Left out: the recorded value when the partition exists already, else "


def constraint_field(scenario: Scenario, constraint: Constraint) -> dg.Field:
    """The form field of one constraint: a choice where only some values are allowed.

    It has no default value: a field left out must be told from one that was filled in, because a
    replay refuses other values than the recorded ones.
    """
    default = scenario.defaults.get(constraint.name)
    otherwise = "made by the column's generator" if default is None else scalar_text(default)
    description = " ".join(
        part.strip()
        for part in (
            constraint.description,
            f"Allowed: {constraint.allowed()}.",
            f"{UNSET}{otherwise}.",
        )
        if part.strip()
    )
    return dg.Field(_field_type(scenario, constraint), is_required=False, description=description)


def _field_type(scenario: Scenario, constraint: Constraint) -> Any:
    if constraint.type in ("text", "date", "timestamptz", "decimal") and constraint.values:
        # The name carries the scenario because Dagster holds enum names to be unique in a job.
        return dg.Enum(
            f"{scenario.domain}__{scenario.name}__{constraint.name}",
            [dg.EnumValue(scalar_text(value)) for value in constraint.values],
        )
    return {"integer": int, "boolean": bool}.get(constraint.type, str)


def request_fields() -> Schema:
    """The fields that every request has, whatever its scenario."""
    return {
        "runs": dg.Field(
            int, is_required=False, description=f"Number of isolated test runs. {UNSET}1."
        ),
        "seed": dg.Field(
            int,
            is_required=False,
            description=f"Equal seeds give equal data. {UNSET}derived from the request id.",
        ),
        "as_of": dg.Field(
            str,
            is_required=False,
            description="The data's only clock, a timestamp like 2026-01-31T12:00:00Z. "
            f"{UNSET}the time of the request.",
        ),
        "invoker": dg.Field(
            str,
            is_required=False,
            description="Who asks: human:NAME or agent:ID. Left out: tag atdm/invoker, "
            "else ATDM_INVOKER.",
        ),
        "reason": dg.Field(str, is_required=False, description="Why, for the audit trail."),
        "pooled": dg.Field(
            bool,
            is_required=False,
            description="Whether anybody may lease the test runs; false: only by request id. "
            f"{UNSET}true.",
        ),
    }


def scenario_schema(scenario: Scenario) -> Schema:
    """The form of a scenario's own job."""
    constraints = {
        constraint.name: constraint_field(scenario, constraint)
        for constraint in scenario.constraints.values()
    }
    return {
        "constraints": dg.Field(
            constraints, is_required=False, description="Constraints of this scenario."
        ),
        **request_fields(),
    }


def request_schema(scenario_names: list[str]) -> Schema:
    """The form of job ``request_data``: any scenario by name, its constraints as a mapping."""
    return {
        "scenario": dg.Field(
            str, description="Name of a scenario: " + ", ".join(sorted(scenario_names)) + "."
        ),
        "constraints": dg.Field(
            dict, is_required=False, description="Constraints of the scenario, name: value."
        ),
        **request_fields(),
        "label": dg.Field(
            str,
            is_required=False,
            description="A name for the partition instead of the request id: "
            "1 to 64 letters, digits, _ and -.",
        ),
    }


def as_of(config: Mapping[str, Any]) -> datetime | None:
    """The config's ``as_of``, aware and in UTC; None when left out.

    Raises:
        AtdmError: REQUEST_INVALID, it is no timestamp.
    """
    text = config.get("as_of")
    if text is None:
        return None
    try:
        value = parse_scalar("timestamptz", text)
    except ValueError as error:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID, f"as_of: {error}", {"field": "as_of", "found": text}
        ) from error
    assert isinstance(value, datetime)
    return value
