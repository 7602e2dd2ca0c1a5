"""State of target, store and Dagster for ``atdm status`` and the gauges.

Light: psycopg and the standard library; the store's libraries are loaded by ``probe_store`` alone.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import class_row, dict_row

if TYPE_CHECKING:
    from atdm_resources.store.files import Store

COUNTED_UP_TO = 10_000
"""Unsealed events are counted up to this number: without a daemon they pile up."""

PROBE = "status-probe"


def limit_statements(conn: psycopg.Connection[Any], milliseconds: int) -> None:
    """Cancel statements of this transaction after ``milliseconds``; 0: never.

    Only of this transaction: behind PgBouncer the next one on this session may be another client's.
    """
    if milliseconds:
        conn.execute(f"SET LOCAL statement_timeout = {int(milliseconds)}".encode())


@dataclass(frozen=True, slots=True)
class Work:
    """Leases, queue and trail at one moment; ages in seconds, None where there is nothing.

    Of the ``leased`` runs, ``overdue`` ones are past their time and ``stuck`` ones could not be
    reset. ``dead`` requests are pending without a process. ``waiting`` submissions are not started.
    ``unsealed`` is counted up to ``COUNTED_UP_TO``.
    """

    leased: int
    oldest_lease: float | None
    overdue: int
    most_overdue: float | None
    stuck: int
    pending: int
    dead: int
    waiting: int
    oldest_waiting: float | None
    launched: int
    unsealed: int
    oldest_unsealed: float | None
    server_up: float
    read_only: bool


def work(conn: psycopg.Connection[Any]) -> Work:
    """Leases, queue and trail now.

    Raises:
        psycopg.errors.UndefinedTable, UndefinedColumn: the catalog is of an older version.
        psycopg.errors.InsufficientPrivilege: this role may not read it.
    """
    with conn.cursor(row_factory=class_row(Work)) as cursor:
        found = cursor.execute(_WORK.encode(), {"most": COUNTED_UP_TO}).fetchone()
    assert found is not None
    return found


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool: its ready runs, its size, and why it is not filled.

    ``ready`` is counted up to ``size``. ``failures`` in a row; ``retry_in`` in seconds (None: now);
    ``filling`` is True while a request fills it.
    """

    domain: str
    scenario_id: str
    ready: int
    size: int
    filling: bool
    failures: int
    retry_in: float | None
    error: str | None

    @property
    def low(self) -> bool:
        """Whether it is below half of its size, where filling begins."""
        return self.ready < -(-self.size // 2)


def pool_states(conn: psycopg.Connection[Any]) -> list[PoolState]:
    """Every published pool."""
    with conn.cursor(row_factory=class_row(PoolState)) as cursor:
        return cursor.execute(_POOLS.encode()).fetchall()


@dataclass(frozen=True, slots=True)
class Instigator:
    """A sensor or a schedule as Dagster recorded it. Ages in seconds, None before the first tick.

    ``status`` is running or stopped, ``tick`` the last one: started, success, skipped, failure.
    """

    name: str
    kind: str
    status: str
    tick: str | None
    tick_age: float | None
    error: str | None


@dataclass(frozen=True, slots=True)
class DagsterState:
    """State in Dagster's tables. ``heartbeats`` are ages in seconds by kind of daemon."""

    heartbeats: dict[str, float]
    heartbeat_errors: dict[str, str]
    instigators: list[Instigator]


def dagster_state(conn: psycopg.Connection[Any]) -> DagsterState | None:
    """Heartbeats of the daemon, sensors and schedules; None before Dagster has made its tables.

    Reads the tables directly: loading Dagster takes longer than the whole report.
    """
    present = conn.execute(
        "SELECT to_regclass('daemon_heartbeats') IS NOT NULL"
        " AND to_regclass('instigators') IS NOT NULL AND to_regclass('job_ticks') IS NOT NULL"
    ).fetchone()
    if present is None or not present[0]:
        return None
    now = datetime.now(UTC).timestamp()
    ages: dict[str, float] = {}
    errors: dict[str, str] = {}
    for kind, body in conn.execute("SELECT daemon_type, body FROM daemon_heartbeats ORDER BY 1"):
        beat = json.loads(body)
        ages[kind] = max(0.0, now - beat["timestamp"])
        for error in beat.get("errors") or []:
            errors[kind] = _first_line(error.get("message"))
    found = []
    with conn.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(_INSTIGATORS.encode()):
            tick = json.loads(row["tick_body"]) if row["tick_body"] else {}
            body = json.loads(row["instigator_body"])
            found.append(
                Instigator(
                    name=body["origin"]["job_name"],
                    kind=row["instigator_type"].lower(),
                    status="stopped" if row["status"] == "STOPPED" else "running",
                    tick=row["tick"].lower() if row["tick"] else None,
                    tick_age=max(0.0, now - tick["timestamp"]) if tick else None,
                    error=_first_line((tick.get("error") or {}).get("message")) or None,
                )
            )
    return DagsterState(ages, errors, sorted(found, key=lambda item: (item.kind, item.name)))


def probe_store(store: Store) -> None:
    """Write, read and delete a small file. Raises AtdmError STORE_FAILED."""
    name = f"{PROBE}-{secrets.token_hex(8)}"
    store.write_bytes(name, name.encode())
    try:
        store.read_bytes(name)
    finally:
        store.delete_prefix(name)


def baselines(conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """The latest complete baseline of each domain: domain, baseline_id, kind, finished_at, age."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT DISTINCT ON (domain) domain, baseline_id, kind, finished_at,"
            " extract(epoch FROM now() - finished_at)::float8 AS age FROM atdm.baseline"
            " WHERE status = 'complete' ORDER BY domain, finished_at DESC"
        ).fetchall()


def clones(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """Numbers of clones by status, and of ``expired`` ones."""
    counts: dict[str, int] = {}
    for status, count, expired in conn.execute(
        "SELECT status, count(*), count(*) FILTER (WHERE expires_at < now())"
        " FROM atdm.clone WHERE kind = 'clone' AND status <> 'dropped' GROUP BY 1 ORDER BY 1"
    ):
        counts[status] = count
        if expired:
            counts["expired"] = counts.get("expired", 0) + expired
    return counts


def _first_line(text: Any) -> str:
    return str(text or "").strip().split("\n", 1)[0][:300]


# A pending request is alive while a process holds its lock (atdm.request_lock_key, which a role
# that only reads may not call): pg_locks shows a bigint key as two halves. Reading pg_locks does
# not take the lock, so no other process meets a busy request.
_WORK = """
SELECT l.leased, l.oldest_lease, o.overdue, o.most_overdue, o.stuck, p.pending, p.dead,
    s.waiting, s.oldest_waiting, s.launched, u.unsealed, u.oldest_unsealed,
    extract(epoch FROM now() - pg_postmaster_start_time())::float8 AS server_up,
    current_setting('transaction_read_only')::boolean AS read_only
FROM (SELECT count(*) AS leased,
        extract(epoch FROM now() - min(leased_at))::float8 AS oldest_lease
      FROM atdm.test_run WHERE status = 'leased') AS l,
     (SELECT count(*) AS overdue,
        extract(epoch FROM now() - min(expires_at))::float8 AS most_overdue,
        count(*) FILTER (WHERE retry_at IS NOT NULL) AS stuck
      FROM atdm.test_run WHERE status = 'leased' AND expires_at < now()) AS o,
     (SELECT count(*) AS pending, count(*) FILTER (WHERE NOT EXISTS (
        SELECT FROM pg_locks AS k WHERE k.locktype = 'advisory' AND k.objsubid = 1
          AND k.database = (SELECT d.oid FROM pg_database AS d
                            WHERE d.datname = current_database())
          AND k.classid::bigint = (q.key >> 32 & 4294967295)
          AND k.objid::bigint = (q.key & 4294967295))) AS dead
      FROM (SELECT hashtextextended('atdm.request:' || request_id, 0) AS key
            FROM atdm.request WHERE status = 'pending') AS q) AS p,
     (SELECT count(*) FILTER (WHERE status = 'waiting') AS waiting,
        extract(epoch FROM now() - min(submitted_at) FILTER (WHERE status = 'waiting'))::float8
            AS oldest_waiting,
        count(*) FILTER (WHERE status = 'launched') AS launched
      FROM atdm.submission WHERE status IN ('waiting', 'launched')) AS s,
     (SELECT count(*) AS unsealed, extract(epoch FROM now() - min(e.at))::float8 AS oldest_unsealed
      FROM (SELECT e.at
            FROM (SELECT coalesce(max(n.xid), '0'::xid8) AS xid,
                         coalesce(max(n.event_id), 0) AS event_id
                  FROM (SELECT xid, event_id FROM atdm.audit_seal
                        ORDER BY seal_number DESC LIMIT 1) AS n) AS h
            CROSS JOIN LATERAL (SELECT a.at FROM atdm.audit_event AS a
                                WHERE (a.xid, a.event_id) > (h.xid, h.event_id)
                                ORDER BY a.xid, a.event_id LIMIT %(most)s) AS e) AS e) AS u
"""

_POOLS = """
SELECT s.domain, s.scenario_id, s.pool_ready AS size,
    (SELECT count(*) FROM (
        SELECT FROM atdm.test_run AS r
        WHERE r.status = 'ready' AND r.pool_key = s.default_pool_key
          AND r.as_of >= now() - s.max_age LIMIT s.pool_ready) AS counted) AS ready,
    t.request_id IS NOT NULL AND coalesce(q.status, 'pending') = 'pending' AS filling,
    coalesce(t.failures, 0)
        + coalesce((q.status IN ('rejected', 'rolled_back'))::integer, 0) AS failures,
    extract(epoch FROM t.retry_at - now())::float8 AS retry_in,
    q.error ->> 'message' AS error
FROM atdm.scenario AS s
LEFT JOIN atdm.top_up AS t USING (domain, scenario_id)
LEFT JOIN atdm.request AS q ON q.request_id = t.request_id
WHERE s.current AND s.pool_ready > 0 AND NOT s.violates
ORDER BY s.domain, s.scenario_id
"""

_INSTIGATORS = """
SELECT i.instigator_type, i.status, i.instigator_body, t.status AS tick, t.tick_body
FROM instigators AS i
LEFT JOIN LATERAL (
    SELECT j.status, j.tick_body FROM job_ticks AS j WHERE j.selector_id = i.selector_id
    ORDER BY j.timestamp DESC, j.id DESC LIMIT 1) AS t ON true
WHERE i.instigator_type IN ('SENSOR', 'SCHEDULE')
"""
