"""A scenario's card: what a user must know to find it and to request it.

Light: a kept card is read without parsing a specification file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atdm_engine.spec.constraints import Constraint, ConstraintType, parse_scalar
from atdm_engine.values.scalars import TypedScalar

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
    """What lists, search and requests show of a scenario. ``defaults`` covers all constraints."""

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


def from_json(known: Mapping[str, Any]) -> Card:
    """The card whose ``dataclasses.asdict``, with ``scalar_json`` for its values, is ``known``.

    KeyError, TypeError or ValueError if ``known`` is anything else.
    """
    constraints = {one["name"]: _constraint(one) for one in known["constraints"].values()}

    def typed(values: Mapping[str, Any]) -> dict[str, TypedScalar]:
        return {name: _typed(constraints[name].type, value) for name, value in values.items()}

    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    groups = [Group(**{**group, "fixed": typed(group["fixed"])}) for group in known["groups"]]
    return Card(
        **{
            **known,
            **lists,
            "groups": tuple(groups),
            "constraints": constraints,
            "defaults": typed(known["defaults"]),
        }
    )


def _constraint(known: Mapping[str, Any]) -> Constraint:
    kind: ConstraintType = known["type"]
    typed = {name: _typed(kind, known[name]) for name in ("min", "max", "default")}
    values = tuple(_typed(kind, value) for value in known["values"])
    sets = tuple((table, column) for table, column in known["sets"])
    return Constraint(**{**known, **typed, "values": values, "sets": sets})


def _typed(kind: ConstraintType, value: Any) -> TypedScalar:
    return None if value is None else parse_scalar(kind, value)
