"""Counters over the audit trail: kept in the target, brought up to date, read (ADR 0073).

Audit events are never deleted, so a counter is a sum over them. The sums are kept in
``atdm.metric_count`` together with the snapshot that saw the events they cover: what is to be added
is what that snapshot does not see, however slow some transactions were. A role that may write adds
to the sums; a role that only reads sums up the rest for its reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import psycopg

from atdm_resources.catalog import health

DEFINITION: Final = 1
"""Increase it when a counter is added or changes its meaning: all counters start again."""

WRITE_BUCKETS: Final = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5")
"""Upper bounds in seconds (requirement A-MET-01)."""

LONG_BUCKETS: Final = (*WRITE_BUCKETS, "10", "30", "60", "300", "1800")
"""Upper bounds in seconds for operations on many rows."""

EVENTS_AT_ONCE: Final = 100_000
"""Approximate number of events that one transaction counts."""

_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('atdm.metrics', 0))"


@dataclass(frozen=True, slots=True)
class Metric:
    """A counter, or a histogram if it has ``buckets`` (upper bounds in seconds).

    ``name`` is without ``_total``. ``labels`` are the names of its labels in the order of the sums.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[str, ...] = ()


METRICS: Final = (
    Metric("atdm_audit_events", "Audit events written.", ("action", "status")),
    Metric(
        "atdm_audit_write_latency_seconds",
        "From the start of the transaction that an audit event belongs to until it was written.",
        buckets=WRITE_BUCKETS,
    ),
    Metric(
        "atdm_audit_dropped_events",
        "Sealed audit events that were missing when they were counted; must stay 0.",
    ),
    Metric("atdm_requests", "Requests that ended, by how.", ("scenario", "status")),
    Metric(
        "atdm_request_latency_seconds",
        "From the asking of a request until it was ready, rejected or rolled back.",
        buckets=LONG_BUCKETS,
    ),
    Metric("atdm_leases", "Test runs handed out.", ("scenario",)),
    Metric("atdm_resets", "Resets that ended, by how.", ("strategy", "status")),
    Metric(
        "atdm_reset_latency_seconds",
        "From the start of a reset until the rows were gone.",
        buckets=LONG_BUCKETS,
    ),
    Metric("atdm_seed_records", "Rows loaded into the target.", ("table",)),
    Metric("atdm_validator_rejections", "Requests that a validator refused.", ("validator",)),
    Metric("atdm_planner_invocations", "Requests planned, by planner.", ("mode",)),
    Metric("atdm_fixtures_emitted", "Fixture files written, by kind.", ("kind",)),
    Metric("atdm_catalog_writes", "Requests recorded in the catalog as ready."),
)
"""The names of requirements A-MET-01 and A-MET-02, and ``atdm_leases``."""


@dataclass(frozen=True, slots=True)
class Counts:
    """One consistent reading. ``values`` by metric and labels, as in ``atdm.metric_count``.

    Histograms have a value for each bucket that is not empty (``<name>_bucket``, not cumulative;
    label: the upper bound) and ``<name>_sum``. ``events`` counts all audit events, ``seals``
    all seals; ``uncounted`` the events that were summed up only for this reading.
    """

    values: dict[tuple[str, tuple[str, ...]], float] = field(default_factory=dict)
    events: int = 0
    seals: int = 0
    uncounted: int = 0
    counted_at: datetime | None = None

    def of(self, metric: Metric, suffix: str = "") -> dict[tuple[str, ...], float]:
        """The values of one metric by their labels."""
        wanted = metric.name + suffix
        return {labels: value for (name, labels), value in self.values.items() if name == wanted}


def advance(conn: psycopg.Connection[Any], rounds: int = 10, *, milliseconds: int = 0) -> bool:
    """Count new events, about 100,000 a transaction; returns whether all are counted.

    False also while another process counts. ``conn`` must be in autocommit mode. ``milliseconds``
    is the time limit of a statement; 0: none.

    Raises:
        psycopg.errors.InsufficientPrivilege, ReadOnlySqlTransaction: this role only reads.
        psycopg.errors.UndefinedTable: the catalog is older than the counters.
    """
    try:
        for _ in range(rounds):
            finished = _advance_once(conn, milliseconds)
            if finished is not False:
                return finished is True
    except psycopg.errors.SerializationFailure:
        pass  # another process counted between our snapshot and our lock
    return False


