"""Requests as Dagster's run config: the typed forms of the launchpad, writing and reading them.

The schemas are raw instead of ``dg.Config`` classes: those have neither an optional choice nor a
mapping of constraints, and every scenario has fields of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from atdm_assets import names
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.request import RequestSpec
from atdm_engine.model import Scenario
from atdm_engine.spec.constraints import Constraint, parse_scalar
from atdm_engine.values.scalars import scalar_json, scalar_text
from atdm_services.requests.request import DataRequest

Schema = dict[str, dg.Field]

UNSET = "Left out: the recorded value when the partition exists already, else "


def constraint_field(scenario: Scenario, constraint: Constraint) -> dg.Field:
    """The form field of one constraint: a choice where only some values are allowed.

    It has no default value: a replay refuses values that differ from the recorded ones, so a field
    left out must differ from one that is filled in.
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
        # Names of enums must be unique in a job, so the name contains the scenario.
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


def scenario_run_config(
    spec: RequestSpec, request: DataRequest, log_level: str = "INFO"
) -> dict[str, Any]:
    """The run config of a scenario's own job for a request; ``spec`` is what it resolves to."""
    config = request.config()
    config["constraints"] = {name: scalar_json(value) for name, value in spec.given.items()}
    step = names.step_name(spec.domain.name, spec.scenario.name, names.REQUEST)
    fields = {name: value for name, value in config.items() if name not in ("scenario", "label")}
    return {
        "ops": {step: {"config": fields}},
        "loggers": {"console": {"config": {"log_level": log_level}}},
    }


def request_in(config: Mapping[str, Any], tags: Mapping[str, str], scenario: str) -> DataRequest:
    """The request that a run's config and tags hold.

    Raises:
        AtdmError: REQUEST_INVALID, ``as_of`` is no timestamp.
    """
    return DataRequest(
        scenario,
        constraints=dict(config.get("constraints") or {}),
        runs=config.get("runs"),
        seed=config.get("seed"),
        as_of=as_of(config.get("as_of")),
        label=config.get("label"),
        pooled=config.get("pooled"),
        invoker=config.get("invoker") or tags.get(names.INVOKER_TAG),
        source=tags.get(names.SOURCE_TAG, "dagster"),
        reason=config.get("reason"),
    )


def as_of(text: str | None) -> datetime | None:
    """A form's ``as_of``, aware and in UTC; None when left out.

    Raises:
        AtdmError: REQUEST_INVALID, it is no timestamp.
    """
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
