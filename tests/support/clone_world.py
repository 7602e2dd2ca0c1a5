"""Databases that tests have cloned: which there are, and leaving none behind."""

from __future__ import annotations

import os
from typing import Any

import psycopg

from atdm_resources.catalog import clones
from atdm_resources.catalog.events import Actor
from atdm_services.clones import teardown


def databases(conn: psycopg.Connection[Any]) -> set[str]:
    """Those that bear the comment of this target."""
    rows = conn.execute(
        "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') = %s",
        (clones.comment_of(conn),),
    )
    return {name for (name,) in rows}


def dropped_after(conn: psycopg.Connection[Any]) -> None:
    """Leave nothing on a server that outlives the session; each drop costs a checkpoint."""
    if os.environ.get("ATDM_TEST_DATABASE_URL"):
        for database in databases(conn):
            teardown.drop(conn, database, because="test", actor=Actor("test", "test"))
        teardown.sweep(conn, thorough=True)
