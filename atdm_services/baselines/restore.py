"""Restoring a baseline: the domain's rows are replaced and verified in one transaction.

Until the commit the target is what it was, whenever the process or the server dies: TRUNCATE, COPY,
every change of a definition and the positions of sequences are undone with the transaction.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import RowHash
from atdm_engine.progress import Progress
from atdm_resources.catalog import baselines
from atdm_resources.catalog.contained_runs import ReconciledRuns, lease_counts
from atdm_resources.catalog.domain_lock import alone_in_domain
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres import constraints, sequences, table_locks, table_rows
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.introspect import ForeignKey, LiveTable, foreign_keys, live_tables
from atdm_resources.postgres.stored_hash import expression, server_agrees, stored
from atdm_resources.postgres.table_rows import arrow_schema, fix_text_form, read_rows
from atdm_resources.postgres.target import ensure_disposable
from atdm_resources.store.files import Store
from atdm_services.baselines import contained_runs
from atdm_services.baselines.listing import file_problems, latest, size_problems
from atdm_services.baselines.manifest import BaselineTable, Manifest, read_manifest
from atdm_services.baselines.row_encoder import (
    Piece,
    RowEncoder,
    TableSummary,
    is_binary,
    row_encoder,
)
from atdm_services.baselines.structure import differences
from atdm_services.baselines.sweep import recorded_restore, sweep

LARGE_ROWS: Final = 20_000
"""A table of so many rows is loaded without its keys and indexes, which are then made again."""

DOMAIN_TIMEOUT: Final = timedelta(seconds=60)
LOCK_TIMEOUT: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. ``revoked`` are owners and how many leases they lost."""

    baseline_id: str
    domain: str
    content_hash: str
    tables: dict[str, int]
    runs: ReconciledRuns
    revoked: list[dict[str, Any]]
    outside_references: list[str]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "rows": sum(self.tables.values()), "status": "restored"}


def restore(
    url: str,
    store: Store,
    domain: str,
    baseline_id: str | None = None,
    *,
    actor: Actor,
    revoke_leases: bool = False,
    domain_timeout: timedelta = DOMAIN_TIMEOUT,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    progress: Progress | None = None,
) -> Restored:
    """Bring the domain's tables to a baseline, the latest when none is named.

    Tables are compared with the manifest before anything is touched; files and stored rows are
    verified before the commit. Waits up to ``domain_timeout`` for work in the domain to end, and
    ``lock_timeout`` for sessions that have locked a table.

    Raises:
        AtdmError: NO_BASELINE, BASELINE_NOT_FOUND; BASELINE_INVALID naming every file that is
            damaged; TARGET_DRIFT naming every column that differs; BUSY naming the owners of
            leases, or the sessions that have locked the tables; RESTORE_FAILED;
            TARGET_NOT_DISPOSABLE. The target is as it was then.
    """
    began = time.perf_counter()
    with connect(url, application_name="atdm baseline restore") as conn:
        ensure_disposable(conn)
        sweep(conn, store, domain)
        with recorded_restore(conn, url, domain, baseline_id, actor) as actor:
            manifest: Manifest | None = None
            try:
                manifest = _manifest(store, domain, baseline_id)
                require_files(store, manifest)
                _refuse_leases(conn, domain, revoke=revoke_leases)
                with row_encoder(store, manifest) as encoder:
                    work = _Restore(conn, store, manifest, actor, lock_timeout, progress, encoder)
                    return alone_in_domain(
                        conn,
                        domain,
                        lambda: work.run(revoke_leases=revoke_leases, began=began),
                        domain_timeout,
                    )
            except BaseException as error:
                known = _as_atdm_error(error, domain, baseline_id)
                if manifest is not None and _may_be_damage(error):
                    problems = file_problems(store, manifest)
                    known = damaged(manifest, problems) if problems else known
                _record_failure(url, conn, domain, baseline_id, actor, known)
                if isinstance(error, psycopg.Error | AtdmError):
                    raise known from error
                raise


def require_files(store: Store, manifest: Manifest) -> None:
    """Raise AtdmError BASELINE_INVALID naming every file that is missing or cut off."""
    problems = list(size_problems(store, manifest))
    if problems:
        raise damaged(manifest, problems)


def damaged(manifest: Manifest, problems: Sequence[str]) -> AtdmError:
    """BASELINE_INVALID with what is wrong with each file."""
    return AtdmError(
        ErrorCode.BASELINE_INVALID,
        f"baseline {manifest.baseline_id} is damaged: {'; '.join(problems)}",
        {"baseline_id": manifest.baseline_id, "problems": list(problems)},
    )


