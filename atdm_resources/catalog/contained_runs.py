"""Test runs whose rows are in a baseline: read from the catalog, and brought back into it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

RUN_COLUMNS: Final = ("test_run_id", "status", "pool_key", "as_of", "data")
REQUEST_COLUMNS: Final = ("request_id", "row")
RUN_TABLE: Final = sql.Identifier("pg_temp", "baseline_run")
"""The baseline's runs during a restore; ``create_tables`` makes it, with ``RUN_COLUMNS``."""
REQUEST_TABLE: Final = sql.Identifier("pg_temp", "baseline_request")
"""The baseline's requests, with ``REQUEST_COLUMNS``."""


@dataclass(frozen=True, slots=True)
class ReconciledRuns:
    """How many runs a restore made ready, cleaned and expired."""

    ready: int
    cleaned: int
    expired: int


def counts(conn: psycopg.Connection[Any], domain: str) -> dict[str, int]:
    """How many runs of a domain have rows, by status."""
    return dict(conn.execute(_COUNTS, (domain,)).fetchall())


def runs(domain: str) -> sql.Composed:
    """The query of the runs that have rows, as COPY reads it, with ``RUN_COLUMNS``."""
    return _RUNS.format(domain=sql.Literal(domain))


def requests(domain: str) -> sql.Composed:
    """The query of the requests of these runs, as COPY reads it, with ``REQUEST_COLUMNS``."""
    return _REQUESTS.format(domain=sql.Literal(domain))


def scenarios(conn: psycopg.Connection[Any], domain: str) -> tuple[dict[str, Any], ...]:
    """The rows of the scenarios that these requests were made of."""
    return tuple(row for (row,) in conn.execute(_SCENARIOS, (domain,)).fetchall())


def lease_counts(conn: psycopg.Connection[Any], domain: str) -> list[dict[str, Any]]:
    """By owner the number of leased runs of a domain: ``owner`` and ``leases``."""
    return [
        {"owner": owner, "leases": count}
        for owner, count in conn.execute(_LEASES, (domain,)).fetchall()
    ]


def create_tables(conn: psycopg.Connection[Any]) -> None:
    """Make ``RUN_TABLE`` and ``REQUEST_TABLE``, until the transaction ends."""
    conn.execute(_CREATE_TABLES)


def reconcile(
    conn: psycopg.Connection[Any],
    domain: str,
    scenarios: Iterable[dict[str, Any]],
    next_number: int,
) -> ReconciledRuns:
    """Make runs ready or leased exactly if their rows are there, in the restoring transaction.

    Runs in ``RUN_TABLE`` are ready, without token and owner, also those that this catalog did not
    know. Of the others, leased ones are expired and ready ones are cleaned.
    """
    for scenario in scenarios:
        conn.execute(_ADD_SCENARIO, (Jsonb(scenario),))
    conn.execute("ANALYZE pg_temp.baseline_run")
    conn.execute(_ADD_REQUESTS)
    expired = conn.execute(_EXPIRE_LEASED, (domain,)).rowcount
    cleaned = conn.execute(_CLEAN_OTHERS, (domain,)).rowcount
    conn.execute(_READY_AGAIN)
    conn.execute(_ADD_RUNS)
    conn.execute(_NEXT_NUMBER, (next_number, domain))
    row = conn.execute("SELECT count(*) FROM pg_temp.baseline_run").fetchone()
    assert row is not None
    conn.execute("DROP TABLE pg_temp.baseline_run, pg_temp.baseline_request")
    return ReconciledRuns(ready=int(row[0]), cleaned=cleaned, expired=expired)


