"""Test runs whose rows are in a baseline: written with it, and brought back by a restore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from atdm_resources.catalog import contained_runs as catalog
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


def _columns(names: Sequence[str]) -> tuple[TableColumn, ...]:
    return tuple(TableColumn(name=name, type="text") for name in names)


_RUN_COLUMNS = _columns(catalog.RUN_COLUMNS)
_REQUEST_COLUMNS = _columns(catalog.REQUEST_COLUMNS)


def written(
    conn: psycopg.Connection[Any], store: Store, files: BaselineFiles, attempt: str
) -> ContainedRuns:
    """Write the runs that have rows, in the snapshot of ``conn``, and their requests."""
    counts = catalog.counts(conn, files.domain)
    if not counts:
        return ContainedRuns()

    def write(part: str, columns: Sequence[TableColumn], source: sql.Composable) -> PartFile:
        path = files.catalog(part, attempt)
        with parquet_writer(store, path, arrow_schema(columns), group_bytes=GROUP_BYTES) as writer:
            for batch in read_source(conn, source, columns):
                writer.write(batch)
        return part_file(files, writer)

    return ContainedRuns(
        counts=counts,
        file=write(RUNS, _RUN_COLUMNS, catalog.runs(files.domain)),
        requests=write(REQUESTS, _REQUEST_COLUMNS, catalog.requests(files.domain)),
        scenarios=catalog.scenarios(conn, files.domain),
    )


def reconcile(
    conn: psycopg.Connection[Any], store: Store, manifest: Manifest
) -> catalog.ReconciledRuns:
    """Make runs ready or leased exactly if their rows are there, in the restoring transaction."""
    files = BaselineFiles(manifest.domain, manifest.baseline_id)
    catalog.create_tables(conn)
    for part, table, columns in (
        (manifest.runs.file, catalog.RUN_TABLE, _RUN_COLUMNS),
        (manifest.runs.requests, catalog.REQUEST_TABLE, _REQUEST_COLUMNS),
    ):
        if part is not None:
            write_rows(conn, table, columns, part_batches(store, files, part))
    return catalog.reconcile(conn, manifest.domain, manifest.runs.scenarios, manifest.next_number)
