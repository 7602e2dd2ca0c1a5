"""Making runs and bringing them into a target, timed."""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

from atdm_engine.bundle.registry import Registry
from atdm_engine.generation import batches
from atdm_engine.generation.request import RequestSpec, resolve
from atdm_resources.catalog import requests
from atdm_resources.catalog.requests import RequestRecord
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import ParquetWriter, parquet_writer
from atdm_services.requests import load
from atdm_services.requests.request import mint_request_id
from atdm_services.requests.results import Seeded, StagedTable


@dataclasses.dataclass(frozen=True)
class StagedRequest:
    """A recorded request with its rows in the store."""

    spec: RequestSpec
    record: RequestRecord
    store: Store
    tables: dict[str, StagedTable]
    seconds: float

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables.values())


def stage_runs(
    conn: psycopg.Connection[Any], registry: Registry, scenario: str, runs: int, folder: Path
) -> StagedRequest:
    """Record a request and write its rows as Parquet."""
    spec = resolve(
        *registry.find(scenario),
        {},
        runs=runs,
        request_id=mint_request_id(),
    )
    record = requests.create_request(
        conn,
        spec,
        numbers=spec.numbers_needed,
        pooled=True,
        invoker="human:benchmark",
        source="benchmark",
    )
    spec = dataclasses.replace(spec, number_base=record.number_base)
    store = Store(folder.as_uri())
    place = requests.request_folder(spec.domain.name, spec.scenario.name, spec.request_id)
    started = time.perf_counter()
    writers: dict[str, ParquetWriter] = {}
    with ExitStack() as stack:
        for batch in batches.batches(spec):
            for name, rows in batch.items():
                if name not in writers:
                    opened = parquet_writer(store, f"{place}/{name}.parquet", rows.schema)
                    writers[name] = stack.enter_context(opened)
                writers[name].write(rows)
    tables = {
        name: StagedTable(writer.path, writer.rows, writer.bytes, "")
        for name, writer in writers.items()
    }
    return StagedRequest(spec, record, store, tables, time.perf_counter() - started)


def seed_staged(conn: psycopg.Connection[Any], staged: StagedRequest) -> Seeded:
    """Load a staged request."""
    return load.seed(
        conn,
        staged.store,
        staged.record,
        staged.spec,
        staged.tables,
        content_hash="",
    )


def seed_runs(
    conn: psycopg.Connection[Any], registry: Registry, scenario: str, runs: int, folder: Path
) -> Seeded:
    """Make and load ``runs`` ready runs."""
    return seed_staged(conn, stage_runs(conn, registry, scenario, runs, folder))
