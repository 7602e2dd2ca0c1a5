"""Capturing a baseline: one consistent state of a domain's schema, written to the store.

The order of locks makes it consistent. The domain's shared lock is taken on another connection,
because taking it here would fix the snapshot before the tables are locked. The tables are locked
before the snapshot is exported, because a snapshot sees a table empty that is truncated after it.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
import pyarrow as pa

from atdm_engine import ENGINE_VERSION
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import RowHash
from atdm_engine.progress import Progress
from atdm_resources.catalog import baselines
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres import snapshot
from atdm_resources.postgres.columns import TableColumn
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.introspect import (
    LiveTable,
    definitions,
    foreign_keys,
    in_load_order,
    live_tables,
)
from atdm_resources.postgres.locks import RequestLock
from atdm_resources.postgres.sequences import sequences
from atdm_resources.postgres.table_locks import lock_for_reading
from atdm_resources.postgres.table_rows import (
    arrow_schema,
    count_rows,
    fix_text_form,
    read_rows,
    typed,
)
from atdm_resources.postgres.target import ensure_disposable
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import parquet_writer
from atdm_services.baselines import contained_runs
from atdm_services.baselines.manifest import (
    BaselineFiles,
    BaselineTable,
    Manifest,
    check_id,
    content_hash_of,
    exists,
    new_id,
    publish_manifest,
)
from atdm_services.baselines.part_files import GROUP_BYTES, part_file
from atdm_services.baselines.sweep import sweep

CONNECTIONS: Final = 2
_ATTEMPTS = 5
_APPLICATION = "atdm baseline capture"


def capture(
    url: str,
    store: Store,
    domain: str,
    baseline_id: str | None = None,
    *,
    actor: Actor,
    connections: int = CONNECTIONS,
    progress: Progress | None = None,
) -> Manifest:
    """Copy every table of the domain's schema as it is at one moment; returns the manifest.

    Writers are not held up. Memory is bounded by a few batches for each connection.

    Raises:
        AtdmError: REQUEST_INVALID for a bad id; BASELINE_EXISTS; BUSY while the domain is reset or
            restored, or the same id is being captured; SNAPSHOT_FAILED naming the table;
            STORE_FAILED; TARGET_NOT_INITIALISED. Nothing of the baseline is left then.
    """
    files = BaselineFiles(domain, new_id() if baseline_id is None else check_id(baseline_id))
    name = files.baseline_id
    busy = AtdmError(
        ErrorCode.BUSY,
        f"baseline {name} of {domain} is being captured by another process",
        {"domain": domain, "baseline_id": name},
    )
    with connect(url) as conn:
        ensure_disposable(conn)
        sweep(conn, store, domain)
        with RequestLock(url, domain, baselines.capture_lock(domain, name), busy=busy):
            if store.exists(files.manifest):
                raise exists(domain, name)
            baselines.begin_capture(conn, domain, name, store.url, actor)
            work = _Capture(url, store, files, actor, progress)
            try:
                manifest = work.run(max(1, connections))
                publish_manifest(store, manifest)
            except BaseException as error:
                known = _as_atdm_error(error, domain, name)
                with suppress(AtdmError):
                    work.clear()
                if not conn.closed:
                    baselines.fail_capture(conn, domain, name, actor, known)
                # ValueError: a text that is not what the server's encoding promises.
                if isinstance(error, psycopg.Error | ValueError):
                    raise known from error
                raise
            # Files of attempts under this id that died or were slower.
            with suppress(AtdmError):
                work.clear(keep=manifest)
            row = manifest.catalog_row(store.url)
            baselines.publish(conn, row, actor, manifest.summary())
    return manifest


def _as_atdm_error(error: BaseException, domain: str, baseline_id: str) -> AtdmError:
    if isinstance(error, AtdmError):
        return error
    reason = str(error) or type(error).__name__
    details: dict[str, Any] = {"domain": domain, "baseline_id": baseline_id}
    if isinstance(error, psycopg.Error):
        reason = error.diag.message_primary or reason
        details |= {"sqlstate": error.sqlstate, "table": error.diag.table_name}
    return AtdmError(
        ErrorCode.SNAPSHOT_FAILED, f"capturing baseline {baseline_id} failed: {reason}", details
    )


class _Capture:
    """One attempt: its connections, and what they have copied so far."""

    def __init__(
        self,
        url: str,
        store: Store,
        files: BaselineFiles,
        actor: Actor,
        progress: Progress | None,
    ) -> None:
        self._url = url
        self._store = store
        self._files = files
        self._actor = actor
        self._progress = progress
        self._attempt = secrets.token_hex(4)
        self._waiting: deque[LiveTable] = deque()
        self._refused: deque[LiveTable] = deque()
        self._done: dict[str, BaselineTable] = {}
        self._errors: list[BaseException] = []
        self._stop = threading.Event()
        self._mutex = threading.Lock()
        self._copied = 0
        self._total = 0

    def run(self, connections: int) -> Manifest:
        with snapshot.reading(self._url, _APPLICATION) as main:
            tables = self._locked(main)
            seen = snapshot.export(main)
            self._total = sum(table.about_rows for table in tables.values())
            self._waiting.extend(
                sorted(tables.values(), key=lambda table: table.bytes, reverse=True)
            )
            workers = [
                threading.Thread(target=self._worker, args=(seen,), daemon=True)
                for _ in range(min(connections, len(tables)) - 1)
            ]
            for worker in workers:
                worker.start()
            try:
                self._take_tables(main, self._waiting)
            except BaseException as error:
                self._failed(error)
            finally:
                for worker in workers:
                    worker.join()
            if not self._errors:
                try:
                    # This connection has their locks already, so it waits for no other session.
                    self._take_tables(main, self._refused)
                    return self._manifest(main, tables)
                except BaseException as error:
                    self._failed(error)
        raise self._errors[0]

    def clear(self, keep: Manifest | None = None) -> None:
        """Delete this attempt's files; with ``keep``, all that the manifest does not name."""
        kept = {self._files.full(file) for file in keep.files} if keep else set()
        kept.add(self._files.manifest)
        for path in self._store.files(self._files.folder):
            if path not in kept and (keep is not None or self._attempt in path):
                self._store.delete_prefix(path)

    def _locked(self, conn: psycopg.Connection[Any]) -> dict[str, LiveTable]:
        """The tables in load order, locked before the transaction has a snapshot."""
        domain = self._files.domain
        for _ in range(_ATTEMPTS):
            with connect(self._url) as looking:
                expected = live_tables(looking, domain)
            if not expected:
                raise AtdmError(
                    ErrorCode.SNAPSHOT_FAILED,
                    f"schema {domain} has no tables; run atdm init",
                    {"domain": domain},
                )
            try:
                lock_for_reading(conn, [table.relation for table in expected.values()])
                fix_text_form(conn)
                found = live_tables(conn, domain)
            except psycopg.errors.UndefinedTable:
                conn.rollback()
                continue
            oids = {table.oid for table in found.values()}
            if oids == {table.oid for table in expected.values()}:
                return in_load_order(found, foreign_keys(conn, oids))
            conn.rollback()
        raise AtdmError(
            ErrorCode.BUSY,
            f"tables of {domain} are being made and dropped: there is no moment to capture",
            {"domain": domain},
        )

    def _worker(self, seen: str) -> None:
        try:
            with snapshot.reading(self._url, _APPLICATION) as conn:
                snapshot.adopt(conn, seen)
                fix_text_form(conn)
                self._take_tables(conn, self._waiting, own_lock=True)
        except BaseException as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        with self._mutex:
            self._errors.append(error)
        self._stop.set()

    def _take_tables(
        self, conn: psycopg.Connection[Any], tables: deque[LiveTable], *, own_lock: bool = False
    ) -> None:
        while not self._stop.is_set():
            try:
                table = tables.popleft()
            except IndexError:
                return
            if own_lock:
                try:
                    # Waiting behind a session that waits for the first connection's lock would be
                    # a deadlock that PostgreSQL cannot see.
                    with conn.transaction():
                        lock_for_reading(conn, [table.relation], wait=False)
                except psycopg.errors.LockNotAvailable:
                    self._refused.append(table)
                    continue
            self._done[table.name] = self._copied_table(conn, table)

    def _copied_table(self, conn: psycopg.Connection[Any], table: LiveTable) -> BaselineTable:
        every = tuple(typed(column) for column in table.columns)
        columns = [column for column in every if not column.generated]
        digest = RowHash()
        made: dict[str, Any] = {}
        if columns:
            path = self._files.part(table.name, attempt=self._attempt)
            schema = arrow_schema(columns)
            with parquet_writer(self._store, path, schema, group_bytes=GROUP_BYTES) as writer:
                for batch in self._rows(conn, table, columns):
                    digest.add(batch)
                    writer.write(batch)
            made["files"] = (part_file(self._files, writer),)
            rows = digest.rows
        else:
            rows = count_rows(conn, table.relation)
        return BaselineTable(
            name=table.name,
            columns=every,
            key=table.key,
            rows=rows,
            content_hash=digest.hexdigest(),
            partition_of=table.partition_of,
            **made,
        )

    def _rows(
        self, conn: psycopg.Connection[Any], table: LiveTable, columns: Sequence[TableColumn]
    ) -> Iterator[pa.RecordBatch]:
        for batch in read_rows(conn, table.relation, columns):
            if self._stop.is_set():
                raise AtdmError(ErrorCode.SNAPSHOT_FAILED, "another connection failed")
            yield batch
            if self._progress is not None:
                with self._mutex:
                    self._copied += batch.num_rows
                    self._progress(
                        f"copied {table.name}; rows in all",
                        self._copied,
                        max(self._total, self._copied),
                    )

    def _manifest(self, conn: psycopg.Connection[Any], tables: Mapping[str, LiveTable]) -> Manifest:
        domain = self._files.domain
        ordered: Sequence[BaselineTable] = [self._done[name] for name in tables]
        database, next_number = baselines.database_and_next_number(conn, domain)
        return Manifest(
            baseline_id=self._files.baseline_id,
            domain=domain,
            kind="captured",
            captured_at=datetime.now(UTC),
            captured_by=self._actor.invoker,
            source=self._actor.source,
            reason=self._actor.reason,
            engine_version=ENGINE_VERSION,
            postgres_version=conn.info.parameter_status("server_version") or "",
            database=database,
            tables=tuple(ordered),
            definitions=definitions(conn, domain),
            sequences=sequences(conn, domain),
            runs=contained_runs.written(conn, self._store, self._files, self._attempt),
            next_number=next_number,
            content_hash=content_hash_of(ordered),
        )
