"""Pools: missing runs, who fills them, runs that are too old."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row

BACKOFF = timedelta(minutes=1)
LONGEST_BACKOFF = timedelta(hours=1)

_FAILED = """
UPDATE atdm.top_up SET request_id = NULL, failures = failures + 1,
    retry_at = %s + least(%s * power(2, least(failures, 10)), %s)
WHERE request_id = %s
"""


@dataclass(frozen=True, slots=True)
class Pool:
    """A published scenario with a pool. ``ready`` counts fresh runs; exact only below half."""

    domain: str
    scenario_id: str
    version: str
    size: int
    ready: int

    @property
    def low(self) -> bool:
        """Whether it is below half of its size."""
        return self.ready < -(-self.size // 2)


@dataclass(frozen=True, slots=True)
class TopUp:
    """A request that fills a pool and is not recorded yet; ``age`` since it was claimed."""

    domain: str
    scenario_id: str
    request_id: str
    runs: int
    age: timedelta


def pools(conn: psycopg.Connection[Any]) -> list[Pool]:
    """Every pool. Counting stops at half of the size, so that large pools cost no more."""
    with conn.cursor(row_factory=class_row(Pool)) as cursor:
        return cursor.execute(
            "SELECT s.domain, s.scenario_id, s.version, s.pool_ready AS size,"
            " (SELECT count(*) FROM (SELECT FROM atdm.test_run AS r"
            "   WHERE r.status = 'ready' AND r.pool_key = s.default_pool_key"
            "   AND r.as_of >= now() - s.max_age LIMIT (s.pool_ready + 1) / 2) AS counted) AS ready"
            " FROM atdm.scenario AS s WHERE s.current AND s.pool_ready > 0 AND NOT s.violates"
            " ORDER BY s.domain, s.scenario_id"
        ).fetchall()


def claim(conn: psycopg.Connection[Any], pool: Pool, request_id: str) -> bool:
    """Claim the filling of a pool for a new request; False if it may not be filled now.

    A claim holds while its request is not recorded or pending. A request that failed keeps the pool
    waiting: a minute the first time, twice as long each time after, an hour at most.
    """
    where = (pool.domain, pool.scenario_id)
    with conn.transaction():
        conn.execute(
            "INSERT INTO atdm.top_up (domain, scenario_id) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            where,
        )
        row = conn.execute(
            "SELECT t.request_id, q.status, q.finished_at FROM atdm.top_up AS t"
            " LEFT JOIN atdm.request AS q USING (request_id)"
            " WHERE t.domain = %s AND t.scenario_id = %s FOR UPDATE OF t",
            where,
        ).fetchone()
        assert row is not None
        earlier, status, finished_at = row
        if earlier is not None and status in (None, "pending"):
            return False
        if status in ("rejected", "rolled_back"):
            conn.execute(_FAILED.encode(), (finished_at, BACKOFF, LONGEST_BACKOFF, earlier))
        elif earlier is not None:
            conn.execute(
                "UPDATE atdm.top_up SET request_id = NULL, failures = 0, retry_at = NULL"
                " WHERE request_id = %s",
                (earlier,),
            )
        return (
            conn.execute(
                "UPDATE atdm.top_up SET request_id = %s, runs = %s, claimed_at = clock_timestamp()"
                " WHERE domain = %s AND scenario_id = %s"
                " AND (retry_at IS NULL OR retry_at <= now())",
                (request_id, pool.size - pool.ready, *where),
            ).rowcount
            == 1
        )


def unrecorded(conn: psycopg.Connection[Any]) -> list[TopUp]:
    """Claimed top-ups whose request is not recorded yet."""
    with conn.cursor(row_factory=class_row(TopUp)) as cursor:
        return cursor.execute(
            "SELECT t.domain, t.scenario_id, t.request_id, t.runs,"
            " clock_timestamp() - t.claimed_at AS age FROM atdm.top_up AS t"
            " WHERE t.request_id IS NOT NULL AND NOT EXISTS ("
            "  SELECT FROM atdm.request AS q WHERE q.request_id = t.request_id)"
            " ORDER BY t.claimed_at"
        ).fetchall()


def release(conn: psycopg.Connection[Any], request_id: str) -> bool:
    """Release the claim of a top-up whose run failed before its request was recorded.

    The pool then waits as after any failure. False if the request is recorded or no top-up.
    """
    recorded = conn.execute(
        "SELECT FROM atdm.request WHERE request_id = %s", (request_id,)
    ).fetchone()
    if recorded is not None:
        return False
    moment = datetime.now(UTC)
    return (
        conn.execute(_FAILED.encode(), (moment, BACKOFF, LONGEST_BACKOFF, request_id)).rowcount == 1
    )


def stale_runs(conn: psycopg.Connection[Any], most: int) -> list[str]:
    """Ready runs of pools that can no longer be leased: of an old version, or older than max_age.

    max_age is that of the pool.
    """
    rows = conn.execute(
        "SELECT r.test_run_id FROM atdm.scenario AS s"
        " JOIN atdm.request AS q ON q.domain = s.domain AND q.scenario_id = s.scenario_id"
        "  AND q.pooled AND q.status = 'ready' AND q.partition_removed_at IS NULL"
        "  AND (q.scenario_version <> s.version OR q.as_of < now() - s.max_age)"
        " JOIN atdm.test_run AS r ON r.test_run_id > q.request_id"
        "  AND r.test_run_id <= left(q.request_id, 20) || 'ZZZZZZ' AND r.status = 'ready'"
        "  AND r.pool_key IS NOT NULL AND (r.retry_at IS NULL OR r.retry_at < now())"
        " WHERE s.current AND s.pool_ready > 0 LIMIT %s",
        (most,),
    ).fetchall()
    return [run for (run,) in rows]
