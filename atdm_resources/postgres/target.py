"""The target and whether it may be written to.

Light: every command imports this.
"""

from __future__ import annotations

import re
from typing import Any

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.local import postgres_server
from atdm_resources.settings import Settings

_REAL_NAMES = {"prod", "production", "prd", "live"}


def database_url(settings: Settings) -> str:
    """The target's URL: ATDM_DATABASE_URL, else the embedded server's, started if needed."""
    return settings.database_url or postgres_server.start(settings.home)


def ensure_disposable(conn: psycopg.Connection[Any]) -> None:
    """Require that ``initialise`` has marked the database under its present name.

    Raises:
        AtdmError: TARGET_NOT_INITIALISED without schema atdm or the right to read it;
            TARGET_NOT_DISPOSABLE without the mark. A copy of a marked database has none, because
            the mark names the original.
    """
    database = current_database(conn)
    refuse_real_name(database)
    try:
        row = conn.execute("SELECT database_name FROM atdm.target").fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise AtdmError(
            ErrorCode.TARGET_NOT_INITIALISED,
            f"database {database} is not set up; run atdm init",
            {"database": database},
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        user = conn.info.user
        raise AtdmError(
            ErrorCode.TARGET_NOT_INITIALISED,
            f"user {user} may not use ATDM's catalog in database {database}: "
            f"{error.diag.message_primary}",
            {
                "database": database,
                "user": user,
                "hint": "Connect as the role that ran `atdm init`, which owns schema atdm.",
            },
        ) from error
    if row is None or row[0] != database:
        raise _not_disposable(
            database, f"database {database} is not marked disposable; run atdm init"
        )


def current_database(conn: psycopg.Connection[Any]) -> str:
    """The name of the database that ``conn`` is connected to."""
    row = conn.execute("SELECT current_database()").fetchone()
    assert row is not None
    return str(row[0])


def reason_to_mark(
    conn: psycopg.Connection[Any], database: str, disposable: str | None
) -> str | None:
    """``empty`` or ``named`` when the database may be marked now, None when it is marked already.

    Raises:
        AtdmError: TARGET_NOT_DISPOSABLE for a database with a name like ``prod``, or one that holds
            tables that ATDM did not make and is not named by ``disposable``.
    """
    refuse_real_name(database)
    if disposable is not None and disposable != database:
        raise _not_disposable(
            database, f"--disposable {disposable}: the database is called {database}"
        )
    there = conn.execute("SELECT to_regclass('atdm.target') IS NOT NULL").fetchone()
    if there is not None and there[0]:
        row = conn.execute("SELECT database_name FROM atdm.target").fetchone()
        if row is not None and row[0] == database:
            return None
    if disposable is not None:
        return "named"
    foreign = [name for (name,) in conn.execute(_FOREIGN_TABLES)]
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if foreign[5:] else "")
        raise _not_disposable(
            database,
            f"database {database} holds tables that ATDM did not make ({shown}); if it may be "
            f"written to and reset, say so: atdm init --disposable {database}",
            foreign,
        )
    return "empty"


def refuse_real_name(database: str) -> None:
    """Raise AtdmError TARGET_NOT_DISPOSABLE for a database with a name like ``prod``."""
    if _REAL_NAMES & set(re.split(r"[^a-z]+", database.lower())):
        raise _not_disposable(
            database,
            f"database {database} is called like a real one; ATDM never writes to such a database",
        )


def _not_disposable(database: str, message: str, tables: list[str] | None = None) -> AtdmError:
    details: dict[str, Any] = {"database": database}
    if tables:
        details["tables"] = tables[:50]
    return AtdmError(ErrorCode.TARGET_NOT_DISPOSABLE, message, details)


_FOREIGN_TABLES = """
SELECT n.nspname || '.' || c.relname
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'atdm')
  AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                  WHERE d.classid = 'pg_catalog.pg_class'::regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""
