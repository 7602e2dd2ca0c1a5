"""The sealed trail as Parquet in the store (requirement A-AUD-18).

Folders are ``audit/dt=YYYY-MM-DD/``, by the day of the event.

A range of seals is recorded before and after its files are written: after an interruption the same
range is written again, over the same names. A file holds each event's canonical text and
hash, so that a copy of the folder can be verified without the database.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from atdm_resources.store.files import Store

FOLDER = "audit"
RANGE = 100_000
"""Events of one export, all in memory at once."""

_COLUMNS = (
    "seal_number", "event_id", "at", "action", "status", "domain", "scenario_id", "request_id",
    "test_run_id", "invoker", "source", "inputs", "tools_called", "outputs", "schema_version",
    "canonical", "hash",
)  # fmt: skip


def export(conn: psycopg.Connection[Any], store: Store, *, before: date | None = None) -> list[str]:
    """Write sealed events that are not exported yet; returns the paths of the files.

    ``before`` excludes events that were sealed on that day (UTC) or later, so that a daemon writes
    one file a day; None exports everything, as at the end of a session without a daemon.
    ``conn`` must be in autocommit mode.
    """
    written: list[str] = []
    while True:
        with conn.transaction():
            free = conn.execute(
                "SELECT pg_try_advisory_xact_lock(hashtextextended('atdm.export', 0))"
            ).fetchone()
            if free is None or not free[0]:
                return written
            edges = _next_range(conn, before)
            if edges is None:
                return written
        with conn.transaction():
            # The lock again, until the files are written: two exporters would write the same file.
            conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('atdm.export', 0))")
            files = _write(conn, store, *edges)
            conn.execute(
                "UPDATE atdm.audit_export SET files = %s, exported_at = clock_timestamp()"
                " WHERE first_seal = %s",
                (Jsonb(files), edges[0]),
            )
        written += [file["path"] for file in files]


def _next_range(conn: psycopg.Connection[Any], before: date | None) -> tuple[int, int] | None:
    """The started range, else a new one; None if there is nothing to export."""
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
        (limit, limit, RANGE),
    ).fetchone()
    return None if row is None else (row[0], row[1])


def _write(
    conn: psycopg.Connection[Any], store: Store, first: int, last: int
) -> list[dict[str, Any]]:
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
    days: dict[date, list[dict[str, Any]]] = {}
    for row in rows:
        row["at"] = row["at"].replace(tzinfo=UTC)
        days.setdefault(row["at"].date(), []).append(row)
    return [
        _write_day(store, f"{FOLDER}/dt={day:%Y-%m-%d}/events-{first}-{last}.parquet", events)
        for day, events in sorted(days.items())
    ]


def _write_day(store: Store, path: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    import pyarrow as pa

    from atdm_resources.store.parquet import write_table

    types = {
        "seal_number": pa.int64(),
        "event_id": pa.int64(),
        "at": pa.timestamp("us", tz="UTC"),
        "schema_version": pa.int32(),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name in _COLUMNS])
    write_table(store, path, pa.Table.from_pylist(events, schema=schema))
    return {"path": path, "rows": len(events)}
