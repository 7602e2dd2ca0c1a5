"""A domain's PostgreSQL tables, built from its table files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Date,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.types import TypeEngine

from atdm_engine.arrow.types import ColumnKind, column_kind, parse_value
from atdm_engine.model import Domain
from atdm_engine.patterns.pattern import parse_pattern
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_engine.spec.domain import Marker
from atdm_engine.spec.table import ColumnSpec, TableSpec

_IDENTIFIER_BYTES = 63
_TYPES: dict[str, TypeEngine[Any]] = {
    "text": Text(collation="C"),
    "smallint": SmallInteger(),
    "integer": Integer(),
    "bigint": BigInteger(),
    "double": Double(),
    "boolean": Boolean(),
    "date": Date(),
    "timestamptz": DateTime(timezone=True),
    "uuid": UUID(as_uuid=False),
    "jsonb": JSONB(none_as_null=True),
}


def domain_tables(domain: Domain, schema: str | None = None) -> MetaData:
    """Every table of ``domain`` in PostgreSQL schema ``schema`` (default: the domain's name).

    Each has the columns of its file in their order and, last, ``test_run_id`` (text, nullable,
    indexed). Keys, references, allowed values, ranges, lengths, patterns, markers, Luhn checksums
    and row checks are named constraints; every referring column is indexed. Text compares by code
    point (COLLATE "C"), as it does in Arrow.
    """
    metadata = MetaData(schema=schema or domain.name)
    for name, spec in domain.tables.items():
        _add_table(metadata, domain, name, spec)
    return metadata


def constraint_name(kind: str, table: str, *parts: str) -> str:
    """``<kind>_<table>_<parts>``, cut and made unique where PostgreSQL would cut it silently."""
    name = "_".join((kind, table, *parts))
    if len(name) <= _IDENTIFIER_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _IDENTIFIER_BYTES - 9]}_{digest}"


def _add_table(metadata: MetaData, domain: Domain, name: str, spec: TableSpec) -> None:
    columns = [
        Column(
            column_name,
            _type(column_kind(column.type)),
            nullable=column.nullable,
            comment=column.description or None,
        )
        for column_name, column in spec.columns.items()
    ]
    columns.append(Column(RUN_COLUMN, Text(collation="C"), nullable=True))
    table = Table(name, metadata, *columns, comment=spec.description)
    table.append_constraint(
        PrimaryKeyConstraint(*spec.key_columns, name=constraint_name("pk", name))
    )
    for column_name, column in spec.columns.items():
        if column.references is not None:
            _add_reference(table, domain, column_name, column.references)
        if column.unique and spec.key_columns != (column_name,):
            table.append_constraint(
                UniqueConstraint(column_name, name=constraint_name("uq", name, column_name))
            )
        marker = domain.spec.markers.get(f"{name}.{column_name}")
        for part, condition in _column_checks(table.c[column_name], column, marker):
            table.append_constraint(
                CheckConstraint(condition, name=constraint_name("ck", name, column_name, part))
            )
    for group in spec.unique:
        table.append_constraint(UniqueConstraint(*group, name=constraint_name("uq", name, *group)))
    for check, condition_text in spec.checks.items():
        table.append_constraint(
            CheckConstraint(text(_literal(condition_text)), name=constraint_name("ck", name, check))
        )
    Index(constraint_name("idx", name, RUN_COLUMN), table.c[RUN_COLUMN])


def _add_reference(table: Table, domain: Domain, column: str, target: str) -> None:
    (key,) = domain.tables[target].key_columns
    table.append_constraint(
        ForeignKeyConstraint(
            [column],
            [f"{table.schema}.{target}.{key}"],
            name=constraint_name("fk", table.name, column),
        )
    )
    Index(constraint_name("ix", table.name, column), table.c[column])


def _column_checks(
    column: Column[Any], spec: ColumnSpec, marker: Marker | None
) -> Iterator[tuple[str, ColumnElement[bool]]]:
    """What must hold for every value but NULL, by the last part of the constraint's name."""
    if spec.values is not None:
        yield "values", column.in_([parse_value(spec.type, value) for value in spec.values])
    if spec.min is not None:
        yield "min", column >= parse_value(spec.type, spec.min)
    if spec.max is not None:
        yield "max", column <= parse_value(spec.type, spec.max)
    if spec.min_length is not None:
        yield "min_length", func.char_length(column) >= spec.min_length
    if spec.max_length is not None:
        yield "max_length", func.char_length(column) <= spec.max_length
    if spec.pattern is not None:
        yield (
            "pattern",
            column.op("~", is_comparison=True)(parse_pattern(spec.pattern).regex),
        )
    if spec.luhn is not None:
        holds = func.atdm.luhn_holds(column)
        yield "luhn", holds if spec.luhn == "valid" else ~holds
    if marker is not None and marker.starts_with is not None:
        yield "marker", func.starts_with(column, marker.starts_with)
    if marker is not None and marker.equals is not None:
        yield "marker", column == marker.equals


def _literal(condition: str) -> str:
    """A condition of a table file as SQLAlchemy text: a colon in it starts no parameter."""
    return condition.replace(":", "\\:")


def _type(kind: ColumnKind) -> TypeEngine[Any]:
    element = Numeric(kind.precision, kind.scale) if kind.base == "numeric" else _TYPES[kind.base]
    return ARRAY(element) if kind.array else element
