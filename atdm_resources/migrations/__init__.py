"""The history of schema ``atdm``: Alembic migrations and the SQL files that they load.

Belongs here: versions, each with its files under ``sql/`` (never changed once released: a change is
a new version). Does not belong here: the tables of domains, which follow their files (``ddl``).
"""

from __future__ import annotations

import threading
from importlib.resources import files

import psycopg
from sqlalchemy import Connection

VERSION_TABLE = "alembic_version"
SCHEMA = "atdm"
_ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps what it works on in variables of its modules."""


def run_file(connection: Connection, name: str) -> None:
    """Run one file of ``sql/`` as it stands; percent signs and colons mean nothing special."""
    text = files(__package__).joinpath("sql", name).read_text(encoding="utf-8")
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("migrations run on psycopg 3 connections")
    driver.execute(text.encode())


def upgrade(connection: Connection) -> None:
    """Bring schema ``atdm`` to the newest version, inside the transaction of ``connection``."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files(__package__)))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")
