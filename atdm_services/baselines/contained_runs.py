"""Test runs whose rows are in a baseline: recorded with it, reconciled after a restore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from atdm_resources.postgres.columns import TableColumn
from atdm_resources.postgres.table_rows import arrow_schema, read_source, write_rows
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import parquet_writer
from atdm_services.baselines.manifest import (
    REQUESTS,
    RUNS,
    BaselineFiles,
    ContainedRuns,
    Manifest,
    PartFile,
)
from atdm_services.baselines.part_files import GROUP_BYTES, part_batches, part_file


def _columns(*names: str) -> tuple[TableColumn, ...]:
    return tuple(TableColumn(name=name, type="text") for name in names)


_RUN_COLUMNS = _columns("test_run_id", "status", "pool_key", "as_of", "data")
_REQUEST_COLUMNS = _columns("request_id", "row")


@dataclass(frozen=True, slots=True)
class RunsInLine:
    """What a restore did to the catalog: how many runs, by what became of them."""

    ready: int
    cleaned: int
    expired: int


def written(
    conn: psycopg.Connection[Any], store: Store, files: BaselineFiles, attempt: str
) -> ContainedRuns:
    """Write the runs that have rows, in the snapshot of ``conn``, and their requests."""
    domain = sql.Literal(files.domain)
    counts = dict(conn.execute(_COUNTS, (files.domain,)).fetchall())
    if not counts:
        return ContainedRuns()
    runs = _file(conn, store, files, RUNS, attempt, _RUN_COLUMNS, _RUNS.format(domain=domain))
    requests = _file(
        conn, store, files, REQUESTS, attempt, _REQUEST_COLUMNS, _REQUESTS.format(domain=domain)
    )
    scenarios = tuple(row for (row,) in conn.execute(_SCENARIOS, (files.domain,)).fetchall())
    return ContainedRuns(counts=counts, file=runs, requests=requests, scenarios=scenarios)


def _file(
    conn: psycopg.Connection[Any],
    store: Store,
    files: BaselineFiles,
    part: str,
    attempt: str,
    columns: Sequence[TableColumn],
    source: sql.Composable,
) -> PartFile:
    path = files.catalog(part, attempt)
    with parquet_writer(store, path, arrow_schema(columns), group_bytes=GROUP_BYTES) as writer:
        for batch in read_source(conn, source, columns):
            writer.write(batch)
    return part_file(files, writer)


def leases(conn: psycopg.Connection[Any], domain: str) -> list[dict[str, Any]]:
    """Who holds how many runs of a domain: ``owner`` and ``leases``."""
    return [
        {"owner": owner, "leases": count}
        for owner, count in conn.execute(_LEASES, (domain,)).fetchall()
    ]


def bring_in_line(conn: psycopg.Connection[Any], store: Store, manifest: Manifest) -> RunsInLine:
    """Make runs ready or leased exactly if their rows are there, in the restoring transaction.

    Runs of the baseline are ready, without token and owner, also those that this catalog did not
    know. Of the others, leased ones are expired and ready ones are cleaned.
    """
    files = BaselineFiles(manifest.domain, manifest.baseline_id)
    for scenario in manifest.runs.scenarios:
        conn.execute(_ADD_SCENARIO, (Jsonb(scenario),))
    conn.execute(_SCRATCH)
    for part, table, columns in (
        (manifest.runs.file, "baseline_run", _RUN_COLUMNS),
        (manifest.runs.requests, "baseline_request", _REQUEST_COLUMNS),
    ):
        if part is not None:
            relation = sql.Identifier("pg_temp", table)
            write_rows(conn, relation, columns, part_batches(store, files, part))
    conn.execute("ANALYZE pg_temp.baseline_run")
    conn.execute(_ADD_REQUESTS)
    expired = conn.execute(_EXPIRE_LEASED, (manifest.domain,)).rowcount
    cleaned = conn.execute(_CLEAN_OTHERS, (manifest.domain,)).rowcount
    conn.execute(_READY_AGAIN)
    conn.execute(_ADD_RUNS)
    conn.execute(_NEXT_NUMBER, (manifest.next_number, manifest.domain))
    row = conn.execute("SELECT count(*) FROM pg_temp.baseline_run").fetchone()
    conn.execute("DROP TABLE pg_temp.baseline_run, pg_temp.baseline_request")
    return RunsInLine(
        ready=int(row[0]) if row else 0,
        cleaned=cleaned,
        expired=expired,
    )


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
_SCRATCH = """
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
