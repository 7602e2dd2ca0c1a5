"""A scenario's card: what a person must know to find it and to ask for it.

Light: no file needs to be parsed for a card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atdm_engine.spec.constraints import Constraint, ConstraintType, parse_scalar
from atdm_engine.values.scalars import TypedScalar, scalar_json

if TYPE_CHECKING:
    from atdm_engine.model import Scenario


@dataclass(frozen=True)
class Group:
    """A row group: its table, and the constraints that its ``with`` fixes."""

    name: str
    table: str
    fixed: Mapping[str, TypedScalar]


@dataclass(frozen=True)
class Card:
    """A scenario as it is found and asked for. ``defaults`` has an entry for each constraint."""

    domain: str
    name: str
    description: str
    tags: tuple[str, ...]
    linked_requirement_ids: tuple[str, ...]
    violates: tuple[str, ...]
    version: str
    tables: tuple[str, ...]
    rules: tuple[str, ...]
    groups: tuple[Group, ...]
    constraints: Mapping[str, Constraint]
    defaults: Mapping[str, TypedScalar]

    @property
    def key(self) -> str:
        """``<domain>/<scenario>``, unique in the bundle."""
        return f"{self.domain}/{self.name}"


def card_of(scenario: Scenario) -> Card:
    """The card of a scenario."""
    constraints = scenario.constraints
    return Card(
        domain=scenario.domain,
        name=scenario.name,
        description=scenario.spec.description.strip(),
        tags=tuple(scenario.spec.tags),
        linked_requirement_ids=tuple(scenario.spec.linked_requirement_ids),
        violates=tuple(scenario.spec.violates),
        version=scenario.version,
        tables=scenario.tables,
        rules=scenario.rules,
        groups=tuple(
            Group(
                name,
                group.table or name,
                {key: constraints[key].parse(value) for key, value in group.constraints.items()},
            )
            for name, group in scenario.groups.items()
        ),
        constraints=dict(constraints),
        defaults=dict(scenario.defaults),
    )


def to_json(card: Card) -> dict[str, Any]:
    """A card as JSON values."""
    return {
        "domain": card.domain,
        "name": card.name,
        "description": card.description,
        "tags": list(card.tags),
        "linked_requirement_ids": list(card.linked_requirement_ids),
        "violates": list(card.violates),
        "version": card.version,
        "tables": list(card.tables),
        "rules": list(card.rules),
        "groups": [
            {"name": group.name, "table": group.table, "fixed": _values(group.fixed)}
            for group in card.groups
        ],
        "constraints": [
            {
                "name": one.name,
                "type": one.type,
                "values": [scalar_json(value) for value in one.values],
                "min": scalar_json(one.min),
                "max": scalar_json(one.max),
                "default": scalar_json(one.default),
                "sets": [list(pair) for pair in one.sets],
                "reference": one.reference,
                "description": one.description,
            }
            for one in card.constraints.values()
        ],
        "defaults": _values(card.defaults),
    }


def from_json(known: Mapping[str, Any]) -> Card:
    """The card that ``to_json`` wrote. KeyError, TypeError or ValueError when it did not."""
    constraints = {one["name"]: _constraint(one) for one in known["constraints"]}

    def typed(values: Mapping[str, Any]) -> dict[str, TypedScalar]:
        return {name: _typed(constraints[name].type, value) for name, value in values.items()}

    return Card(
        domain=known["domain"],
        name=known["name"],
        description=known["description"],
        tags=tuple(known["tags"]),
        linked_requirement_ids=tuple(known["linked_requirement_ids"]),
        violates=tuple(known["violates"]),
        version=known["version"],
        tables=tuple(known["tables"]),
        rules=tuple(known["rules"]),
        groups=tuple(
            Group(group["name"], group["table"], typed(group["fixed"])) for group in known["groups"]
        ),
        constraints=constraints,
        defaults=typed(known["defaults"]),
    )


def _constraint(known: Mapping[str, Any]) -> Constraint:
    kind: ConstraintType = known["type"]
    return Constraint(
        name=known["name"],
        type=kind,
        values=tuple(_typed(kind, value) for value in known["values"]),
        min=_typed(kind, known["min"]),
        max=_typed(kind, known["max"]),
        default=_typed(kind, known["default"]),
        sets=tuple((table, column) for table, column in known["sets"]),
        reference=known["reference"],
        description=known["description"],
    )


def _typed(kind: ConstraintType, value: Any) -> TypedScalar:
    return None if value is None else parse_scalar(kind, value)


def _values(values: Mapping[str, TypedScalar]) -> dict[str, Any]:
    return {name: scalar_json(value) for name, value in values.items()}
