"""Exported ranges of the sealed trail, and the events in them.

Light: psycopg and the standard library alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb


def locked(conn: psycopg.Connection[Any], *, wait: bool) -> bool:
    """Take the lock of exporters for this transaction; False if another one holds it."""
    if wait:
        conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('atdm.export', 0))")
        return True
    row = conn.execute(
        "SELECT pg_try_advisory_xact_lock(hashtextextended('atdm.export', 0))"
    ).fetchone()
    return row is not None and bool(row[0])


def next_range(
    conn: psycopg.Connection[Any], before: date | None, most: int
) -> tuple[int, int] | None:
    """The started range, else a new one of at most ``most`` seals; None if there is nothing.

    ``before`` excludes events that were sealed on that day (UTC) or later.
    """
    begun = conn.execute(
        "SELECT first_seal, last_seal FROM atdm.audit_export WHERE exported_at IS NULL"
        " ORDER BY first_seal LIMIT 1"
    ).fetchone()
    if begun is not None:
        return begun[0], begun[1]
    limit = None if before is None else datetime(before.year, before.month, before.day, tzinfo=UTC)
    row = conn.execute(
        "INSERT INTO atdm.audit_export (first_seal, last_seal)"
        " SELECT min(s.seal_number), max(s.seal_number) FROM ("
        "  SELECT seal_number FROM atdm.audit_seal"
        "  WHERE seal_number > (SELECT coalesce(max(last_seal), 0) FROM atdm.audit_export)"
        "  AND (%s::timestamptz IS NULL OR sealed_at < %s) ORDER BY seal_number LIMIT %s) AS s"
        " HAVING count(*) > 0 RETURNING first_seal, last_seal",
        (limit, limit, most),
    ).fetchone()
    return None if row is None else (row[0], row[1])


def sealed_events(conn: psycopg.Connection[Any], first: int, last: int) -> list[dict[str, Any]]:
    """The events of seals ``first`` to ``last`` as they are exported, in the order of the seals."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT s.seal_number, e.event_id, e.at AT TIME ZONE 'UTC' AS at, e.action, e.status,"
            " e.domain, e.scenario_id, e.request_id, e.test_run_id, e.invoker, e.source,"
            " e.inputs::text AS inputs, e.tools_called::text AS tools_called,"
            " e.outputs::text AS outputs, e.schema_version, atdm.canonical_event(e) AS canonical,"
            " encode(s.hash, 'hex') AS hash"
            " FROM atdm.audit_seal AS s JOIN atdm.audit_event AS e USING (event_id)"
            " WHERE s.seal_number BETWEEN %s AND %s ORDER BY s.seal_number",
            (first, last),
        ).fetchall()
    return [{**row, "at": row["at"].replace(tzinfo=UTC)} for row in rows]


def finish(
    conn: psycopg.Connection[Any], first_seal: int, files: Sequence[Mapping[str, Any]]
) -> None:
    """Record the files of a range, by its first seal: it is exported."""
    conn.execute(
        "UPDATE atdm.audit_export SET files = %s, exported_at = clock_timestamp()"
        " WHERE first_seal = %s",
        (Jsonb(files), first_seal),
    )


def finished(conn: psycopg.Connection[Any]) -> list[tuple[int, int, list[dict[str, Any]]]]:
    """Every exported range in order: first seal, last seal, files."""
    return conn.execute(
        "SELECT first_seal, last_seal, files FROM atdm.audit_export"
        " WHERE exported_at IS NOT NULL ORDER BY first_seal"
    ).fetchall()
