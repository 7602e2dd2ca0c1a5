"""Bringing schema ``atdm`` and the domains into a target: what ``atdm init`` does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import sqlalchemy
from psycopg import sql
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import CreateSchema, DropSchema

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.model import Domain
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_resources import migrations
from atdm_resources.catalog.scenarios import publish
from atdm_resources.postgres.copy_csv import copy_csv
from atdm_resources.postgres.ddl import domain_tables
from atdm_resources.postgres.drift import differences, shapes
from atdm_resources.postgres.target import current_database, reason_to_mark

CLIENT_ROLE = "atdm_client"
CLIENT_FUNCTIONS = (
    "lease",
    "lease_request",
    "record_fixtures",
    "reset_run",
    "reset_owner",
    "expire_due",
    "submit",
    "submission_status",
    "claim",
    "record_outcomes",
)

_SCRATCH = "atdm_expected"
_RESERVED = re.compile(r"^(?:pg_.*|public|information_schema|atdm|atdm_expected)$")


@dataclass
class InitReport:
    """What ``initialise`` did; everything empty when there was nothing to do."""

    database: str
    marked: str | None = None
    migrated: bool = False
    tables: list[str] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
    reference_rows: dict[str, int] = field(default_factory=dict)
    scenarios: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return bool(
            self.marked
            or self.migrated
            or self.tables
            or self.rebuilt
            or self.reference_rows
            or self.scenarios
        )


def initialise(
    conn: psycopg.Connection[Any],
    registry: Registry,
    disposable: str | None = None,
    *,
    rebuild: bool = False,
) -> InitReport:
    """Bring the target to what ``registry`` says, in one transaction; again and it changes nothing.

    Marks the database disposable: by itself when it is empty, else only when ``disposable`` is its
    name, spelled out. Then: migrations of schema ``atdm``, role ``atdm_client`` (where this user
    may make roles), a schema a domain with its tables, reference rows (inserted, or compared row by
    row), publication of the scenarios. ``rebuild`` drops and makes again the tables of a domain
    that have drifted, as long as they hold no row of a test run.

    Raises:
        AtdmError: TARGET_NOT_DISPOSABLE; TARGET_DRIFT naming every difference;
            TARGET_NOT_INITIALISED when this user lacks a right.
    """
    for name in registry.domains:
        if _RESERVED.match(name):
            raise AtdmError(
                ErrorCode.SPEC_INVALID,
                f"a domain cannot be called {name!r}: it would be a schema of that name",
                {"domain": name},
            )
    database = current_database(conn)
    report = InitReport(database)
    with one_transaction(conn) as connection:
        conn.execute("SET LOCAL lock_timeout = '60s'")
        conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('atdm.initialise', 0))")
        because = reason_to_mark(conn, database, disposable)
        try:
            _migrate(conn, connection, report)
            if because:
                _mark(conn, database, because, registry.default_domain)
                report.marked = because
            conn.execute(
                "UPDATE atdm.target SET default_domain = %s WHERE default_domain <> %s",
                (registry.default_domain, registry.default_domain),
            )
            for domain in registry.domains.values():
                _bring_in(conn, connection, domain, report, rebuild=rebuild)
            _grant_to_clients(conn, report)
        except (psycopg.errors.InsufficientPrivilege, sqlalchemy.exc.ProgrammingError) as error:
            cause = error.orig if isinstance(error, sqlalchemy.exc.ProgrammingError) else error
            if not isinstance(cause, psycopg.errors.InsufficientPrivilege):
                raise
            raise AtdmError(
                ErrorCode.TARGET_NOT_INITIALISED,
                f"this user may not set up database {database}: {cause}; as its owner: "
                f"GRANT CREATE, TEMPORARY ON DATABASE {database} TO {conn.info.user}",
                {"database": database, "user": conn.info.user},
            ) from error
    return report


@contextmanager
def one_transaction(conn: psycopg.Connection[Any]) -> Iterator[sqlalchemy.Connection]:
    """``conn`` as an SQLAlchemy connection in a transaction that ends with the block."""
    autocommit = conn.autocommit
    conn.autocommit = False
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: conn, poolclass=StaticPool
    )
    try:
        # Begun here: Alembic would begin and commit one of its own, and end the lock with it.
        with engine.begin() as connection:
            yield connection
    except BaseException:
        if not conn.closed:
            conn.rollback()
        raise
    finally:
        if not conn.closed:
            conn.autocommit = autocommit


def _exists(conn: psycopg.Connection[Any], relation: str) -> bool:
    row = conn.execute("SELECT to_regclass(%s) IS NOT NULL", (relation,)).fetchone()
    return bool(row and row[0])


def _migrate(
    conn: psycopg.Connection[Any], connection: sqlalchemy.Connection, report: InitReport
) -> None:
    version = sql.SQL("SELECT version_num FROM {}").format(
        sql.Identifier(migrations.SCHEMA, migrations.VERSION_TABLE)
    )
    before = None
    if _exists(conn, f"{migrations.SCHEMA}.{migrations.VERSION_TABLE}"):
        before = conn.execute(version).fetchone()
    else:
        connection.execute(CreateSchema(migrations.SCHEMA, if_not_exists=True))
    migrations.upgrade(connection)
    report.migrated = conn.execute(version).fetchone() != before


def _mark(conn: psycopg.Connection[Any], database: str, because: str, default_domain: str) -> None:
    conn.execute(
        "INSERT INTO atdm.target (database_name, disposable_because, default_domain)"
        " VALUES (%s, %s, %s) ON CONFLICT (only_row) DO UPDATE SET"
        " database_name = excluded.database_name, marked_at = now(),"
        " disposable_because = excluded.disposable_because,"
        " default_domain = excluded.default_domain",
        (database, because, default_domain),
    )


def _bring_in(
    conn: psycopg.Connection[Any],
    connection: sqlalchemy.Connection,
    domain: Domain,
    report: InitReport,
    *,
    rebuild: bool,
) -> None:
    """Schema, tables, reference rows and scenarios of one domain.

    What is expected is made in a scratch schema first: PostgreSQL itself then says how it writes
    each definition, and checks the reference rows.
    """
    if connection.execute(sqlalchemy.text(_HAS_SCHEMA), {"name": domain.name}).first() is None:
        connection.execute(CreateSchema(domain.name))
    connection.execute(CreateSchema(_SCRATCH))
    domain_tables(domain, _SCRATCH).create_all(connection, checkfirst=False)
    expected = shapes(conn, _SCRATCH)
    actual = shapes(conn, domain.name)
    tables = domain_tables(domain)
    drifted = list(differences(expected, actual))
    if drifted:
        _resolve_drift(conn, connection, domain, drifted, rebuild=rebuild)
        report.rebuilt.append(domain.name)
        actual = {}
    missing = [table for table in tables.sorted_tables if table.name not in actual]
    tables.create_all(connection, tables=missing, checkfirst=False)
    report.tables += [f"{domain.name}.{table.name}" for table in missing]
    conn.execute(
        "INSERT INTO atdm.domain (domain) VALUES (%s) ON CONFLICT DO NOTHING", (domain.name,)
    )
    for order, name in enumerate(domain.tables):
        conn.execute(
            "INSERT INTO atdm.domain_table AS d (domain, table_name, schema_name, load_order)"
            " VALUES (%s, %s, %s, %s) ON CONFLICT (domain, table_name) DO UPDATE"
            " SET load_order = excluded.load_order WHERE d.load_order <> excluded.load_order",
            (domain.name, name, domain.name, order),
        )
    _bring_in_reference(conn, domain, report)
    connection.execute(DropSchema(_SCRATCH, cascade=True))
    report.scenarios += publish(conn, domain)


def _resolve_drift(
    conn: psycopg.Connection[Any],
    connection: sqlalchemy.Connection,
    domain: Domain,
    drifted: list[str],
    *,
    rebuild: bool,
) -> None:
    """Drop the domain's tables if that was asked for and costs nothing, else refuse."""
    held = [
        name
        for name, shape in shapes(conn, domain.name).items()
        if name in domain.tables
        and RUN_COLUMN in shape.columns
        and conn.execute(
            sql.SQL("SELECT 1 FROM {} WHERE {} IS NOT NULL LIMIT 1").format(
                sql.Identifier(domain.name, name), sql.Identifier(RUN_COLUMN)
            )
        ).fetchone()
    ]
    if not rebuild or held:
        way_out = (
            f"rows of test runs are in {', '.join(held)}: reset them first (atdm reset-all)"
            if held
            else "no test run has rows there: atdm init --rebuild makes the tables again"
        )
        listed = "\n".join(f"  {domain.name}.{line}" for line in drifted)
        raise AtdmError(
            ErrorCode.TARGET_DRIFT,
            f"{len(drifted)} differences between the table files and the database:\n{listed}\n"
            + way_out,
            {"domain": domain.name, "differences": drifted, "rebuild_possible": not held},
        )
    outside = conn.execute(_REFERENCES_FROM_OUTSIDE, {"schema": domain.name}).fetchall()
    if outside:
        named = ", ".join(f"{table} ({constraint})" for table, constraint in outside)
        raise AtdmError(
            ErrorCode.TARGET_DRIFT,
            f"the tables of {domain.name} cannot be made again: {named} refer to them",
            {"domain": domain.name, "references": [list(row) for row in outside]},
        )
    existing = shapes(conn, domain.name)
    names = [sql.Identifier(domain.name, name) for name in domain.tables if name in existing]
    conn.execute(sql.SQL("DROP TABLE {}").format(sql.SQL(", ").join(names)))


