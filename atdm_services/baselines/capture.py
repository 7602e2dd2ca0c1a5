"""Capturing a baseline: one consistent state of a domain's schema, into the store.

The order of locks is what makes it consistent: the domain's shared lock is
taken on another connection, because taking it here would fix the snapshot before the tables are
locked; the tables are locked before the snapshot is exported, because a snapshot sees a table empty
that is truncated after it.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg import sql

from atdm_engine import ENGINE_VERSION
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import RowHash
from atdm_engine.progress import Progress
from atdm_resources.postgres.columns import TableColumn
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.introspect import LiveTable, definitions, live_tables, sequences
from atdm_resources.postgres.locks import RequestLock
from atdm_resources.postgres.table_rows import arrow_schema, fix_text_form, read_rows, typed
from atdm_resources.postgres.target import ensure_disposable
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import parquet_writer
from atdm_services.baselines import contained_runs, records
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
from atdm_services.baselines.records import Actor

CONNECTIONS: Final = 2
_ATTEMPTS = 5


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
    name = new_id() if baseline_id is None else check_id(baseline_id)
    with connect(url) as conn:
        ensure_disposable(conn)
        records.sweep_captures(conn, store, domain)
        with _held(url, domain, name):
            if store.exists(BaselineFiles(domain, name).manifest):
                raise exists(domain, name)
            records.snapshot_started(conn, store, domain, name, actor)
            work = _Capture(url, store, BaselineFiles(domain, name), actor, progress)
            try:
                manifest = work.run(max(1, connections))
                publish_manifest(store, manifest)
            except BaseException as error:
                known = _as_atdm_error(error, domain, name)
                with suppress(AtdmError):
                    work.clear()
                if not conn.closed:
                    records.snapshot_failed(conn, domain, name, actor, known)
                # ValueError: a text that is not what the server's encoding promises.
                if isinstance(error, psycopg.Error | ValueError):
                    raise known from error
                raise
            # Files of attempts that died under this id, or lost the race for it.
            with suppress(AtdmError):
                work.clear(keep=manifest)
            records.published(conn, store, manifest, actor)
    return manifest


@contextmanager
def _held(url: str, domain: str, baseline_id: str) -> Iterator[None]:
    lock = RequestLock(url, domain, records.lock_name(domain, baseline_id))
    try:
        lock.__enter__()
    except AtdmError as error:
        if "request_id" in error.details:
            raise AtdmError(
                ErrorCode.BUSY,
                f"baseline {baseline_id} of {domain} is being captured by somebody else",
                {"domain": domain, "baseline_id": baseline_id},
            ) from error
        raise
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _as_atdm_error(error: BaseException, domain: str, baseline_id: str) -> AtdmError:
    if isinstance(error, AtdmError):
        return error
    said = str(error) or type(error).__name__
    details: dict[str, Any] = {"domain": domain, "baseline_id": baseline_id}
    if isinstance(error, psycopg.Error):
        said = error.diag.message_primary or said
        details |= {"sqlstate": error.sqlstate, "table": error.diag.table_name}
    return AtdmError(
        ErrorCode.SNAPSHOT_FAILED, f"capturing baseline {baseline_id} failed: {said}", details
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
        domain = self._files.domain
        with ExitStack() as stack:
            main = stack.enter_context(self._connection())
            tables = self._locked(main, domain)
            row = main.execute("SELECT pg_export_snapshot()").fetchone()
            assert row is not None
            self._total = sum(table.about_rows for table in tables.values())
            self._waiting.extend(
                sorted(tables.values(), key=lambda table: table.bytes, reverse=True)
            )
            workers = [
                threading.Thread(target=self._worker, args=(row[0],), daemon=True)
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
                    # Locked by this connection already, so nobody who waits stands in the way.
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

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        conn = connect(self._url, autocommit=False, application_name="atdm baseline capture")
        try:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            conn.read_only = True
            yield conn
        finally:
            conn.close()

    def _locked(self, conn: psycopg.Connection[Any], domain: str) -> dict[str, LiveTable]:
        """The tables, locked before the transaction has a snapshot."""
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
                conn.execute(
                    sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(
                        sql.SQL(", ONLY ").join(table.relation for table in expected.values())
                    )
                )
                fix_text_form(conn)
                found = live_tables(conn, domain)
            except psycopg.errors.UndefinedTable:
                conn.rollback()
                continue
            if {table.oid for table in found.values()} == {t.oid for t in expected.values()}:
                return found
            conn.rollback()
        raise AtdmError(
            ErrorCode.BUSY,
            f"tables of {domain} are being made and dropped: there is no moment to capture",
            {"domain": domain},
        )

    def _worker(self, snapshot: str) -> None:
        try:
            with self._connection() as conn:
                conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
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
                    # Waiting here behind somebody who waits for the first connection's lock would
                    # be a deadlock that PostgreSQL cannot see.
                    with conn.transaction():
                        conn.execute(
                            sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE NOWAIT").format(
                                table.relation
                            )
                        )
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
            row = conn.execute(
                sql.SQL("SELECT count(*) FROM ONLY {}").format(table.relation)
            ).fetchone()
            rows = int(row[0]) if row else 0
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

    def _manifest(self, conn: psycopg.Connection[Any], tables: dict[str, LiveTable]) -> Manifest:
        domain = self._files.domain
        ordered: Sequence[BaselineTable] = [self._done[name] for name in tables]
        row = conn.execute(
            "SELECT current_database(), next_number FROM atdm.domain WHERE domain = %s", (domain,)
        ).fetchone()
        assert row is not None
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
            database=row[0],
            tables=tuple(ordered),
            definitions=definitions(conn, domain),
            sequences=sequences(conn, domain),
            runs=contained_runs.written(conn, self._store, self._files, self._attempt),
            next_number=row[1],
            content_hash=content_hash_of(ordered),
        )
