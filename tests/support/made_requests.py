"""Requests made and loaded without Dagster, for tests of what happens to their runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa

from atdm_engine.bundle.registry import Registry
from atdm_engine.generation import batches
from atdm_engine.generation.request import RequestSpec, resolve
from atdm_engine.hashing.content import ContentHash, combined
from atdm_engine.random import run_ids
from atdm_engine.values.scalars import json_value
from atdm_resources.catalog import requests
from atdm_resources.catalog.requests import RequestRecord
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import ParquetWriter, parquet_writer, write_table
from atdm_services.requests import load
from atdm_services.requests.request import mint_request_id
from atdm_services.requests.results import Seeded, StagedTable


@dataclasses.dataclass(frozen=True)
class Made:
    """A request whose runs are in the target."""

    spec: RequestSpec
    record: RequestRecord
    result: Seeded
    content_hash: str

    @property
    def request_id(self) -> str:
        return self.record.request_id

    def run(self, number: int) -> str:
        return run_ids.run_id(self.request_id, number)


def recorded(
    conn: psycopg.Connection[Any],
    registry: Registry,
    scenario: str = "active_member_clean",
    *,
    runs: int = 1,
    constraints: Mapping[str, Any] | None = None,
    pooled: bool = True,
    label: str | None = None,
    numbers: int | None = None,
    **options: Any,
) -> tuple[RequestSpec, RequestRecord]:
    """A pending request and its spec."""
    spec = resolve(
        *registry.find(scenario), constraints or {}, runs=runs, request_id=mint_request_id()
    )
    record = requests.create_request(
        conn,
        spec,
        numbers=spec.numbers_needed if numbers is None else numbers,
        pooled=pooled,
        label=label,
        invoker="human:tester",
        source="test",
        **options,
    )
    return dataclasses.replace(spec, number_base=record.number_base), record


def staged(
    store: Store, spec: RequestSpec, batch_runs: int = 10_000
) -> tuple[dict[str, StagedTable], str | None, str]:
    """The request's rows in the store, the path of its exposed values, its content hash."""
    folder = requests.request_folder(spec.domain.name, spec.scenario.name, spec.request_id)
    writers: dict[str, ParquetWriter] = {}
    hashes = {
        table: ContentHash(spec.domain, table, spec.request_id, spec.number_base)
        for table in spec.scenario.tables
    }
    exposed: list[pa.Table] = []
    with ExitStack() as stack:
        for batch in batches.batches(spec, batch_runs):
            for table, rows in batch.items():
                if table not in writers:
                    opened = parquet_writer(store, f"{folder}/{table}.parquet", rows.schema)
                    writers[table] = stack.enter_context(opened)
                writers[table].write(rows)
                hashes[table].add(rows)
            numbers, data = batches.exposed_data(spec, batch)
            if numbers:
                ids = [run_ids.run_id(spec.request_id, number) for number in numbers]
                texts = [json.dumps(json_value(values)) for values in data]
                exposed.append(pa.table({"test_run_id": ids, "data": texts}))
    path = None
    if exposed:
        path = f"{folder}/exposed.parquet"
        write_table(store, path, pa.concat_tables(exposed))
    digests = {table: digest.hexdigest() for table, digest in hashes.items()}
    files = {
        table: StagedTable(writer.path, writer.rows, writer.bytes, digests[table])
        for table, writer in writers.items()
    }
    return files, path, combined(digests)


def seeded(
    conn: psycopg.Connection[Any],
    folder: Path,
    registry: Registry,
    scenario: str = "active_member_clean",
    **options: Any,
) -> Made:
    """A request with its runs in the target and its files under ``folder``."""
    store = Store(folder.as_uri())
    spec, record = recorded(conn, registry, scenario, **options)
    files, exposed, content_hash = staged(store, spec)
    result = load.seed(
        conn,
        store,
        record,
        spec,
        files,
        content_hash=content_hash,
        exposed=exposed,
    )
    return Made(spec, record, result, content_hash)


def rows_left(conn: psycopg.Connection[Any], test_run_id: str) -> dict[str, int]:
    """How many rows of a run are in each table of its domain."""
    from psycopg import sql

    counts = {}
    for schema, table in conn.execute(
        "SELECT schema_name, table_name FROM atdm.domain_table ORDER BY load_order"
    ).fetchall():
        query = sql.SQL("SELECT count(*) FROM {} WHERE test_run_id = %s").format(
            sql.Identifier(schema, table)
        )
        row = conn.execute(query, (test_run_id,)).fetchone()
        assert row is not None
        counts[table] = int(row[0])
    return counts
