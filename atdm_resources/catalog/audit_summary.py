"""Figures over the audit trail: requests, leases, resets, rejections, durations.

Light: psycopg and the standard library alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg

from atdm_engine.random.run_ids import least_id
from atdm_resources.catalog import seal
from atdm_resources.catalog.rows import one_state, rows

TOP = 10

_REQUESTS = """
SELECT domain || '/' || scenario_id AS scenario, status, count(*) AS requests,
       sum(runs)::bigint AS runs
FROM atdm.request WHERE request_id >= %(first)s GROUP BY 1, 2 ORDER BY 1, 2
"""
_INVOKERS = """
SELECT invoker, count(*) AS requests, sum(runs)::bigint AS runs
FROM atdm.request WHERE request_id >= %(first)s
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %(top)s
"""
_LEASES = """
SELECT invoker, count(*) AS leases FROM atdm.audit_event
WHERE action = 'leased' AND at >= %(since)s GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %(top)s
"""
_MAKING = """
SELECT count(*) AS n,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (
           ORDER BY extract(epoch FROM finished_at - created_at)::float8 * 1000) AS ms
FROM atdm.request
WHERE request_id >= %(first)s AND status IN ('ready', 'retired')
  AND finished_at IS NOT NULL AND finished_at >= created_at
"""
_HELD = """
SELECT count(*) AS n,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (
           ORDER BY extract(epoch FROM ended_at - leased_at)::float8 * 1000) AS ms
FROM atdm.test_run
WHERE status IN ('cleaned', 'expired') AND ended_at >= %(since)s AND leased_at <= ended_at
"""
_RESETTING = """
SELECT count(*) AS n,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY d.ms) AS ms
FROM (SELECT extract(epoch FROM max(e.at) - min(e.at))::float8 * 1000 AS ms
      FROM atdm.audit_event AS e
      WHERE e.action IN ('reset_started', 'reset_completed') AND e.test_run_id IS NOT NULL
        AND e.at >= %(since)s
      GROUP BY e.xid, e.test_run_id HAVING count(*) = 2) AS d
"""
_EVENTS = """
SELECT action, status, count(*) AS n FROM atdm.audit_event WHERE at >= %(since)s
GROUP BY 1, 2 ORDER BY 1, 2
"""
# Runs that were reset together have one event each, with the counts of all of them; a reset of a
# whole domain has one event without a run.
_WAYS = """
WITH batch AS (
    SELECT xid, outputs, count(*) AS n, bool_or(test_run_id IS NULL) AS whole,
           greatest(coalesce((outputs ->> 'runs')::integer, 1), 1) AS runs
    FROM atdm.audit_event WHERE action = 'reset_completed' AND at >= %(since)s GROUP BY 1, 2)
SELECT coalesce(b.outputs ->> 'strategy', '') AS way,
       sum(CASE WHEN b.whole THEN coalesce((b.outputs ->> 'cleared_record_count')::bigint, 0)
           ELSE b.n END)::bigint AS runs,
       sum(b.n / b.runs * d.rows)::bigint AS deleted_rows,
       sum(b.n / b.runs * a.rows)::bigint AS adopted_rows
FROM batch AS b
CROSS JOIN LATERAL (SELECT coalesce(sum(e.value::bigint), 0) AS rows
    FROM jsonb_each_text(coalesce(b.outputs -> 'deleted_counts', '{}')) AS e) AS d
CROSS JOIN LATERAL (SELECT coalesce(sum(e.value::bigint), 0) AS rows
    FROM jsonb_each_text(coalesce(b.outputs -> 'adopted', '{}')) AS e) AS a
GROUP BY 1 ORDER BY 2 DESC, 1
"""
_REJECTIONS = """
SELECT f.value ->> 'validator' AS "check", count(*) AS requests,
       count(*) FILTER (WHERE (e.outputs ->> 'expected')::boolean) AS as_declared
FROM atdm.audit_event AS e
CROSS JOIN LATERAL jsonb_array_elements(coalesce(e.outputs -> 'failed_validators', '[]')) AS f
WHERE e.action = 'plan_rejected' AND e.at >= %(since)s
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50
"""
_NOW = "SELECT status, count(*) AS n FROM atdm.test_run GROUP BY 1 ORDER BY 1"
_SEALED = "SELECT coalesce(max(seal_number), 0) AS sealed FROM atdm.audit_seal"
_BASELINES = (
    "snapshot_completed",
    "snapshot_failed",
    "restore_completed",
    "restore_failed",
)


def summary(conn: psycopg.Connection[Any], since: datetime | None = None) -> dict[str, Any]:
    """The figures since a time (None: from the beginning), read from one state of the catalog.

    Keys: since, requests (by scenario and status), runs (made, leased, cleaned, expired in that
    time; now: by status), resets (by way: runs, deleted_rows, adopted_rows), resets_failed,
    resets_refused, rejections (by check), invokers, leases (by invoker), durations (making, lease,
    reset: n, p50_ms, p95_ms), baselines (events by name), events, sealed, unsealed.
    """
    start = (since or datetime(1970, 1, 1, tzinfo=UTC)).astimezone(UTC)
    values = {"since": start, "first": least_id(start), "top": TOP}
    with conn.transaction():
        one_state(conn)
        happened = rows(conn, _EVENTS, values)
        by_action: dict[str, int] = {}
        for row in happened:
            by_action[row["action"]] = by_action.get(row["action"], 0) + row["n"]
        requests = rows(conn, _REQUESTS, values)
        ways = rows(conn, _WAYS, values)
        expired = by_action.get("lease_expired", 0)
        return {
            "since": None if since is None else start,
            "requests": requests,
            "runs": {
                "made": sum(r["runs"] for r in requests if r["status"] in ("ready", "retired")),
                "leased": by_action.get("leased", 0),
                "taken_back": sum(way["runs"] for way in ways),
                "expired": expired,
                "now": {row["status"]: row["n"] for row in rows(conn, _NOW)},
            },
            "resets": ways,
            "resets_failed": by_action.get("reset_failed", 0),
            "resets_refused": by_action.get("reset_rejected", 0),
            "rejections": rows(conn, _REJECTIONS, values),
            "invokers": rows(conn, _INVOKERS, values),
            "leases": rows(conn, _LEASES, values),
            "durations": {
                name: _percentiles(rows(conn, query, values)[0])
                for name, query in (("making", _MAKING), ("lease", _HELD), ("reset", _RESETTING))
            },
            "baselines": {name: by_action[name] for name in _BASELINES if name in by_action},
            "events": sum(by_action.values()),
            "sealed": rows(conn, _SEALED)[0]["sealed"],
            "unsealed": seal.unsealed(conn),
        }


def _percentiles(row: dict[str, Any]) -> dict[str, Any]:
    middle, most = row["ms"] or (None, None)
    return {
        "n": row["n"],
        "p50_ms": None if middle is None else round(middle, 1),
        "p95_ms": None if most is None else round(most, 1),
    }
