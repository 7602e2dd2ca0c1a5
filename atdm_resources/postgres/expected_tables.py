"""The tables of a domain as its table files define them, compared with those in the database.

The expected tables are made in a scratch schema: PostgreSQL itself then writes their definitions,
and checks the reference rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg import sql
from sqlalchemy import Connection
from sqlalchemy.schema import CreateSchema, DropSchema

from atdm_engine.model import Domain
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_resources.postgres.copy_csv import copy_csv
from atdm_resources.postgres.ddl import domain_tables
from atdm_resources.postgres.drift import differences, shapes

SCRATCH: Final = "atdm_expected"


class ExpectedTables:
    """The tables of ``domain`` in the scratch schema, in the transaction of the caller.

    ``connection`` is SQLAlchemy's view of ``conn`` (``sqlalchemy_transaction``).
    """

    def __init__(
        self, conn: psycopg.Connection[Any], connection: Connection, domain: Domain
    ) -> None:
        self._conn = conn
        self._connection = connection
        self._domain = domain
        connection.execute(CreateSchema(SCRATCH))
        domain_tables(domain, SCRATCH).create_all(connection, checkfirst=False)
        self._expected = shapes(conn, SCRATCH)
        self._actual = shapes(conn, domain.name)

    def missing(self) -> list[str]:
        """Tables of the domain that the database lacks, sorted."""
        return sorted(self._expected.keys() - self._actual.keys())

    def drift(self) -> list[str]:
        """How the tables that are there differ from their table files (``drift.differences``)."""
        return list(differences(self._expected, self._actual))

    def tables_with_runs(self) -> list[str]:
        """The tables that hold rows of test runs."""
        held = []
        for name, shape in self._actual.items():
            if name in self._expected and RUN_COLUMN in shape.columns:
                query = sql.SQL("SELECT FROM {} WHERE {} IS NOT NULL LIMIT 1").format(
                    sql.Identifier(self._domain.name, name), sql.Identifier(RUN_COLUMN)
                )
                if self._conn.execute(query).fetchone() is not None:
                    held.append(name)
        return held

    def references_from_outside(self) -> list[tuple[str, str]]:
        """Foreign keys of other schemas that lead to the domain's tables: table, constraint."""
        schema = self._domain.name
        return self._conn.execute(_REFERENCES_FROM_OUTSIDE, {"schema": schema}).fetchall()

    def drop_actual(self) -> None:
        """Drop the tables of the domain that are there."""
        names = [
            sql.Identifier(self._domain.name, name) for name in self._expected.keys() & self._actual
        ]
        self._conn.execute(sql.SQL("DROP TABLE {}").format(sql.SQL(", ").join(names)))
        self._actual = {}

    def create_missing(self) -> list[str]:
        """Create the tables that the database lacks; their names in the order of creation."""
        tables = domain_tables(self._domain)
        created = [table for table in tables.sorted_tables if table.name not in self._actual]
        tables.create_all(self._connection, tables=created, checkfirst=False)
        return [table.name for table in created]

    def insert_reference(self, table: str, rows: pa.Table) -> int:
        """Insert the reference rows of a table that the database lacks; returns how many."""
        parts = self._parts(table, rows.column_names)
        statement = sql.SQL("COPY {scratch} ({columns}) FROM STDIN (FORMAT csv)").format(**parts)
        with self._conn.cursor().copy(statement) as copy:
            copy.write(copy_csv(rows))
        return self._conn.execute(
            sql.SQL(
                "INSERT INTO {table} ({columns}) SELECT {columns} FROM {scratch}"
                " ON CONFLICT ({keys}) DO NOTHING"
            ).format(**parts)
        ).rowcount

    def reference_drift(self, table: str) -> list[str]:
        """Differences between the reference rows of a table and those in the database."""
        keys = self._domain.tables[table].key_columns
        differing = self._conn.execute(
            sql.SQL(
                "SELECT to_jsonb(s), to_jsonb(t) FROM {scratch} AS s JOIN {table} AS t"
                " USING ({keys}) WHERE s.* IS DISTINCT FROM t.*"
            ).format(**self._parts(table))
        )
        return [
            f"{table} {', '.join(str(wanted[key]) for key in keys)}: "
            f"{column} is {found[column]!r}, expected {wanted[column]!r}"
            for wanted, found in differing
            for column in wanted
            if wanted[column] != found[column]
        ]

    def drop(self) -> None:
        """Drop the scratch schema."""
        self._connection.execute(DropSchema(SCRATCH, cascade=True))

    def _parts(self, table: str, columns: Sequence[str] = ()) -> dict[str, sql.Composable]:
        keys = self._domain.tables[table].key_columns
        return {
            "scratch": sql.Identifier(SCRATCH, table),
            "table": sql.Identifier(self._domain.name, table),
            "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
            "keys": sql.SQL(", ").join(map(sql.Identifier, keys)),
        }


def create_schema(conn: psycopg.Connection[Any], name: str) -> bool:
    """Create a schema unless it is there; False when it is.

    It is looked for first: CREATE SCHEMA IF NOT EXISTS needs the right to create one even then.
    """
    query = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s"
    if conn.execute(query, (name,)).fetchone() is not None:
        return False
    conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    return True


_REFERENCES_FROM_OUTSIDE = """
SELECT k.conrelid::regclass::text, k.conname::text
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS p ON p.oid = k.confrelid
JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace
WHERE k.contype = 'f' AND pn.nspname = %(schema)s AND cn.nspname <> %(schema)s
ORDER BY 1, 2
"""