def _advance_once(conn: psycopg.Connection[Any], milliseconds: int) -> bool | None:
    """Count in one transaction; returns whether that was all, None while another process counts."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        health.limit_statements(conn, milliseconds)
        free = conn.execute(_LOCK.encode()).fetchone()
        if free is None or not free[0]:
            return None
        since, sealed, definition = _state(conn)
        if definition < DEFINITION:
            conn.execute("DELETE FROM atdm.metric_count")
            since, sealed = "1:1:", 0
        limit = conn.execute(_LIMIT.encode(), {"since": since, "most": EVENTS_AT_ONCE}).fetchone()
        below = None if limit is None else limit[0]
        values = {"since": since, "sealed": sealed, "below": below}
        conn.execute(_COUNT.encode(), values)
        conn.execute(
            "UPDATE atdm.metric_state SET counted = CASE WHEN %(below)s::text IS NULL"
            " THEN pg_current_snapshot() ELSE concat(%(below)s, ':', %(below)s, ':')::pg_snapshot"
            " END, sealed = (SELECT coalesce(max(seal_number), 0) FROM atdm.audit_seal),"
            " definition = greatest(definition, %(definition)s), counted_at = clock_timestamp()",
            {**values, "definition": DEFINITION},
        )
        return below is None


def read(conn: psycopg.Connection[Any], *, milliseconds: int = 0) -> Counts:
    """All counters as of now. ``conn`` must be in autocommit mode; it needs to read only.

    ``milliseconds`` is the time limit of a statement; 0: none.

    Raises:
        psycopg.errors.UndefinedTable: the catalog is older than the counters.
    """
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        health.limit_statements(conn, milliseconds)
        since, sealed, definition = _state(conn)
        values: dict[tuple[str, tuple[str, ...]], float] = {}
        if definition < DEFINITION:
            since, sealed = "1:1:", 0
        else:
            kept = conn.execute("SELECT metric, labels, value FROM atdm.metric_count")
            values = {(metric, tuple(labels)): value for metric, labels, value in kept}
        before = _events(values)
        fresh = conn.execute(
            _SAMPLES.encode(), {"since": since, "sealed": sealed, "below": None}
        ).fetchall()
        for metric, labels, value in fresh:
            key = (metric, tuple(labels))
            values[key] = values.get(key, 0) + value
        row = conn.execute(
            "SELECT (SELECT coalesce(max(seal_number), 0) FROM atdm.audit_seal), s.counted_at"
            " FROM atdm.metric_state AS s"
        ).fetchone()
        assert row is not None
    events = _events(values)
    return Counts(values, events, row[0], events - before, row[1])


def _events(values: dict[tuple[str, tuple[str, ...]], float]) -> int:
    return int(sum(value for (name, _), value in values.items() if name == METRICS[0].name))


def _state(conn: psycopg.Connection[Any]) -> tuple[str, int, int]:
    row = conn.execute("SELECT counted::text, sealed, definition FROM atdm.metric_state").fetchone()
    assert row is not None
    return row[0], row[1], row[2]


_UNSEEN = (
    "e.xid >= pg_snapshot_xmin(%(since)s::pg_snapshot)"
    " AND NOT pg_visible_in_snapshot(e.xid, %(since)s::pg_snapshot)"
)

# Where to stop, so that a transaction does not count millions of events: at the end of a
# transaction that is older than every running one. No event will be added before that point.
_LIMIT = f"""
SELECT f.xid::text FROM (
    SELECT (e.xid::text::bigint + 1)::text::xid8 AS xid FROM atdm.audit_event AS e
    WHERE {_UNSEEN} ORDER BY e.xid, e.event_id OFFSET %(most)s LIMIT 1) AS f
