"""Restoring a baseline: verify everything, then replace the domain's rows in one transaction.

Until the commit the target is what it was, whenever the process or the server dies: TRUNCATE, COPY,
every change of a definition and the positions of sequences are undone with the transaction.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import RowHash
from atdm_engine.progress import Progress
from atdm_resources.catalog.domain_lock import alone_in_domain
from atdm_resources.postgres import constraints, table_locks
from atdm_resources.postgres.columns import SequenceState
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.introspect import LiveTable, live_tables
from atdm_resources.postgres.stored_hash import expression, server_agrees, stored
from atdm_resources.postgres.table_rows import arrow_schema, fix_text_form, read_rows, send_rows
from atdm_resources.postgres.target import ensure_disposable
from atdm_resources.store.files import Store
from atdm_services.baselines import contained_runs, records
from atdm_services.baselines.contained_runs import RunsInLine
from atdm_services.baselines.listing import file_problems, latest
from atdm_services.baselines.manifest import (
    BaselineFiles,
    BaselineTable,
    Manifest,
    read_manifest,
)
from atdm_services.baselines.records import Actor
from atdm_services.baselines.row_encoder import (
    WORTH_A_PROCESS,
    Beside,
    Feeder,
    Here,
    Summary,
    sent_as_binary,
)
from atdm_services.baselines.structure import differences

LARGE_ROWS: Final = 20_000
"""A table of so many rows is loaded without its keys and indexes, which are then made again."""

DOMAIN_TIMEOUT: Final = timedelta(seconds=60)
LOCK_TIMEOUT: Final = timedelta(seconds=30)

_SETTINGS = ("SET LOCAL maintenance_work_mem = '256MB'", "SET LOCAL jit = off")


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. ``revoked`` are owners and how many leases they lost."""

    baseline_id: str
    domain: str
    content_hash: str
    tables: dict[str, int]
    runs: RunsInLine
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

    Files and tables are checked before anything is touched. Waits up to ``domain_timeout`` for
    those who work in the domain and ``lock_timeout`` for whoever else has locked a table.

    Raises:
        AtdmError: NO_BASELINE, BASELINE_NOT_FOUND; BASELINE_INVALID naming every file that is
            damaged; TARGET_DRIFT naming every column that differs; BUSY naming the owners of
            leases, or who has locked the tables; RESTORE_FAILED; TARGET_NOT_DISPOSABLE. The target
            is as it was then.
    """
    began = time.perf_counter()
    with connect(url, application_name="atdm baseline restore") as conn:
        ensure_disposable(conn)
        records.sweep_captures(conn, store, domain)
        with records.restore_under_way(conn, url, domain, baseline_id, actor) as actor:
            try:
                manifest = _manifest(store, domain, baseline_id)
                with _feeder(store, manifest) as feeder:
                    verify_files(store, manifest, progress)
                    check_fit(conn, manifest)
                    _refuse_leases(conn, domain, revoke=revoke_leases)
                    work = _Restore(conn, store, manifest, actor, lock_timeout, progress, feeder)
                    return alone_in_domain(
                        conn,
                        domain,
                        lambda: work.attempt(revoke_leases=revoke_leases, began=began),
                        domain_timeout,
                    )
            except BaseException as error:
                known = _as_atdm_error(error, domain, baseline_id)
                _record_failure(url, conn, domain, baseline_id, actor, known)
                if isinstance(error, psycopg.Error):
                    raise known from error
                raise


def verify_files(store: Store, manifest: Manifest, progress: Progress | None = None) -> None:
    """Read every file and compare it with its checksum.

    Raises:
        AtdmError: BASELINE_INVALID naming every file that is missing, cut off or changed.
    """
    problems = file_problems(store, manifest, progress)
    if problems:
        raise AtdmError(
            ErrorCode.BASELINE_INVALID,
            f"baseline {manifest.baseline_id} is damaged: {'; '.join(problems)}",
            {"baseline_id": manifest.baseline_id, "problems": problems},
        )


def check_fit(conn: psycopg.Connection[Any], manifest: Manifest) -> dict[str, LiveTable]:
    """The target's tables, when they are those that the baseline was made from.

    Raises:
        AtdmError: TARGET_DRIFT naming every table and column that differs.
    """
    with conn.transaction():
        fix_text_form(conn)
        live = live_tables(conn, manifest.domain)
        drifted = sorted(differences(manifest, live))
        drifted += [
            f"{state.schema_name}.{state.name}: the sequence is missing"
            for state in manifest.sequences
            if not _has_sequence(conn, state)
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


def _feeder(store: Store, manifest: Manifest) -> Here | Beside:
    files = BaselineFiles(manifest.domain, manifest.baseline_id)
    beside = manifest.rows >= WORTH_A_PROCESS and sys.executable
    return Beside(store, files) if beside else Here(store, files)


def _refuse_leases(
    conn: psycopg.Connection[Any], domain: str, *, revoke: bool
) -> list[dict[str, Any]]:
    holders = contained_runs.leases(conn, domain)
    if holders and not revoke:
        named = ", ".join(str(holder["owner"]) for holder in holders)
        raise AtdmError(
            ErrorCode.BUSY,
            f"test runs of domain {domain} are leased to {named}; give them back or revoke the "
            "leases",
            {"domain": domain, "owners": holders},
        )
    return holders


def _as_atdm_error(error: BaseException, domain: str, baseline_id: str | None) -> AtdmError:
    if isinstance(error, AtdmError):
        return error
    said = str(error) or type(error).__name__
    details: dict[str, Any] = {"domain": domain, "baseline_id": baseline_id}
    if isinstance(error, psycopg.Error):
        said = error.diag.message_primary or said
        details |= {
            "sqlstate": error.sqlstate,
            "table": error.diag.table_name,
            "constraint": error.diag.constraint_name,
            "detail": error.diag.message_detail,
            "context": error.diag.context,
        }
    return AtdmError(ErrorCode.RESTORE_FAILED, f"the restore failed: {said}", details)


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
        if conn.closed or conn.broken:
            with connect(url) as fresh:
                records.add_event(
                    fresh,
                    "restore_failed",
                    domain,
                    baseline_id,
                    actor,
                    status="failed",
                    outputs=outputs,
                )
            return
        records.add_event(
            conn, "restore_failed", domain, baseline_id, actor, status="failed", outputs=outputs
        )


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
        feeder: Feeder,
    ) -> None:
        self._conn = conn
        self._store = store
        self._manifest = manifest
        self._files = BaselineFiles(manifest.domain, manifest.baseline_id)
        self._actor = actor
        self._lock_timeout = lock_timeout
        self._progress = progress
        self._feeder = feeder
        self._done = 0

    def attempt(self, *, revoke_leases: bool, began: float) -> Restored | None:
        """None when somebody else still works in the domain."""
        conn, manifest = self._conn, self._manifest
        with conn.transaction():
            row = conn.execute(
                "SELECT pg_try_advisory_xact_lock(atdm.domain_lock_key(%s))", (manifest.domain,)
            ).fetchone()
            if row is None or not row[0]:
                return None
            revoked = _refuse_leases(conn, manifest.domain, revoke=revoke_leases)
            fix_text_form(conn)
            for setting in _SETTINGS:
                conn.execute(setting.encode())
            live, outside = self._locked()
            self._replace(live)
            self._set_sequences()
            runs = contained_runs.bring_in_line(conn, self._store, manifest)
            records.restored(conn, self._store, manifest, self._actor)
            result = Restored(
                baseline_id=manifest.baseline_id,
                domain=manifest.domain,
                content_hash=manifest.content_hash,
                tables={table.name: table.rows for table in manifest.tables},
                runs=runs,
                revoked=revoked,
                outside_references=outside,
                seconds=round(time.perf_counter() - began, 3),
            )
            records.add_event(
                conn,
                "restore_completed",
                manifest.domain,
                manifest.baseline_id,
                self._actor,
                outputs={"result": result.as_json()},
            )
        return result

    def _locked(self) -> tuple[dict[str, LiveTable], list[str]]:
        """The tables, and references to them from elsewhere; all of them locked."""
        conn, manifest = self._conn, self._manifest
        names = {table.name for table in manifest.tables}
        live = {
            name: table
            for name, table in live_tables(conn, manifest.domain).items()
            if name in names
        }
        oids = [table.oid for table in live.values()]
        found = constraints.references(conn, manifest.domain, oids)
        outside = [reference for reference in found if reference.outside]
        relations = {table.relation.as_string(): table.relation for table in live.values()}
        relations |= {reference.relation.as_string(): reference.relation for reference in found}
        table_locks.lock_exclusively(conn, list(relations.values()), self._lock_timeout)
        # What was looked at before the locks may have changed until they were there.
        return check_fit(conn, manifest), [str(reference) for reference in outside]

    def _replace(self, live: Mapping[str, LiveTable]) -> None:
        conn, manifest = self._conn, self._manifest
        tables = [(table, live[table.name]) for table in manifest.tables]
        oids = [there.oid for _, there in tables]
        large = [there.oid for table, there in tables if table.rows >= LARGE_ROWS]
        taken = constraints.dismantle(
            conn, constraints.references(conn, manifest.domain, oids), oids, large
        )
        if tables:
            conn.execute(
                sql.SQL("TRUNCATE ONLY {}").format(
                    sql.SQL(", ONLY ").join(there.relation for _, there in tables)
                )
            )
        self._feeder.begin(
            [table for table, _ in tables if table.stored_columns], comparable=server_agrees(conn)
        )
        for table, there in tables:
            self._load(table, there.relation)
        self._report("making keys and indexes", 1, 1)
        constraints.put_back_indexes(conn, taken)
        self._report("checking references", 1, 1)
        constraints.put_back_references(conn, taken)

    def _load(self, table: BaselineTable, relation: sql.Identifier) -> None:
        """Fill one table, and make sure that it holds what the baseline holds."""
        conn = self._conn
        columns = table.stored_columns
        if not columns:
            if table.rows:
                conn.execute(
                    sql.SQL("INSERT INTO {} SELECT FROM generate_series(1, {})").format(
                        relation, sql.Literal(table.rows)
                    )
                )
            return
        summaries: list[Summary] = []
        rows = send_rows(
            conn,
            relation,
            columns,
            self._counted(table.name, summaries),
            binary=sent_as_binary(table),
            # Frozen rows need no second writing by vacuum; the table was emptied here and now.
            frozen=True,
        )
        self._verify(table, relation, rows, summaries[0])

    def _verify(
        self, table: BaselineTable, relation: sql.Identifier, rows: int, sent: Summary
    ) -> None:
        """What was sent is what the baseline holds, and what is stored is what was sent."""
        columns = table.stored_columns
        if (rows, sent.rows, sent.content_hash) == (table.rows, table.rows, table.content_hash):
            row = expression(columns, arrow_schema(columns))
            if (
                row is not None
                and sent.total is not None
                and stored(self._conn, relation, row) == (sent.rows, sent.total)
            ):
                return
        digest = RowHash()
        for batch in read_rows(self._conn, relation, columns):
            digest.add(batch)
        if (rows, digest.rows, digest.hexdigest()) != (table.rows, table.rows, table.content_hash):
            raise AtdmError(
                ErrorCode.RESTORE_FAILED,
                f"{self._manifest.domain}.{table.name} does not hold what the baseline holds: "
                f"{digest.rows} rows with hash {digest.hexdigest()}, expected {table.rows} with "
                f"{table.content_hash}",
                {"table": table.name, "rows": digest.rows, "expected_rows": table.rows},
            )

    def _counted(self, table: str, summaries: list[Summary]) -> Iterator[tuple[int, Any]]:
        for piece in self._feeder.pieces():
            if isinstance(piece, Summary):
                summaries.append(piece)
                continue
            yield piece
            self._done += piece[0]
            self._report(f"loaded {table}; rows in all", self._done, self._manifest.rows)

    def _report(self, what: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(what, done, total)

    def _set_sequences(self) -> None:
        for state in self._manifest.sequences:
            name = sql.Identifier(state.schema_name, state.name)
            if state.shared and not _is_behind(self._conn, state):
                continue
            # RESTART gives the sequence new storage, which a rollback throws away together with
            # what setval writes into it; setval alone would survive the rollback.
            self._conn.execute(sql.SQL("ALTER SEQUENCE {} RESTART").format(name))
            self._conn.execute(
                "SELECT setval(%s::regclass, %s, %s)",
                (name.as_string(self._conn), state.last_value, state.is_called),
            )


def _has_sequence(conn: psycopg.Connection[Any], state: SequenceState) -> bool:
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n"
        " ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND n.nspname = %s AND c.relname = %s)",
        (state.schema_name, state.name),
    ).fetchone()
    return bool(row and row[0])


def _is_behind(conn: psycopg.Connection[Any], state: SequenceState) -> bool:
    """Whether a sequence that others use too has to move on to get past the baseline's rows."""
    name = sql.Identifier(state.schema_name, state.name)
    row = conn.execute(
        sql.SQL(
            "SELECT CASE WHEN s.seqincrement > 0 THEN q.last_value < {last}"
            " ELSE q.last_value > {last} END FROM {name} AS q, pg_catalog.pg_sequence AS s"
            " WHERE s.seqrelid = {text}::regclass"
        ).format(
            last=sql.Literal(state.last_value),
            name=name,
            text=sql.Literal(name.as_string(conn)),
        )
    ).fetchone()
    return bool(row and row[0])
