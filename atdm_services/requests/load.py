"""The seeding transaction: rows into the target, runs, status, audit events; all or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.model import Domain, Scenario
from atdm_engine.progress import Progress
from atdm_engine.random.run_ids import run_id_array
from atdm_resources.catalog import requests
from atdm_resources.catalog.requests import RequestRecord
from atdm_resources.postgres.errors import as_atdm_error
from atdm_resources.postgres.ownership import Loaded, RunColumn, RunOwnership
from atdm_resources.postgres.target import ensure_disposable
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import read_batches
from atdm_resources.telemetry import tracing

RUN_TABLE = "test_run"
EXPOSED_COLUMNS = ("test_run_id", "data")
"""Of the file of exposed values: the run, and a JSON object of name and value as text."""

# The server waits for the first batch of every table, so batches are small.
_ROWS_A_BATCH = 8_192
_RUNS_A_BATCH = 8_192
_LISTED_ROWS = 100


@dataclass(frozen=True, slots=True)
class StagedTable:
    """A table's rows in the store, ready to be loaded. ``bytes`` is the size of the file."""

    path: str
    rows: int
    bytes: int
    content_hash: str


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What the seeding transaction did. ``tables`` has every table and, last, ``test_run``."""

    request_id: str
    runs: int
    tables: dict[str, Loaded]
    seconds: float

    @property
    def rows(self) -> int:
        """Rows of the domain's tables."""
        return sum(done.rows for name, done in self.tables.items() if name != RUN_TABLE)


def seed(
    conn: psycopg.Connection[Any],
    store: Store,
    record: RequestRecord,
    domain: Domain,
    scenario: Scenario,
    staged: Mapping[str, StagedTable],
    *,
    content_hash: str,
    exposed: str | None = None,
    progress: Progress | None = None,
    ownership: RunOwnership | None = None,
) -> SeedResult:
    """Load the staged rows of a request and make its runs ready, in one transaction.

    Tables go in foreign-key order. A request that is ready already is made again: its rows and runs
    are replaced, provided that all of them are still ready. ``exposed`` is the path of a Parquet
    file with EXPOSED_COLUMNS for what a lease hands out beyond keys that follow from the run id.
    ``conn`` must be in autocommit mode.

    Raises:
        AtdmError: SEED_FAILED naming the table and what the database said; REQUEST_CONFLICT when
            the request was rolled back meanwhile or runs of it are in use; BUSY; STORE_FAILED;
            TARGET_NOT_DISPOSABLE. Nothing of the request is in the target then.
    """
    started = time.perf_counter()
    rows = ownership or RunColumn()
    done: dict[str, Loaded] = {}
    current = "(start)"
    ensure_disposable(conn)
    try:
        with conn.transaction():
            _enter(conn, record)
            _clear_earlier(conn, record, rows)
            for current in scenario.tables:
                file = staged[current]
                with tracing.span("atdm.load_table", table=current, rows=file.rows):
                    done[current] = rows.load(
                        conn,
                        domain.name,
                        current,
                        read_batches(store, file.path, _ROWS_A_BATCH),
                        _reporter(progress, current, file.rows),
                    )
                if done[current].rows != file.rows:
                    raise AtdmError(
                        ErrorCode.SEED_FAILED,
                        f"{store.uri(file.path)} holds {done[current].rows} rows, "
                        f"{file.rows} were staged",
                        {"table": current},
                    )
            current = RUN_TABLE
            batches = run_batches(conn, record, store, exposed)
            with tracing.span("atdm.load_table", table=current, rows=record.runs):
                report = _reporter(progress, current, record.runs)
                done[current] = RunColumn().load(conn, "atdm", current, batches, report)
            current = "request"
            _record(conn, record, domain, staged, done, content_hash)
    except psycopg.Error as error:
        raise as_atdm_error(error) or _failed(record, current, error) from error
    return SeedResult(record.request_id, record.runs, done, time.perf_counter() - started)


def _reporter(progress: Progress | None, table: str, total: int) -> Callable[[int], None] | None:
    """What tells ``progress`` how many of the ``total`` rows of ``table`` are sent."""
    return None if progress is None else lambda rows: progress(f"loaded {table}", rows, total)


def _enter(conn: psycopg.Connection[Any], record: RequestRecord) -> None:
    """Take part in the domain, and make sure that nobody has given the request up."""
    row = conn.execute(
        "SELECT pg_try_advisory_xact_lock_shared(atdm.domain_lock_key(%s))", (record.domain,)
    ).fetchone()
    if row is None or not row[0]:
        raise AtdmError(
            ErrorCode.BUSY,
            f"domain {record.domain} is being reset or restored",
            {"domain": record.domain},
        )
    status = conn.execute(
        "SELECT status FROM atdm.request WHERE request_id = %s FOR UPDATE", (record.request_id,)
    ).fetchone()
    if status is None or status[0] not in ("pending", "ready"):
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"request {record.label!r} is {status[0] if status else 'gone'}: it was given up "
            "while its data was being made",
            {"request_id": record.request_id},
        )