_COUNTS = """
SELECT r.status, count(*) FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)
WHERE q.domain = %s AND r.status IN ('ready', 'leased') GROUP BY r.status ORDER BY r.status
"""
_LEASES = """
SELECT coalesce(r.owner, ''), count(*)
FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)
WHERE q.domain = %s AND r.status = 'leased' GROUP BY 1 ORDER BY 1
"""
_RUNS = sql.SQL("""(
SELECT r.test_run_id, r.status, r.pool_key, r.as_of, r.data
FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)
WHERE q.domain = {domain} AND r.status IN ('ready', 'leased'))""")
_REQUESTS = sql.SQL("""(
SELECT q.request_id, to_jsonb(q) FROM atdm.request AS q
WHERE q.domain = {domain} AND EXISTS (
    SELECT FROM atdm.test_run AS r
    WHERE r.test_run_id > q.request_id AND r.test_run_id <= left(q.request_id, 20) || 'ZZZZZZ'
      AND r.status IN ('ready', 'leased')))""")
# A retired request has a run with rows where that was made again.
_SCENARIOS = """
SELECT to_jsonb(s) FROM atdm.scenario AS s
WHERE s.domain = %s AND EXISTS (
    SELECT FROM atdm.request AS q
    WHERE (q.domain, q.scenario_id, q.scenario_version) = (s.domain, s.scenario_id, s.version)
      AND q.status IN ('ready', 'retired'))
"""
_CREATE_TABLES = """
CREATE TEMPORARY TABLE baseline_run
    (test_run_id text COLLATE "C", status text, pool_key uuid, as_of timestamptz, data jsonb)
    ON COMMIT DROP;
CREATE TEMPORARY TABLE baseline_request (request_id text COLLATE "C", row jsonb) ON COMMIT DROP
"""
_ADD_SCENARIO = """
INSERT INTO atdm.scenario
SELECT s.* FROM jsonb_populate_record(NULL::atdm.scenario, %s || '{"current": false}') AS s
ON CONFLICT (domain, scenario_id, version) DO NOTHING
"""
_ADD_REQUESTS = """
INSERT INTO atdm.request AS q
SELECT (jsonb_populate_record(NULL::atdm.request, b.row || jsonb_build_object(
    'status', 'ready',
    'label', CASE WHEN EXISTS (
        SELECT FROM atdm.request AS o
        WHERE (o.domain, o.scenario_id, o.label)
            = (b.row ->> 'domain', b.row ->> 'scenario_id', b.row ->> 'label')
          AND o.request_id <> b.request_id)
        THEN b.request_id ELSE b.row ->> 'label' END))).*
FROM pg_temp.baseline_request AS b
ON CONFLICT (request_id) DO UPDATE SET status = 'ready', error = NULL WHERE q.status <> 'ready'
"""
_EXPIRE_LEASED = """
UPDATE atdm.test_run AS r SET status = 'expired', ended_at = clock_timestamp()
FROM atdm.request AS q
WHERE q.request_id = r.request_id AND q.domain = %s AND r.status = 'leased'
"""
# A statement of its own: joined by OR with the other condition, NOT EXISTS is no join any more but
# a scan of all runs of the baseline for each run of the catalog.
_CLEAN_OTHERS = """
UPDATE atdm.test_run AS r SET status = 'cleaned', ended_at = clock_timestamp()
FROM atdm.request AS q
WHERE q.request_id = r.request_id AND q.domain = %s AND r.status = 'ready'
  AND NOT EXISTS (SELECT FROM pg_temp.baseline_run AS b WHERE b.test_run_id = r.test_run_id)
"""
_READY_AGAIN = """
UPDATE atdm.test_run AS r
SET status = 'ready', token_sha256 = NULL, owner = NULL, owner_secret_sha256 = NULL,
    leased_at = NULL, expires_at = NULL, ended_at = NULL, deleted = NULL
FROM pg_temp.baseline_run AS b
WHERE b.test_run_id = r.test_run_id AND r.status <> 'ready'
"""
_ADD_RUNS = """
INSERT INTO atdm.test_run (test_run_id, pool_key, as_of, data)
SELECT b.test_run_id, b.pool_key, b.as_of, b.data FROM pg_temp.baseline_run AS b
WHERE NOT EXISTS (SELECT FROM atdm.test_run AS r WHERE r.test_run_id = b.test_run_id)
"""
_NEXT_NUMBER = """
UPDATE atdm.domain SET next_number = greatest(next_number, %s) WHERE domain = %s
"""
