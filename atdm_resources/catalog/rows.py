"""Rows that a query selects, as mappings.

Light: psycopg and the standard library alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from atdm_resources.postgres.owner_rights import catalog_needed


def rows(conn: psycopg.Connection[Any], query: str, values: Any = None) -> list[dict[str, Any]]:
    """The rows of a query as mappings; times in UTC, in any time zone of the session.

    Raises:
        AtdmError: TARGET_NOT_INITIALISED without a catalog, and for a user who may not read it.
    """
    with catalog_needed(conn, "what you ask for"), conn.cursor(row_factory=dict_row) as cursor:
        found: Sequence[dict[str, Any]] = cursor.execute(query.encode(), values).fetchall()
    return [{name: _utc(value) for name, value in row.items()} for row in found]


def _utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def one_state(conn: psycopg.Connection[Any]) -> None:
    """Make the transaction, which has just begun, read-only and read one consistent state."""
    conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