def _bring_in_reference(conn: psycopg.Connection[Any], domain: Domain, report: InitReport) -> None:
    """Insert the reference rows that are missing; a row that differs is drift, named."""
    drifted: list[str] = []
    for name, rows in domain.reference.items():
        columns = sql.SQL(", ").join(sql.Identifier(column) for column in rows.column_names)
        keys = [sql.Identifier(column) for column in domain.tables[name].key_columns]
        parts = {
            "scratch": sql.Identifier(_SCRATCH, name),
            "table": sql.Identifier(domain.name, name),
            "columns": columns,
            "keys": sql.SQL(", ").join(keys),
            "run": sql.Identifier(RUN_COLUMN),
        }
        statement = sql.SQL("COPY {scratch} ({columns}) FROM STDIN (FORMAT csv)").format(**parts)
        with conn.cursor().copy(statement) as copy:
            copy.write(copy_csv(rows))
        inserted = conn.execute(
            sql.SQL(
                "INSERT INTO {table} ({columns}) SELECT {columns} FROM {scratch}"
                " ON CONFLICT ({keys}) DO NOTHING"
            ).format(**parts)
        ).rowcount
        if inserted:
            report.reference_rows[f"{domain.name}.{name}"] = inserted
        differing = conn.execute(
            sql.SQL(
                "SELECT to_jsonb(s), to_jsonb(t) FROM {scratch} AS s JOIN {table} AS t"
                " USING ({keys}) WHERE s.* IS DISTINCT FROM t.*"
            ).format(**parts)
        )
        for wanted, found in differing:
            key = ", ".join(str(wanted[column]) for column in domain.tables[name].key_columns)
            for column in wanted:
                if wanted[column] != found[column]:
                    drifted.append(
                        f"{name} {key}: {column} is {found[column]!r}, expected {wanted[column]!r}"
                    )
    if drifted:
        listed = "\n".join(f"  {domain.name}.{line}" for line in drifted)
        raise AtdmError(
            ErrorCode.TARGET_DRIFT,
            f"{len(drifted)} differences between the reference files and the database:\n{listed}",
            {"domain": domain.name, "differences": drifted, "rebuild_possible": False},
        )