def check_fit(conn: psycopg.Connection[Any], manifest: Manifest) -> dict[str, LiveTable]:
    """The target's tables, when they are those that the baseline was made from.

    Raises:
        AtdmError: TARGET_DRIFT naming every table and column that differs.
    """
    live = live_tables(conn, manifest.domain)
    drifted = sorted(differences(manifest, live))
    drifted += [
        f"{name}: the sequence is missing" for name in sequences.missing(conn, manifest.sequences)
    ]
    if drifted:
        listed = "\n".join(f"  {manifest.domain}.{line}" for line in drifted)
        raise AtdmError(
            ErrorCode.TARGET_DRIFT,
            f"{len(drifted)} differences between baseline {manifest.baseline_id} and the "
            f"database:\n{listed}\nNothing was changed.",
            {
                "domain": manifest.domain,
                "baseline_id": manifest.baseline_id,
                "differences": drifted,
            },
        )
    return live


def _manifest(store: Store, domain: str, baseline_id: str | None) -> Manifest:
    if baseline_id is not None:
        return read_manifest(store, domain, baseline_id)
    found = latest(store, domain)
    if found is None:
        raise AtdmError(
            ErrorCode.NO_BASELINE, f"domain {domain} has no baseline", {"domain": domain}
        )
    return found


def _refuse_leases(
    conn: psycopg.Connection[Any], domain: str, *, revoke: bool
) -> list[dict[str, Any]]:
    holders = lease_counts(conn, domain)
    if holders and not revoke:
        named = ", ".join(str(holder["owner"]) for holder in holders)
        raise AtdmError(
            ErrorCode.BUSY,
            f"test runs of domain {domain} are leased to {named}; reset them or revoke the leases",
            {"domain": domain, "owners": holders},
        )
    return holders


def _may_be_damage(error: BaseException) -> bool:
    """Whether damaged files may be the cause: the server may refuse a row before the checksum."""
    if isinstance(error, AtdmError):
        return error.code is ErrorCode.BASELINE_INVALID
    return isinstance(error, psycopg.DataError | psycopg.IntegrityError)


def _as_atdm_error(error: BaseException, domain: str, baseline_id: str | None) -> AtdmError:
    if isinstance(error, AtdmError):
        return error
    reason = str(error) or type(error).__name__
    details: dict[str, Any] = {"domain": domain, "baseline_id": baseline_id}
    if isinstance(error, psycopg.Error):
        reason = error.diag.message_primary or reason
        details |= {
            "sqlstate": error.sqlstate,
            "table": error.diag.table_name,
            "constraint": error.diag.constraint_name,
            "detail": error.diag.message_detail,
            "context": error.diag.context,
        }
    return AtdmError(ErrorCode.RESTORE_FAILED, f"the restore failed: {reason}", details)


def _record_failure(
    url: str,
    conn: psycopg.Connection[Any],
    domain: str,
    baseline_id: str | None,
    actor: Actor,
    error: AtdmError,
) -> None:
    reason = "no_baseline" if error.code is ErrorCode.NO_BASELINE else "downstream_status"
    outputs = {"reason": reason, "code": str(error.code), "message": error.message}
    with suppress(AtdmError, psycopg.Error):
        lost = conn.closed or conn.broken
        with connect(url) if lost else nullcontext(conn) as usable:
            baselines.add_baseline_event(
                usable, "restore_failed", domain, baseline_id, actor,
                status="failed", outputs=outputs,
            )  # fmt: skip


