"""A resolved request: everything that its rows follow from, and how it is resolved."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc

from atdm_engine.errors import AtdmError, ErrorCode, nearest_spelling, spelling_hint
from atdm_engine.generation.plan import GenerationPlan, require_sound
from atdm_engine.model import Domain, Scenario
from atdm_engine.random.run_ids import MAX_RUNS, is_request_id, time_of
from atdm_engine.random.stream import MAX_SEED
from atdm_engine.spec.constraints import Constraint
from atdm_engine.spec.scenario import RowGroup
from atdm_engine.values.scalars import TypedScalar, scalar_json, scalar_text


@dataclass(frozen=True)
class RequestSpec:
    """``plan`` is the scenario with all constraints, ``given`` are those of the caller, typed.

    ``seed`` lies between 0 and 2**63 - 1, ``as_of`` is aware and in UTC. ``number_base`` is the
    first of the unique numbers that the request has reserved.
    """

    plan: GenerationPlan
    request_id: str
    runs: int
    seed: int
    as_of: datetime
    given: Mapping[str, TypedScalar]
    number_base: int = 0

    @property
    def domain(self) -> Domain:
        """The scenario's domain."""
        return self.plan.domain

    @property
    def scenario(self) -> Scenario:
        """The scenario that the rows are of."""
        return self.plan.scenario

    @property
    def effective(self) -> Mapping[str, TypedScalar]:
        """The values of all constraints: the given ones and the defaults."""
        return self.plan.constraints

    @property
    def numbers_needed(self) -> int:
        """How many unique numbers the request takes, from ``number_base`` on; 0: none."""
        return self.runs * self.plan.stride