WHERE f.xid < pg_snapshot_xmin(pg_current_snapshot())
"""


def _seconds(buckets: tuple[str, ...], metric: str, seconds: str, where: str) -> str:
    """Two samples of a histogram: one of the bucket, one of the sum."""
    bounds = ", ".join(buckets)
    names = ", ".join(f"'{bound}'" for bound in (*buckets, "+Inf"))
    # A bucket includes its upper bound; times are whole microseconds.
    bucket = f"width_bucket({seconds} - 0.0000001, ARRAY[{bounds}]::float8[]) + 1"
    return (
        f"UNION ALL SELECT '{metric}_bucket', ARRAY[(ARRAY[{names}])[{bucket}]], 1 WHERE {where}"
        f" UNION ALL SELECT '{metric}_sum', '{{}}', {seconds} WHERE {where}"
    )


_ENDED = "e.action IN ('catalog_recorded', 'plan_rejected', 'seed_failed')"
_RESET = "e.action IN ('reset_completed', 'reset_failed', 'reset_rejected')"

_SAMPLES = f"""
SELECT s.metric, s.labels, sum(s.value)::float8 AS value
FROM atdm.audit_event AS e
CROSS JOIN LATERAL (
    SELECT CASE WHEN {_ENDED} THEN extract(epoch FROM e.at - (
            SELECT max(r.at) FROM atdm.audit_event AS r
            WHERE r.request_id = e.request_id AND r.test_run_id IS NULL
              AND r.action = 'request_received' AND r.event_id < e.event_id))::float8
        WHEN e.action = 'reset_completed' AND e.test_run_id IS NULL
            THEN extract(epoch FROM e.at - e.began)::float8
        WHEN e.action = 'reset_completed' THEN extract(epoch FROM e.at - (
            SELECT max(r.at) FROM atdm.audit_event AS r
            WHERE r.request_id = e.request_id AND r.test_run_id = e.test_run_id
              AND r.action = 'reset_started' AND r.event_id < e.event_id))::float8
        END AS seconds,
        greatest(extract(epoch FROM e.at - e.began), 0)::float8 AS writing,
        concat_ws('/', e.domain, e.scenario_id) AS scenario
    -- Computed once, not wherever it is used.
    OFFSET 0
) AS t
CROSS JOIN LATERAL (
    SELECT 'atdm_audit_events' AS metric, ARRAY[e.action, e.status] AS labels, 1::float8 AS value
    {
    _seconds(WRITE_BUCKETS, "atdm_audit_write_latency_seconds", "t.writing", "e.began IS NOT NULL")
}
    UNION ALL SELECT 'atdm_requests', ARRAY[t.scenario, CASE e.action
        WHEN 'catalog_recorded' THEN 'ready' WHEN 'plan_rejected' THEN 'rejected'
        ELSE CASE WHEN e.status = 'rolled_back' THEN 'rolled_back' ELSE 'replay_failed' END END], 1
        WHERE {_ENDED}
    {
    _seconds(
        LONG_BUCKETS,
        "atdm_request_latency_seconds",
        "t.seconds",
        f"t.seconds IS NOT NULL AND {_ENDED}",
    )
}
    UNION ALL SELECT 'atdm_leases', ARRAY[t.scenario], 1 WHERE e.action = 'leased'
    UNION ALL SELECT 'atdm_resets', ARRAY[coalesce(
        e.outputs ->> 'strategy', e.inputs ->> 'strategy',
        CASE WHEN e.action = 'reset_failed' THEN (
            SELECT r.inputs ->> 'strategy' FROM atdm.audit_event AS r
            WHERE r.request_id = e.request_id AND r.test_run_id = e.test_run_id
              AND r.action = 'reset_started' AND r.event_id < e.event_id
            ORDER BY r.event_id DESC LIMIT 1) END,
        CASE WHEN e.inputs ? 'owner' THEN 'reset_owner' ELSE 'reset_run' END), e.status], 1
        WHERE {_RESET}
    {
    _seconds(
        LONG_BUCKETS,
        "atdm_reset_latency_seconds",
        "t.seconds",
        "t.seconds IS NOT NULL AND e.action = 'reset_completed'",
    )
}
    UNION ALL SELECT 'atdm_seed_records', ARRAY[concat_ws('.', e.domain, r.item ->> 'kind')],
            sum(coalesce((r.item ->> 'count')::float8, 1))
        FROM jsonb_path_query(e.outputs, '$.records_created[*]') AS r (item)
        WHERE e.action = 'seed_completed' GROUP BY r.item ->> 'kind'
    UNION ALL SELECT 'atdm_validator_rejections', ARRAY[r.item ->> 'validator'], 1
        FROM jsonb_path_query(e.outputs, '$.failed_validators[*]') AS r (item)
        WHERE e.action = 'plan_rejected' AND r.item ? 'validator'
    UNION ALL SELECT 'atdm_planner_invocations', ARRAY[CASE
        WHEN e.inputs ->> 'planner_mode' IN ('rule', 'llm') THEN e.inputs ->> 'planner_mode'
        ELSE 'other' END], 1
        WHERE e.action = 'request_received' AND e.inputs ? 'planner_mode'
    UNION ALL SELECT 'atdm_fixtures_emitted', ARRAY[CASE
        WHEN k.kind IN ('playwright', 'pytest') THEN k.kind ELSE 'other' END], count(*)
        FROM jsonb_path_query(e.outputs, '$.fixtures.keyvalue()', '{{}}', true) AS f (item),
            LATERAL (SELECT f.item ->> 'key') AS k (kind)
        WHERE e.action = 'fixtures_emitted' AND f.item -> 'value' <> 'null' GROUP BY 2
    UNION ALL SELECT 'atdm_catalog_writes', '{{}}', 1 WHERE e.action = 'catalog_recorded'
) AS s
WHERE {_UNSEEN} AND (%(below)s::text IS NULL OR e.xid < %(below)s::text::xid8)
GROUP BY s.metric, s.labels
UNION ALL
SELECT 'atdm_audit_dropped_events', '{{}}', count(*)
FROM atdm.audit_seal AS s LEFT JOIN atdm.audit_event AS e USING (event_id)
WHERE s.seal_number > %(sealed)s AND e.event_id IS NULL
HAVING count(*) > 0
"""

_COUNT = f"""
INSERT INTO atdm.metric_count AS c (metric, labels, value) {_SAMPLES}
ON CONFLICT (metric, labels) DO UPDATE SET value = c.value + excluded.value
"""