class _Restore:
    """The transaction."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        store: Store,
        manifest: Manifest,
        actor: Actor,
        lock_timeout: timedelta,
        progress: Progress | None,
        encoder: RowEncoder,
    ) -> None:
        self._conn = conn
        self._store = store
        self._manifest = manifest
        self._actor = actor
        self._lock_timeout = lock_timeout
        self._progress = progress
        self._encoder = encoder
        self._sent = 0

    def run(self, *, revoke_leases: bool, began: float) -> Restored:
        conn, manifest = self._conn, self._manifest
        revoked = _refuse_leases(conn, manifest.domain, revoke=revoke_leases)
        fix_text_form(conn)
        table_rows.allow_bulk_load(conn)
        live, references = self._locked()
        self._replace(live, references)
        self._set_sequences()
        runs = contained_runs.reconcile(conn, self._store, manifest)
        baselines.set_restored(conn, manifest.catalog_row(self._store.url), self._actor.invoker)
        result = Restored(
            baseline_id=manifest.baseline_id,
            domain=manifest.domain,
            content_hash=manifest.content_hash,
            tables={table.name: table.rows for table in manifest.tables},
            runs=runs,
            revoked=revoked,
            outside_references=[str(key) for key in references if key.outside],
            seconds=round(time.perf_counter() - began, 3),
        )
        baselines.add_baseline_event(
            conn,
            "restore_completed",
            manifest.domain,
            manifest.baseline_id,
            self._actor,
            outputs={"result": result.as_json()},
        )
        return result

    def _locked(self) -> tuple[dict[str, LiveTable], list[ForeignKey]]:
        """The tables and their foreign keys as they are, locked together with referring tables."""
        conn, manifest = self._conn, self._manifest

        def look() -> tuple[tuple[dict[str, LiveTable], list[ForeignKey]], list[sql.Identifier]]:
            live = check_fit(conn, manifest)
            oids = {live[table.name].oid for table in manifest.tables}
            references = [key for key in foreign_keys(conn, oids) if not key.inherited]
            others = {key.oid: key.relation for key in references if key.oid not in oids}
            return (live, references), list(others.values())

        names = [sql.Identifier(manifest.domain, table.name) for table in manifest.tables]
        try:
            return table_locks.lock_exclusively(conn, names, self._lock_timeout, look)
        except psycopg.ProgrammingError:
            # A table that is missing cannot be locked: it is named with every other difference.
            check_fit(conn, manifest)
            raise

    def _replace(self, live: dict[str, LiveTable], references: Sequence[ForeignKey]) -> None:
        conn, tables = self._conn, self._manifest.tables
        oids = [live[table.name].oid for table in tables]
        large = [live[table.name].oid for table in tables if table.rows >= LARGE_ROWS]
        removed = constraints.remove(conn, references, oids, large)
        table_rows.truncate(conn, [live[table.name].relation for table in tables])
        stored_tables = [table for table in tables if table.stored_columns]
        with closing(self._encoder.encode(stored_tables, comparable=server_agrees(conn))) as pieces:
            for table in tables:
                relation = live[table.name].relation
                if table.stored_columns:
                    self._load(table, relation, pieces)
                elif table.rows:
                    table_rows.add_empty_rows(conn, relation, table.rows)
        self._report("making keys and indexes", 1, 1)
        constraints.make_indexes(conn, removed)
        self._report("checking references", 1, 1)
        constraints.make_references(conn, removed)

    def _load(
        self, table: BaselineTable, relation: sql.Identifier, pieces: Iterator[Piece]
    ) -> None:
        """Fill one table, and verify that it holds what the baseline holds."""
        summary: TableSummary | None = None

        def rows() -> Iterator[tuple[int, Any]]:
            nonlocal summary
            for piece in pieces:
                if isinstance(piece, TableSummary):
                    summary = piece
                    return
                yield piece
                self._sent += piece[0]
                self._report(f"loaded {table.name}; rows in all", self._sent, self._manifest.rows)

        table_rows.send_rows(
            self._conn,
            relation,
            [column.name for column in table.stored_columns],
            rows(),
            binary=is_binary(table),
            # Frozen rows need no second writing by vacuum; the table was emptied here and now.
            frozen=True,
        )
        assert summary is not None
        self._verify(table, relation, summary)

    def _verify(self, table: BaselineTable, relation: sql.Identifier, sent: TableSummary) -> None:
        """What is stored is what was sent from files with the right checksum.

        Where the server's hash of the rows does not show it, they are read back.
        """
        columns = table.stored_columns
        row = expression(columns, arrow_schema(columns))
        if (
            row is not None
            and sent.rows == table.rows
            and sent.server_hash is not None
            and stored(self._conn, relation, row) == (sent.rows, sent.server_hash)
        ):
            return
        digest = RowHash()
        for batch in read_rows(self._conn, relation, columns):
            digest.add(batch)
        if (digest.rows, digest.hexdigest()) != (table.rows, table.content_hash):
            raise AtdmError(
                ErrorCode.RESTORE_FAILED,
                f"{self._manifest.domain}.{table.name} does not hold what the baseline holds: "
                f"{digest.rows} rows with hash {digest.hexdigest()}, expected {table.rows} with "
                f"{table.content_hash}",
                {"table": table.name, "rows": digest.rows, "expected_rows": table.rows},
            )

    def _set_sequences(self) -> None:
        sequences.set_positions(self._conn, self._manifest.sequences)

    def _report(self, what: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(what, done, total)
