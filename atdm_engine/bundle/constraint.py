"""Builds a ``Constraint`` from its declaration in a table file or a scenario file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from atdm_engine.arrow.types import column_kind
from atdm_engine.generators.constant import Constant
from atdm_engine.model import Domain
from atdm_engine.spec.constraints import Constraint, ConstraintType, parse_scalar
from atdm_engine.spec.table import ConstraintSpec, TableSpec
from atdm_engine.values.scalars import TypedScalar

_TYPES: Mapping[str, ConstraintType] = {
    "text": "text", "uuid": "text", "smallint": "integer", "integer": "integer",
    "bigint": "integer", "double": "decimal", "numeric": "decimal", "boolean": "boolean",
    "date": "date", "timestamptz": "timestamptz",
}  # fmt: skip


def constraint_of(
    name: str, spec: ConstraintSpec, table: str | None, tables: Mapping[str, TableSpec]
) -> Constraint:
    """The constraint that a table file (``table``) or a scenario file (None) declares.

    What it leaves out is taken from the column that it sets. Raises ValueError, in words, if the
    column cannot be set, or if a bound or value does not fit the type.
    """
    target, column_name = table, spec.sets
    if spec.sets is not None and table is None:
        target, _, column_name = spec.sets.rpartition(".")
        if target not in tables or column_name not in tables[target].columns:
            raise ValueError("a column as table.column of the domain")
    column = tables[target].columns.get(column_name) if target and column_name else None
    kind: ConstraintType
    if column is None:
        if spec.type is None:
            raise ValueError("sets or type must be given")
        kind = spec.type
    else:
        base = column_kind(column.type)
        if base.array or base.base not in _TYPES:
            raise ValueError(f"a column that is no {column.type}: a caller names one plain value")
        kind = _TYPES[base.base]
        if spec.type not in (None, kind):
            raise ValueError(f"type {kind}, as the column {column_name} is {column.type}")
    values = spec.values if spec.values is not None else (column.values if column else None)
    low = spec.min if spec.min is not None else (column.min if column else None)
    high = spec.max if spec.max is not None else (column.max if column else None)
    default = spec.default
    if default is None and column is not None:
        if isinstance(column.generate, Constant) and not column.generate.prefix:
            default = column.generate.constant
        elif column.generate is None and column.values and not column.references:
            default = column.values[0]
    typed = [None if bound is None else parse_scalar(kind, bound) for bound in (low, high)]
    constraint = Constraint(
        name=name,
        type=kind,
        values=tuple(parse_scalar(kind, value) for value in values or ()),
        min=typed[0],
        max=typed[1],
        sets=((str(target), str(column_name)),) if column is not None else (),
        reference=column.references if column else None,
        description=spec.description or (column.description if column else ""),
    )
    return replace(constraint, default=constraint.parse(default))


def merged(first: Constraint, second: Constraint) -> Constraint:
    """The constraint that two tables declare under one name; ValueError if they disagree."""
    if (first.type, first.values) != (second.type, second.values):
        raise ValueError(f"the type and values that {first.name} has elsewhere: {first.allowed()}")
    return replace(
        first,
        sets=first.sets + second.sets,
        reference=first.reference or second.reference,
        default=first.default if first.default is not None else second.default,
    )


def unknown_key(domain: Domain, constraint: Constraint, value: TypedScalar) -> str | None:
    """What is allowed if ``value`` must be a key of reference rows and is none; else None."""
    if constraint.reference is None or value is None:
        return None
    rows = domain.reference.get(constraint.reference)
    keys = domain.tables[constraint.reference].key_columns
    known = rows.column(keys[0]).to_pylist() if rows is not None else []
    if value in known:
        return None
    listed = ", ".join(str(key) for key in known[:20]) + (", ..." if len(known) > 20 else "")
    return f"a key of the reference rows of {constraint.reference}: {listed or 'there are none'}"
