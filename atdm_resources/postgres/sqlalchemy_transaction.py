"""A transaction of a psycopg connection that SQLAlchemy and Alembic take part in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy.pool import StaticPool


@contextmanager
def sqlalchemy_transaction(conn: psycopg.Connection[Any]) -> Iterator[sqlalchemy.Connection]:
    """``conn`` as an SQLAlchemy connection in a transaction that ends with the block."""
    autocommit = conn.autocommit
    conn.autocommit = False
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: conn, poolclass=StaticPool
    )
    try:
        # Begun here: Alembic would begin and commit one of its own, and release the lock with it.
        with engine.begin() as connection:
            yield connection
    except BaseException:
        if not conn.closed:
            conn.rollback()
        raise
    finally:
        if not conn.closed:
            conn.autocommit = autocommit
