"""Setting the catalog up in a target: migrations, mark, domains, and the role of clients."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import Connection

from atdm_engine.model import Domain
from atdm_resources import migrations
from atdm_resources.postgres.expected_tables import create_schema

CLIENT_ROLE: Final = "atdm_client"
CLIENT_FUNCTIONS: Final = (
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


def lock_setup(conn: psycopg.Connection[Any]) -> None:
    """Wait for other setups of this target, and keep them out until the transaction ends."""
    conn.execute("SET LOCAL lock_timeout = '60s'")
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('atdm.initialise', 0))")


def migrate(conn: psycopg.Connection[Any], connection: Connection) -> bool:
    """Bring schema ``atdm`` to the newest version; whether anything changed."""
    before = _version(conn)
    if before is None:
        create_schema(conn, migrations.SCHEMA)
    migrations.upgrade(connection)
    return _version(conn) != before


def _version(conn: psycopg.Connection[Any]) -> str | None:
    table = sql.Identifier(migrations.SCHEMA, migrations.VERSION_TABLE)
    there = conn.execute("SELECT to_regclass(%s)", (table.as_string(conn),)).fetchone()
    if there is None or there[0] is None:
        return None
    row = conn.execute(sql.SQL("SELECT version_num FROM {}").format(table)).fetchone()
    return None if row is None else str(row[0])


def mark_disposable(
    conn: psycopg.Connection[Any], database: str, because: str, default_domain: str
) -> None:
    """Mark the database as one that ATDM may write to; ``because`` is ``empty`` or ``named``."""
    conn.execute(
        "INSERT INTO atdm.target (database_name, disposable_because, default_domain)"
        " VALUES (%s, %s, %s) ON CONFLICT (only_row) DO UPDATE SET"
        " database_name = excluded.database_name, marked_at = now(),"
        " disposable_because = excluded.disposable_because,"
        " default_domain = excluded.default_domain",
        (database, because, default_domain),
    )


def set_default_domain(conn: psycopg.Connection[Any], domain: str) -> None:
    """Set the domain that a scenario without one is looked up in."""
    conn.execute(
        "UPDATE atdm.target SET default_domain = %s WHERE default_domain <> %s", (domain, domain)
    )


def record_domain(conn: psycopg.Connection[Any], domain: Domain) -> None:
    """Record a domain and the loading order of its tables."""
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


def grant_to_clients(conn: psycopg.Connection[Any]) -> str | None:
    """Let role atdm_client call what a lease and a reset need, and nothing else.

    Creates the role. Returns a note for the operator when this user may not, or when another
    database's setup was faster.
    """
    client = sql.Identifier(CLIENT_ROLE)
    note = None
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = %s),"
        " (SELECT rolcreaterole OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)",
        (CLIENT_ROLE,),
    ).fetchone()
    assert row is not None
    there, may_create = row
    if not there:
        if not may_create:
            return (
                f"role {CLIENT_ROLE} was not made: this user has no right to make roles; "
                "only the owner of schema atdm can lease"
            )
        try:
            with conn.transaction():
                conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(client))
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            # Roles belong to the whole server.
            note = f"role {CLIENT_ROLE} was made by another process meanwhile"
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
    return note