def _grant_to_clients(conn: psycopg.Connection[Any], report: InitReport) -> None:
    """Let role atdm_client call what a lease and a reset need, and nothing else."""
    client = sql.Identifier(CLIENT_ROLE)
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = %s),"
        " (SELECT rolcreaterole OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)",
        (CLIENT_ROLE,),
    ).fetchone()
    assert row is not None
    there, may_create = row
    if not there and not may_create:
        report.notes.append(
            f"role {CLIENT_ROLE} was not made: this user has no right to make roles; "
            "only the owner of schema atdm can lease"
        )
        return
    if not there:
        try:
            with conn.transaction():
                conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(client))
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            # Roles belong to the whole server: another database's init was faster.
            report.notes.append(f"role {CLIENT_ROLE} was made by somebody else meanwhile")
    conn.execute(sql.SQL("GRANT USAGE ON SCHEMA atdm TO {}").format(client))
    for (signature,) in conn.execute(
        "SELECT p.oid::regprocedure::text FROM pg_catalog.pg_proc AS p"
        " JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace"
        " WHERE n.nspname = 'atdm' AND p.proname = ANY (%s)"
        " AND NOT pg_catalog.has_function_privilege(%s, p.oid, 'EXECUTE')",
        (list(CLIENT_FUNCTIONS), CLIENT_ROLE),
    ).fetchall():
        # The text is PostgreSQL's own name of the function, quoted where that is needed.
        conn.execute(
            sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.SQL(signature), client)
        )


_HAS_SCHEMA = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = :name"
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