def seed_of(request_id: str) -> int:
    """The seed of a request that names none: the same on every machine."""
    digest = hashlib.blake2b(f"seed:{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & MAX_SEED


def resolve(
    domain: Domain,
    scenario: Scenario,
    constraints: Mapping[str, TypedScalar],
    *,
    runs: int = 1,
    seed: int | None = None,
    as_of: datetime | None = None,
    request_id: str,
    number_base: int = 0,
) -> RequestSpec:
    """Resolve a request for ``scenario`` of ``domain``.

    ``constraints`` are what the caller gave (texts are typed here), ``as_of`` defaults to the
    moment the request id carries, ``seed`` to one derived from it; ``number_base`` is the first
    unique number that was reserved. Raises CONSTRAINT_INVALID or CONSTRAINT_CONTRADICTION
    (``details.problems`` has all of them), REQUEST_INVALID, SPEC_INVALID.
    """
    _check_request(runs, seed, as_of, request_id, number_base)
    given = _typed(scenario, domain, constraints)
    plan = GenerationPlan(domain, scenario, {**scenario.defaults, **given})
    require_sound(plan)
    spec = RequestSpec(
        plan=plan,
        request_id=request_id,
        runs=runs,
        seed=seed_of(request_id) if seed is None else seed,
        as_of=time_of(request_id) if as_of is None else as_of.astimezone(UTC),
        given=given,
        number_base=number_base,
    )
    _check_capacity(spec)
    return spec


def _check_request(
    runs: int, seed: int | None, as_of: datetime | None, request_id: str, number_base: int
) -> None:
    problems = []
    if not 1 <= runs <= MAX_RUNS:
        problems.append(f"runs is {runs}; allowed: 1 to {MAX_RUNS}")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        problems.append(f"seed is {seed}; allowed: 0 to {MAX_SEED}")
    if as_of is not None and as_of.tzinfo is None:
        problems.append(f"as_of is {as_of.isoformat()}; allowed: a timestamp with its time zone")
    if not is_request_id(request_id):
        problems.append(f"request_id is {request_id!r}; allowed: a ULID ending in six zeros")
    if number_base < 0:
        problems.append(f"number_base is {number_base}; allowed: 0 and above")
    if problems:
        raise AtdmError(ErrorCode.REQUEST_INVALID, "; ".join(problems), {"problems": problems})


def _typed(
    scenario: Scenario, domain: Domain, constraints: Mapping[str, TypedScalar]
) -> dict[str, TypedScalar]:
    given: dict[str, TypedScalar] = {}
    problems: list[dict[str, Any]] = []
    contradictions: list[dict[str, Any]] = []
    for name, value in constraints.items():
        constraint = scenario.constraints.get(name)
        if constraint is None:
            problems.append(_unknown(scenario, name))
            continue
        try:
            typed = constraint.parse(value)
            _check_reference(constraint, domain, typed)
        except ValueError as error:
            problems.append(
                {
                    "constraint": name,
                    "found": scalar_text(value),
                    "allowed": constraint.allowed(),
                    "message": f"{name}: {error}",
                }
            )
            continue
        given[name] = typed
        contradiction = _contradiction(scenario, constraint, typed)
        if contradiction:
            contradictions.append(contradiction)
    if problems or contradictions:
        code = ErrorCode.CONSTRAINT_INVALID if problems else ErrorCode.CONSTRAINT_CONTRADICTION
        everything = problems + contradictions
        details: dict[str, Any] = {"scenario": scenario.key, "problems": everything}
        if not problems:
            details |= {key: contradictions[0][key] for key in ("constraint_a", "constraint_b")}
        raise AtdmError(code, "; ".join(one["message"] for one in everything), details)
    return given


def _unknown(scenario: Scenario, name: str) -> dict[str, Any]:
    known = sorted(scenario.constraints)
    allowed = ", ".join(known) or "none"
    hint = spelling_hint(name, known)
    return {
        "constraint": name,
        "found": name,
        "allowed": allowed,
        "nearest": nearest_spelling(name, known),
        "message": f"{scenario.key} has no constraint {name!r} (allowed: {allowed}){hint}",
    }


def _check_reference(constraint: Constraint, domain: Domain, value: TypedScalar) -> None:
    """A code that a caller names must be one of the shared rows (requirement A-REF-05)."""
    if constraint.reference is None or value is None:
        return
    rows = domain.reference.get(constraint.reference)
    if rows is None:
        raise ValueError(f"{constraint.reference} has no reference rows to name one of")
    keys = rows.column(domain.tables[constraint.reference].key_columns[0])
    text = scalar_text(value)
    if not pc.any(pc.equal(keys, text)).as_py():
        known = [str(key) for key in keys.to_pylist()]
        shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
        hint = spelling_hint(text, known)
        raise ValueError(f"{text!r} is no {constraint.reference} (there are: {shown}){hint}")


def _contradiction(
    scenario: Scenario, constraint: Constraint, value: TypedScalar
) -> dict[str, Any] | None:
    """Why a given value can have no effect; None when it has one.

    Every row group concerned pins the constraint to another value (``with``), or makes the columns
    that the constraint sets in its own way (``set``).
    """
    tables = {table for table, _ in constraint.sets}
    concerned = {
        name: group
        for name, group in scenario.groups.items()
        if (group.table or name) in tables or constraint.name in group.constraints
    }
    pinned = {
        name: constraint.parse(group.constraints[constraint.name])
        for name, group in concerned.items()
        if constraint.name in group.constraints
    }
    fixed: TypedScalar = None
    if pinned:
        if len(pinned) < len(concerned) or value in pinned.values():
            return None
        name, fixed = next(iter(pinned.items()))
        how = f"fixes {constraint.name}={scalar_text(fixed)}"
    else:
        free = [group for group in concerned.values() if not _sets_one_of(group, constraint)]
        if free or not concerned or value is None:
            return None
        name = next(iter(concerned))
        columns = ", ".join(f"{table}.{column}" for table, column in constraint.sets)
        how = f"makes {columns} in its own way"
    return {
        "constraint": constraint.name,
        "constraint_a": _sourced(constraint, value, "request"),
        "constraint_b": _sourced(constraint, fixed, f"row group {name}"),
        "message": f"{constraint.name}={scalar_text(value)} contradicts row group {name} of "
        f"{scenario.key}, which {how}",
    }


def _sets_one_of(group: RowGroup, constraint: Constraint) -> bool:
    return any(table == group.table and to in group.set for table, to in constraint.sets)


def _sourced(constraint: Constraint, value: TypedScalar, source: str) -> dict[str, Any]:
    return {"name": constraint.name, "value": scalar_json(value), "source": source}


def _check_capacity(spec: RequestSpec) -> None:
    end = spec.number_base + spec.numbers_needed
    problems = [
        f"{table}.{column} has {unique.capacity} unique values; the request ends at number {end}"
        for (table, column), unique in spec.plan.uniques.items()
        if end > unique.capacity
    ]
    if problems:
        raise AtdmError(ErrorCode.REQUEST_INVALID, "; ".join(problems), {"problems": problems})