def _clear_earlier(
    conn: psycopg.Connection[Any], record: RequestRecord, rows: RunOwnership
) -> None:
    """Remove what an earlier execution of the same request left, if nobody uses it."""
    earlier = conn.execute(
        "SELECT test_run_id, status FROM atdm.test_run"
        " WHERE test_run_id > %s AND test_run_id <= left(%s, 20) || 'ZZZZZZ' FOR UPDATE",
        (record.request_id, record.request_id),
    ).fetchall()
    if not earlier:
        return
    used = [run for run, status in earlier if status != "ready"]
    if used:
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"request {record.label!r} cannot be made again: {len(used)} of its runs are or were "
            f"leased, {used[0]} for one",
            {"request_id": record.request_id, "runs": used[:20]},
        )
    rows.delete(conn, record.domain, [run for run, _ in earlier])
    conn.execute(
        "DELETE FROM atdm.test_run"
        " WHERE test_run_id > %s AND test_run_id <= left(%s, 20) || 'ZZZZZZ'",
        (record.request_id, record.request_id),
    )


def run_batches(
    conn: psycopg.Connection[Any], record: RequestRecord, store: Store, exposed: str | None
) -> Iterator[pa.RecordBatch]:
    """The rows of ``atdm.test_run`` for every run of the request."""
    key = None
    if record.pooled:
        row = conn.execute(
            "SELECT atdm.pool_key(s.domain, s.scenario_id, s.version,"
            " atdm.effective_constraints(s.parameters, s.defaults, %s))"
            " FROM atdm.scenario AS s"
            " WHERE s.domain = %s AND s.scenario_id = %s AND s.version = %s",
            (Jsonb(record.given), record.domain, record.scenario_id, record.scenario_version),
        ).fetchone()
        assert row is not None
        key = str(row[0])
    as_of = pa.scalar(record.as_of, pa.timestamp("us", tz="UTC"))
    names = ["test_run_id", "pool_key", "as_of", "data"]

    def batch(ids: pa.Array, data: pa.Array) -> pa.RecordBatch:
        keys = pa.nulls(len(ids), pa.string()) if key is None else pa.repeat(key, len(ids))
        return pa.record_batch([ids, keys, pa.repeat(as_of, len(ids)), data], names=names)

    if exposed is not None:
        return (
            batch(part.column(EXPOSED_COLUMNS[0]), part.column(EXPOSED_COLUMNS[1]))
            for part in read_batches(store, exposed, _RUNS_A_BATCH)
        )
    return (
        batch(
            run_id_array(
                record.request_id,
                np.arange(first, min(first + _RUNS_A_BATCH, record.runs + 1), dtype=np.int64),
            ),
            pa.nulls(min(_RUNS_A_BATCH, record.runs + 1 - first), pa.string()),
        )
        for first in range(1, record.runs + 1, _RUNS_A_BATCH)
    )


def _record(
    conn: psycopg.Connection[Any],
    record: RequestRecord,
    domain: Domain,
    staged: Mapping[str, StagedTable],
    done: Mapping[str, Loaded],
    content_hash: str,
) -> None:
    if done[RUN_TABLE].rows != record.runs:
        raise AtdmError(
            ErrorCode.SEED_FAILED,
            f"{done[RUN_TABLE].rows} runs were written, {record.runs} were asked for",
            {"request_id": record.request_id},
        )
    tables = {
        name: {
            "rows": file.rows,
            "bytes": file.bytes,
            "content_hash": file.content_hash,
            "path": file.path,
        }
        for name, file in staged.items()
        if name in done
    }
    conn.execute(
        "UPDATE atdm.request SET status = 'ready', finished_at = clock_timestamp(),"
        " content_hash = %s, tables = %s, error = NULL WHERE request_id = %s",
        (content_hash, Jsonb(tables), record.request_id),
    )
    requests.add_event(
        conn,
        "seed_completed",
        record,
        outputs={
            "records_created": list(_records_created(conn, record, domain, done)),
            "seconds": {name: round(part.seconds, 3) for name, part in done.items()},
        },
    )
    requests.add_event(
        conn,
        "catalog_recorded",
        record,
        outputs={"status": "ready", "runs": record.runs, "content_hash": content_hash},
    )


def _records_created(
    conn: psycopg.Connection[Any],
    record: RequestRecord,
    domain: Domain,
    done: Mapping[str, Loaded],
) -> Iterator[dict[str, Any]]:
    """Kind and count of what was made; with primary keys (A-AUD-05) where they are few."""
    listed = sum(part.rows for part in done.values()) <= _LISTED_ROWS
    for name, part in done.items():
        if name == RUN_TABLE:
            continue
        if not listed:
            yield {"kind": name, "count": part.rows}
            continue
        keys = sql.SQL(", ").join(sql.Identifier(key) for key in domain.tables[name].key_columns)
        query = sql.SQL(
            "SELECT concat_ws(',', {}) FROM {} WHERE test_run_id > %s"
            " AND test_run_id <= left(%s, 20) || 'ZZZZZZ' ORDER BY 1"
        ).format(keys, sql.Identifier(domain.name, name))
        for (key,) in conn.execute(query, (record.request_id, record.request_id)):
            yield {"kind": name, "primary_key": key}


def _failed(record: RequestRecord, table: str, error: psycopg.Error) -> AtdmError:
    said = error.diag.message_primary or str(error)
    return AtdmError(
        ErrorCode.SEED_FAILED,
        f"loading {table} of request {record.request_id} failed: {said}",
        {
            "request_id": record.request_id,
            "table": table,
            "sqlstate": error.sqlstate,
            "constraint": error.diag.constraint_name,
            "reason": said,
            "detail": error.diag.message_detail,
        },
    )
