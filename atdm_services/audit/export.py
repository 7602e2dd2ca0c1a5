"""The sealed trail as Parquet in the store (requirement A-AUD-18).

Folders are ``audit/dt=YYYY-MM-DD/``, by the day of the event.

A range of seals is recorded before and after its files are written: after an interruption the same
range is written again, over the same names. A file holds each event's canonical text and
hash, so that a copy of the folder can be verified without the database.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import psycopg

from atdm_resources.catalog import exports
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
            if not exports.locked(conn, wait=False):
                return written
            edges = exports.next_range(conn, before, RANGE)
            if edges is None:
                return written
        with conn.transaction():
            # The lock again, until the files are written: two exporters would write the same file.
            exports.locked(conn, wait=True)
            files = _write(conn, store, *edges)
            exports.finish(conn, edges[0], files)
        written += [file["path"] for file in files]


def _write(
    conn: psycopg.Connection[Any], store: Store, first: int, last: int
) -> list[dict[str, Any]]:
    days: dict[date, list[dict[str, Any]]] = {}
    for event in exports.sealed_events(conn, first, last):
        days.setdefault(event["at"].date(), []).append(event)
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
