"""Rows that resets left behind, which should be none: the evidence of ``zero_residue``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from atdm_resources.postgres.introspect import ForeignKey, foreign_keys

_KEYS_A_TABLE = 10_000


@dataclass(frozen=True, slots=True)
class Residue:
    """Rows by table that should not be there. ``tables`` is the number of tables read.

    ``bearing``: with the id of a run that is over. ``referring``: to a key that is gone.
    """

    bearing: dict[str, int] = field(default_factory=dict)
    referring: dict[str, int] = field(default_factory=dict)
    tables: int = 0

    @property
    def rows(self) -> int:
        return sum(self.bearing.values()) + sum(self.referring.values())


def keys_of_run(
    conn: psycopg.Connection[Any], domain: str, test_run_id: str
) -> dict[tuple[str, str], list[list[Any]]]:
    """What foreign keys may refer to in the rows of a run, by table and columns.

    Read before the run is reset, for ``residue_of_run``. At most 10,000 keys a table.
    """
    keys: dict[tuple[str, str], list[list[Any]]] = {}
    for reference in _references(conn, domain):
        place = _place(reference)
        if place in keys:
            continue
        columns = sql.SQL(", ").join(map(sql.Identifier, reference.parent_columns))
        query = sql.SQL("SELECT {} FROM {} WHERE test_run_id = %s LIMIT %s").format(
            columns, reference.parent
        )
        keys[place] = [
            list(row) for row in conn.execute(query, (test_run_id, _KEYS_A_TABLE)).fetchall()
        ]
    return keys


def residue_of_run(
    conn: psycopg.Connection[Any],
    domain: str,
    test_run_id: str,
    keys: Mapping[tuple[str, str], Sequence[Sequence[Any]]],
) -> Residue:
    """Rows that bear the run's id, in any table of the domain, or refer to one of its keys."""
    bearing: dict[str, int] = {}
    tables = _tables(conn, domain)
    for name, table in tables.items():
        query = sql.SQL("SELECT count(*) FROM {} WHERE test_run_id = %s").format(table)
        _note(bearing, name, _count(conn, query, (test_run_id,)))
    referring: dict[str, int] = {}
    references = _references(conn, domain)
    for reference in references:
        found = keys.get(_place(reference), ())
        if not found:
            continue
        columns = [sql.Identifier(column) for column in reference.columns]
        arrays = [list(values) for values in zip(*found, strict=True)]
        query = sql.SQL(
            "SELECT count(*) FROM {child} AS c JOIN ROWS FROM ({arrays}) AS k ({names}) ON {same}"
        ).format(
            child=reference.relation,
            # The types' names are PostgreSQL's own, quoted where that is needed.
            arrays=sql.SQL(", ").join(
                sql.SQL("unnest(%s::{}[])").format(sql.SQL(name)) for name in reference.types
            ),
            names=sql.SQL(", ").join(sql.Identifier(f"k{n}") for n in range(len(arrays))),
            same=sql.SQL(" AND ").join(
                sql.SQL("c.{} = k.{}").format(column, sql.Identifier(f"k{n}"))
                for n, column in enumerate(columns)
            ),
        )
        _note(referring, _child(reference), _count(conn, query, tuple(arrays)))
    children = {_child(reference) for reference in references}
    return Residue(bearing, referring, len({*tables, *children}))


def residue_of_domain(conn: psycopg.Connection[Any], domain: str) -> Residue:
    """Rows that bear the id of a run that is over or unknown, or refer to a key that is gone.

    Reads every table of the domain and every table that refers to one.
    """
    bearing: dict[str, int] = {}
    tables = _tables(conn, domain)
    for name, table in tables.items():
        query = sql.SQL(
            "SELECT count(*) FROM {} AS t WHERE t.test_run_id IS NOT NULL AND NOT EXISTS ("
            "SELECT FROM atdm.test_run AS r WHERE r.test_run_id = t.test_run_id"
            " AND r.status IN ('ready', 'leased'))"
        ).format(table)
        _note(bearing, name, _count(conn, query))
    referring: dict[str, int] = {}
    references = _references(conn, domain)
    for reference in references:
        pairs = list(zip(reference.parent_columns, reference.columns, strict=True))
        query = sql.SQL(
            "SELECT count(*) FROM {child} AS c WHERE {filled}"
            " AND NOT EXISTS (SELECT FROM {parent} AS p WHERE {same})"
        ).format(
            child=reference.relation,
            parent=reference.parent,
            filled=sql.SQL(" AND ").join(
                sql.SQL("c.{} IS NOT NULL").format(sql.Identifier(own)) for _, own in pairs
            ),
            same=sql.SQL(" AND ").join(
                sql.SQL("p.{} = c.{}").format(sql.Identifier(key), sql.Identifier(own))
                for key, own in pairs
            ),
        )
        _note(referring, _child(reference), _count(conn, query))
    children = {_child(reference) for reference in references}
    return Residue(bearing, referring, len({*tables, *children}))


def _tables(conn: psycopg.Connection[Any], domain: str) -> dict[str, sql.Identifier]:
    rows = conn.execute(
        "SELECT schema_name, table_name FROM atdm.domain_table WHERE domain = %s"
        " ORDER BY load_order",
        (domain,),
    ).fetchall()
    return {f"{schema}.{table}": sql.Identifier(schema, table) for schema, table in rows}


def _references(conn: psycopg.Connection[Any], domain: str) -> list[ForeignKey]:
    """The foreign keys to tables of the domain."""
    oids = [
        oid
        for (oid,) in conn.execute(
            "SELECT c.oid::bigint FROM atdm.domain_table AS d"
            " JOIN pg_catalog.pg_namespace AS n ON n.nspname = d.schema_name"
            " JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = d.table_name"
            " WHERE d.domain = %s",
            (domain,),
        )
    ]
    return [key for key in foreign_keys(conn, oids) if key.parent_oid in oids and not key.inherited]


def _place(reference: ForeignKey) -> tuple[str, str]:
    parent = f"{reference.parent_schema}.{reference.parent_table}"
    return parent, ",".join(reference.parent_columns)


def _child(reference: ForeignKey) -> str:
    return f"{reference.schema}.{reference.table}"


def _count(conn: psycopg.Connection[Any], query: sql.Composed, values: tuple[Any, ...] = ()) -> int:
    row = conn.execute(query, values).fetchone()
    assert row is not None
    return int(row[0])


def _note(counts: dict[str, int], name: str, rows: int) -> None:
    if rows:
        counts[name] = counts.get(name, 0) + rows
