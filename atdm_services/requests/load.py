"""The loading transaction of a request: rows, test runs, status, events; all or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.request import RequestSpec
from atdm_engine.progress import Progress
from atdm_engine.random.run_ids import run_id_array
from atdm_resources.catalog import requests
from atdm_resources.catalog.requests import RequestRecord
from atdm_resources.postgres.errors import as_atdm_error
from atdm_resources.postgres.ownership import Loaded, RunColumn
from atdm_resources.postgres.run_rows import keys_of_request
from atdm_resources.postgres.target import ensure_disposable
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import read_batches
from atdm_resources.telemetry import tracing
from atdm_services.requests.results import RUN_TABLE, Seeded, StagedTable

EXPOSED_COLUMNS = ("test_run_id", "data")
"""Of the file of exposed values: the run, and a JSON object of name and value as text."""

# The server waits for the first batch of every table, so batches are small.
_ROWS_A_BATCH = 8_192
_RUNS_A_BATCH = 8_192
_LISTED_ROWS = 100


def seed(
    conn: psycopg.Connection[Any],
    store: Store,
    record: RequestRecord,
    spec: RequestSpec,
    staged: Mapping[str, StagedTable],
    *,
    content_hash: str,
    exposed: str | None = None,
    progress: Progress | None = None,
) -> Seeded:
    """Load the staged rows of a request and make its runs ready, in one transaction.

    Tables go in foreign-key order. Rows and runs of a request that is ready already are replaced,
    provided that all of its runs are still ready. ``exposed`` is the path of a Parquet file with
    EXPOSED_COLUMNS for what a lease hands out beyond keys that follow from the run id. ``conn``
    must be in autocommit mode. ``progress`` counts rows.

    Raises:
        AtdmError: SEED_FAILED naming the table and what the database reports; REQUEST_CONFLICT when
            the request was rolled back meanwhile or runs of it are in use; BUSY; STORE_FAILED;
            TARGET_NOT_DISPOSABLE. Nothing of the request is in the target then.
    """
    started = time.perf_counter()
    rows = RunColumn()
    done: dict[str, Loaded] = {}

    def load(schema: str, table: str, total: int, batches: Iterator[pa.RecordBatch]) -> None:
        def report(sent: int) -> None:
            if progress is not None:
                progress(f"loaded {table}", sent, total)

        with tracing.span("atdm.load_table", table=table, rows=total):
            done[table] = rows.load(conn, schema, table, batches, report)

    current = "(start)"
    ensure_disposable(conn)
    try:
        with conn.transaction():
            earlier = requests.begin_load(conn, record)
            if earlier:
                rows.delete(conn, record.domain, earlier)
                requests.forget_runs(conn, record.request_id)
            for current in spec.scenario.tables:
                file = staged[current]
                batches = read_batches(store, file.path, _ROWS_A_BATCH)
                load(record.domain, current, file.rows, batches)
                if done[current].rows != file.rows:
                    raise AtdmError(
                        ErrorCode.SEED_FAILED,
                        f"{store.uri(file.path)} holds {done[current].rows} rows, "
                        f"{file.rows} were staged",
                        {"table": current},
                    )
            current = RUN_TABLE
            load("atdm", RUN_TABLE, record.runs, run_batches(conn, record, store, exposed))
            current = "request"
            _record(conn, record, spec, staged, done, content_hash)
    except psycopg.Error as error:
        raise as_atdm_error(error) or seed_failed(
            error, current, f"request {record.request_id}", request_id=record.request_id
        ) from error
    return Seeded(record.request_id, record.runs, done, content_hash, time.perf_counter() - started)


def run_batches(
    conn: psycopg.Connection[Any], record: RequestRecord, store: Store, exposed: str | None
) -> Iterator[pa.RecordBatch]:
    """The rows of ``atdm.test_run`` for every run of the request, in batches.

    Columns: test_run_id, pool_key, as_of, data.
    """
    # Read before COPY begins, on whose connection nothing else can be asked.
    return _run_batches(record, requests.pool_key(conn, record), store, exposed)


def _run_batches(
    record: RequestRecord, pool_key: str | None, store: Store, exposed: str | None
) -> Iterator[pa.RecordBatch]:
    as_of = pa.scalar(record.as_of, pa.timestamp("us", tz="UTC"))
    names = ["test_run_id", "pool_key", "as_of", "data"]

    def batch(ids: pa.Array, data: pa.Array) -> pa.RecordBatch:
        keys = pa.repeat(pa.scalar(pool_key, pa.string()), len(ids))
        return pa.record_batch([ids, keys, pa.repeat(as_of, len(ids)), data], names=names)

    if exposed is not None:
        for part in read_batches(store, exposed, _RUNS_A_BATCH):
            yield batch(part.column(EXPOSED_COLUMNS[0]), part.column(EXPOSED_COLUMNS[1]))
        return
    for first in range(1, record.runs + 1, _RUNS_A_BATCH):
        numbers = np.arange(first, min(first + _RUNS_A_BATCH, record.runs + 1), dtype=np.int64)
        ids = run_id_array(record.request_id, numbers)
        yield batch(ids, pa.nulls(len(ids), pa.string()))


def _record(
    conn: psycopg.Connection[Any],
    record: RequestRecord,
    spec: RequestSpec,
    staged: Mapping[str, StagedTable],
    done: Mapping[str, Loaded],
    content_hash: str,
) -> None:
    if done[RUN_TABLE].rows != record.runs:
        raise AtdmError(
            ErrorCode.SEED_FAILED,
            f"{done[RUN_TABLE].rows} runs were written, the request has {record.runs}",
            {"request_id": record.request_id},
        )

    def keys(table: str) -> list[str]:
        columns = spec.domain.tables[table].key_columns
        return keys_of_request(conn, record.domain, table, columns, record.request_id)

    requests.mark_ready(
        conn,
        record,
        tables={
            name: {
                "rows": staged[name].rows,
                "bytes": staged[name].bytes,
                "content_hash": staged[name].content_hash,
                "path": staged[name].path,
            }
            for name in spec.scenario.tables
        },
        content_hash=content_hash,
        records_created=records_created(
            {table: done[table].rows for table in spec.scenario.tables},
            keys,
            sum(part.rows for part in done.values()),
        ),
        seconds={name: round(part.seconds, 3) for name, part in done.items()},
    )


def records_created(
    counts: Mapping[str, int], keys: Callable[[str], Iterable[str]], total: int
) -> list[dict[str, Any]]:
    """Kind and primary key of each row (A-AUD-05); above 100 rows in ``total``, counts by kind."""
    if total > _LISTED_ROWS:
        return [{"kind": table, "count": count} for table, count in counts.items()]
    return [{"kind": table, "primary_key": key} for table in counts for key in keys(table)]


def seed_failed(error: psycopg.Error, table: str, what: str, **ids: str) -> AtdmError:
    """SEED_FAILED for an error of the database while ``table`` of ``what`` was loaded."""
    reason = error.diag.message_primary or str(error)
    return AtdmError(
        ErrorCode.SEED_FAILED,
        f"loading {table} of {what} failed: {reason}",
        {
            **ids,
            "table": table,
            "sqlstate": error.sqlstate,
            "constraint": error.diag.constraint_name,
            "reason": reason,
            "detail": error.diag.message_detail,
        },
    )
