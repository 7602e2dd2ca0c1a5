"""Published scenarios: what a lease needs to know about them, so that it reads no files."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from atdm_engine.bundle.version import version_parts
from atdm_engine.generators.id import Id
from atdm_engine.model import Domain, Scenario
from atdm_engine.spec.constraints import Constraint
from atdm_engine.spec.scenario import Pool
from atdm_engine.values.scalars import TypedScalar, scalar_text
from atdm_engine.values.times import duration

RUN_PLACEHOLDER = "{run}"


def publish(conn: psycopg.Connection[Any], domain: Domain) -> list[str]:
    """Write every scenario of ``domain`` that is new or differs; older versions stay as history.

    Returns the keys (``<domain>/<scenario>``) of the written ones. A scenario without a file is no
    longer current and cannot be leased.
    """
    written = []
    for scenario in domain.scenarios.values():
        row = _row(domain, scenario)
        conn.execute(
            "UPDATE atdm.scenario SET current = false"
            " WHERE domain = %(domain)s AND scenario_id = %(scenario_id)s AND current"
            " AND version <> %(version)s",
            row,
        )
        if conn.execute(_UPSERT.encode(), row).rowcount:
            written.append(scenario.key)
    conn.execute(
        "UPDATE atdm.scenario SET current = false"
        " WHERE domain = %s AND current AND scenario_id <> ALL (%s)",
        (domain.name, list(domain.scenarios)),
    )
    return written


def canonical(constraint: Constraint, value: TypedScalar) -> str | int | float | bool | None:
    """A value as the SQL function ``atdm.typed_value`` writes it, so that both are equal."""
    if isinstance(value, Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if value is None or isinstance(value, bool | str):
        return value
    if constraint.type == "text":
        return scalar_text(value)
    return value if isinstance(value, int | float) else scalar_text(value)


def parameters(scenario: Scenario) -> dict[str, dict[str, Any]]:
    """The constraints of a scenario by name: type and allowed values."""
    published: dict[str, dict[str, Any]] = {}
    for name, constraint in scenario.constraints.items():
        entry: dict[str, Any] = {"type": constraint.type, "allowed": constraint.allowed()}
        if constraint.values:
            entry["values"] = [canonical(constraint, value) for value in constraint.values]
        if constraint.min is not None:
            entry["min"] = canonical(constraint, constraint.min)
        if constraint.max is not None:
            entry["max"] = canonical(constraint, constraint.max)
        if constraint.reference is not None:
            entry["reference"] = constraint.reference
        if constraint.description:
            entry["description"] = constraint.description
        published[name] = entry
    return published


def exposed_keys(domain: Domain, scenario: Scenario) -> dict[str, str]:
    """The exposed values that follow from the run id alone; ``{run}`` stands for the id."""
    keys = {}
    for exposure in scenario.exposes:
        if exposure.row is None:
            continue
        column = domain.tables[exposure.table].columns[exposure.column]
        if isinstance(column.generate, Id):
            head = f"{column.generate.prefix}{column.generate.id}-{RUN_PLACEHOLDER}"
            keys[exposure.name] = head if exposure.row == 0 else f"{head}-{exposure.row}"
    return keys


def _row(domain: Domain, scenario: Scenario) -> dict[str, Any]:
    pool = scenario.spec.pool
    defaults: Mapping[str, Any] = {
        name: canonical(scenario.constraints[name], value)
        for name, value in scenario.defaults.items()
    }
    return {
        "domain": domain.name,
        "scenario_id": scenario.name,
        "version": scenario.version,
        "description": scenario.spec.description,
        "tags": list(scenario.spec.tags),
        "linked": list(scenario.spec.linked_requirement_ids),
        "parameters": Jsonb(parameters(scenario)),
        "defaults": Jsonb(dict(defaults)),
        "exposes": Jsonb(exposed_keys(domain, scenario)),
        "violates": bool(scenario.spec.violates),
        "pool_ready": pool.ready if pool else 0,
        "max_age": duration(pool.max_age if pool else Pool(ready=1).max_age),
        "lease_ttl": duration(scenario.spec.lease_ttl),
        "parts": Jsonb(version_parts(domain, scenario)),
    }


_UPSERT = """
INSERT INTO atdm.scenario AS s
    (domain, scenario_id, version, current, description, tags, linked_requirement_ids, parameters,
     defaults, default_pool_key, exposes, violates, pool_ready, max_age, lease_ttl,
     parts)
VALUES
    (%(domain)s, %(scenario_id)s, %(version)s, true, %(description)s, %(tags)s, %(linked)s,
     %(parameters)s, %(defaults)s,
     atdm.pool_key(%(domain)s, %(scenario_id)s, %(version)s, %(defaults)s::jsonb),
     %(exposes)s, %(violates)s, %(pool_ready)s, %(max_age)s, %(lease_ttl)s,
     %(parts)s)
ON CONFLICT (domain, scenario_id, version) DO UPDATE SET
    current = true, description = excluded.description, tags = excluded.tags,
    linked_requirement_ids = excluded.linked_requirement_ids, parameters = excluded.parameters,
    defaults = excluded.defaults, default_pool_key = excluded.default_pool_key,
    exposes = excluded.exposes, violates = excluded.violates, pool_ready = excluded.pool_ready,
    max_age = excluded.max_age, lease_ttl = excluded.lease_ttl, parts = excluded.parts,
    published_at = now()
WHERE (s.current, s.description, s.tags, s.linked_requirement_ids, s.parameters, s.defaults,
       s.default_pool_key, s.exposes, s.violates, s.pool_ready, s.max_age, s.lease_ttl,
       s.parts)
    IS DISTINCT FROM
      (true, excluded.description, excluded.tags, excluded.linked_requirement_ids,
       excluded.parameters, excluded.defaults, excluded.default_pool_key, excluded.exposes,
       excluded.violates, excluded.pool_ready, excluded.max_age, excluded.lease_ttl,
       excluded.parts)
"""
