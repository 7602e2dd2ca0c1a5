"""The history of schema ``atdm``: Alembic migrations and the SQL files that they run.

Belongs here: versions, each with its files under ``sql/``, never changed once released. The text of
the catalog's functions stands in ``postgres/functions``: a version that changes one runs them all
again. Does not belong here: the tables of domains, which follow their files (``ddl``).
"""

from __future__ import annotations

import threading
from importlib.resources import files
from importlib.resources.abc import Traversable

import psycopg
from sqlalchemy import Connection, text

from atdm_engine.errors import AtdmError, ErrorCode

VERSION_TABLE = "alembic_version"
SCHEMA = "atdm"
_ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps what it works on in variables of its modules."""
_BEFORE_SQUASH = "0009"
"""The last of nine versions that were made into one before the first release."""


def run_file(connection: Connection, name: str) -> None:
    """Run one file of ``sql/``."""
    _run(connection, files(__package__) / "sql" / name)


def run_functions(connection: Connection) -> None:
    """Create or replace the catalog's functions, and set who may call them."""
    # Functions call each other, in any order.
    connection.execute(text("SET LOCAL check_function_bodies = off"))
    for file in (files("atdm_resources.postgres") / "functions").iterdir():
        _run(connection, file)
    run_file(connection, "rights.sql")


def _run(connection: Connection, file: Traversable) -> None:
    """Run a file as it stands; percent signs and colons mean nothing special."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("migrations run on psycopg 3 connections")
    driver.execute(file.read_text(encoding="utf-8").encode())


def upgrade(connection: Connection) -> None:
    """Bring schema ``atdm`` to the newest version, inside the transaction of ``connection``.

    Raises AtdmError TARGET_DRIFT for a catalog of a version that is not known.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(files(__package__)))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    options = {"version_table": VERSION_TABLE, "version_table_schema": SCHEMA}
    version = MigrationContext.configure(connection, opts=options).get_current_revision()
    if version == _BEFORE_SQUASH:
        run_file(connection, "0001_from_0009.sql")
        run_functions(connection)
        return
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if version not in {None, *known}:
        raise AtdmError(
            ErrorCode.TARGET_DRIFT,
            f"the catalog has version {version}, which this ATDM does not know: use the ATDM that "
            "made it, or drop schema atdm and the schemas of the domains, then run atdm init",
            {"version": version, "known": sorted(known)},
        )
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")
