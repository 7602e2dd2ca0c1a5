"""A test run made again: what the catalog recorded of it, and bringing its rows back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import psycopg
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.batches import exposed_data
from atdm_engine.hashing.content import ContentHash, combined
from atdm_engine.random.run_ids import is_run_id, request_of, run_id
from atdm_engine.replay.regeneration import RegeneratedRun
from atdm_engine.replay.spec import ReplaySpec
from atdm_engine.values.scalars import json_value
from atdm_resources.catalog import requests, runs
from atdm_resources.catalog.leases import Lease
from atdm_resources.postgres import drift
from atdm_resources.postgres.ddl import domain_tables
from atdm_resources.postgres.errors import guarded
from atdm_resources.postgres.owner_rights import catalog_needed
from atdm_resources.postgres.ownership import RunColumn, RunOwnership
from atdm_resources.postgres.run_rows import rows_of_run

_SCRATCH = "atdm_expected"
_LISTED_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Who has a run made again, and for how long. ``origin`` says where its specification was.

    ``proved``: the whole request was made again and has the recorded hash.
    """

    owner: str
    invoker: str
    source: str
    origin: str
    proved: bool
    ttl: timedelta | None = None
    owner_secret: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What is in the database now. ``rows`` by table; the hash was computed from rows read back."""

    lease: Lease
    rows: dict[str, int]
    content_hash: str


def recorded(conn: psycopg.Connection[Any], name: str) -> ReplaySpec:
    """What the catalog recorded of a run; of the only run where ``name`` means a request.

    Of a request that was rejected, any run: none of them has rows.

    Raises:
        AtdmError: RUN_NOT_FOUND; REQUEST_INVALID where ``name`` means a request of several runs;
            REQUEST_CONFLICT for a request that is being made or was rolled back;
            TARGET_NOT_INITIALISED without a catalog that this user may read.
    """
    with catalog_needed(conn, "a replay"):
        return _recorded(conn, name)


def _recorded(conn: psycopg.Connection[Any], name: str) -> ReplaySpec:
    found: str | None = None
    request_id = request_of(name) if is_run_id(name) else None
    if request_id is None or not requests.is_recorded(conn, request_id):
        request_id, found = runs.find(conn, name)
    record = requests.get_request(conn, request_id)
    if record.status in ("pending", "rolled_back"):
        said = "is still being made" if record.status == "pending" else "was rolled back"
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"request {record.label!r} {said}: there never was a test run {name}",
            {"request_id": request_id, "status": record.status},
        )
    if is_run_id(name):
        found = name
    elif record.runs == 1 or record.status == "rejected":
        found = run_id(request_id, 1)
    if found is None or found > run_id(request_id, record.runs):
        first, last = run_id(request_id, 1), run_id(request_id, record.runs)
        raise AtdmError(
            ErrorCode.REQUEST_INVALID if found is None else ErrorCode.RUN_NOT_FOUND,
            f"request {record.label!r} has {record.runs:,} test runs: name one of"
            f" {first} to {last}",
            {"request_id": request_id, "runs": record.runs, "first": first, "last": last},
        )
    row = conn.execute(
        "SELECT coalesce(parts, '{}') FROM atdm.scenario"
        " WHERE domain = %s AND scenario_id = %s AND version = %s",
        (record.domain, record.scenario_id, record.scenario_version),
    ).fetchone()
    return ReplaySpec(
        test_run_id=found,
        domain=record.domain,
        scenario_id=record.scenario_id,
        scenario_version=record.scenario_version,
        parts=dict(sorted(row[0].items())) if row else {},
        given=record.given,
        effective=record.effective,
        seed=record.seed,
        as_of=record.as_of,
        runs=record.runs,
        number_base=record.number_base,
        content_hash=None if record.status == "rejected" else record.content_hash,
        tables={table: part["content_hash"] for table, part in record.tables.items()}
        if record.status != "rejected"
        else {},
    )


def refuse_while_there(conn: psycopg.Connection[Any], test_run_id: str) -> None:
    """Raise REQUEST_CONFLICT when the run has its rows in this database, saying who holds it."""
    run = runs.run(conn, test_run_id)
    if run is not None and run["status"] in ("ready", "leased"):
        raise _there(conn, run)


def _there(conn: psycopg.Connection[Any], run: Mapping[str, Any]) -> AtdmError:
    run_of = str(run["test_run_id"])
    until = run["expires_at"]
    held = f"leased to {run['owner']} until {until}" if run["status"] == "leased" else "ready"
    way_out = (
        f"`atdm reset {run_of} --token TOKEN` or `atdm reset --owner {run['owner']}` deletes them"
        if run["status"] == "leased"
        else "Dagster's job reset_run deletes them"
    )
    return AtdmError(
        ErrorCode.REQUEST_CONFLICT,
        f"the rows of test run {run_of} are in database {conn.info.dbname}: it is {held}",
        {
            "test_run_id": run_of,
            "status": run["status"],
            "owner": run["owner"],
            "expires_at": None if until is None else str(until),
            "hint": f"Look at them where test_run_id = '{run_of}', and at `atdm audit {run_of}`;"
            f" {way_out}. Or make the run again in another database: --into URL.",
        },
    )


def replay(
    conn: psycopg.Connection[Any],
    original: ReplaySpec,
    made: RegeneratedRun,
    wanted: Replay,
    ownership: RunOwnership | None = None,
) -> Replayed:
    """Bring a run's rows back, leased under its old id, in one transaction.

    The rows are read back and hashed before it ends. A database that does not know the request
    learns of it as ``retired``: nothing of it is to be made there, and the lease's end takes the
    run. ``conn`` must be in autocommit mode and its caller hold the request's lock.

    Raises:
        AtdmError: REQUEST_CONFLICT, its rows are there, the request is another one here, or rows
            of others have its values; TARGET_NOT_INITIALISED, the scenario's version is not
            published; SEED_FAILED, BUSY; TARGET_DRIFT naming what differs from the table files
            where that is why. Nothing has changed then.
    """
    rows_of = ownership or RunColumn()
    table = "(start)"
    try:
        with conn.transaction():
            _ensure_request(conn, original, made, wanted)
            lease = _leased(conn, original, made, wanted)
            for table in made.spec.scenario.tables:
                batches = made.tables[table].to_batches()
                rows_of.load(conn, made.spec.domain.name, table, batches)
            found = read_back_hashes(conn, made)
            differing = sorted(name for name in found if found[name] != made.hashes[name])
            if differing:
                raise AtdmError(
                    ErrorCode.SEED_FAILED,
                    f"the rows of {', '.join(differing)} are not in database {conn.info.dbname} as"
                    " they were sent: a trigger, a rule or a changed column alters them",
                    {"test_run_id": original.test_run_id, "tables": differing},
                )
            counts = {name: rows.num_rows for name, rows in made.tables.items()}
            _record(conn, original, made, wanted, counts)
    except (psycopg.Error, AtdmError) as error:
        raise _explained(conn, made, table, error) from error
    return Replayed(lease, counts, combined(found))


def read_back_hashes(conn: psycopg.Connection[Any], made: RegeneratedRun) -> dict[str, str]:
    """The hash of each table of the run as the database holds it."""
    spec, hashes = made.spec, {}
    run = made.test_run_id
    for table in spec.scenario.tables:
        digest = ContentHash(spec.domain, table, spec.request_id, spec.number_base)
        digest.add(rows_of_run(conn, spec.domain.name, table, spec.domain.tables[table], run))
        hashes[table] = digest.hexdigest()
    return hashes


def _ensure_request(
    conn: psycopg.Connection[Any], original: ReplaySpec, made: RegeneratedRun, wanted: Replay
) -> None:
    """The request's row: the one that is there, if it is the same, or a new one."""
    requests.require_published(conn, made.spec.scenario)
    values = {
        "request_id": original.request_id,
        "domain": original.domain,
        "scenario_id": original.scenario_id,
        "scenario_version": original.scenario_version,
        "given": Jsonb(original.given),
        "effective": Jsonb(original.effective),
        "seed": original.seed,
        "as_of": original.as_of,
        "runs": original.runs,
        "number_base": original.number_base,
        "invoker": wanted.invoker,
        "source": wanted.source,
        "reason": wanted.reason or f"replay of {original.test_run_id}",
        "content_hash": original.content_hash,
    }
    if conn.execute(_ADD_REQUEST.encode(), values).rowcount:
        # Later requests must not take the unique numbers that the replayed rows have.
        conn.execute(
            "UPDATE atdm.domain SET next_number = greatest(next_number, %s) WHERE domain = %s",
            (original.number_base + made.spec.numbers_needed, original.domain),
        )
        record = requests.get_request(conn, original.request_id)
        requests.add_event(
            conn,
            "request_received",
            record,
            inputs={
                "request_id": record.request_id,
                "label": record.label,
                "scenario": original.scenario,
                "constraints": record.given,
                "effective_constraints": record.effective,
                "runs": record.runs,
                "replay": True,
            },
        )
        return
    record = requests.get_request(conn, original.request_id)
    same = recorded_values(record) == recorded_values(original)
    if not same or record.status not in ("ready", "retired"):
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"database {conn.info.dbname} knows request {record.request_id} "
            + (f"as {record.status}" if same else "with other values")
            + f": test run {original.test_run_id} cannot be made again there",
            {"request_id": record.request_id, "status": record.status},
        )


def recorded_values(of: requests.RequestRecord | ReplaySpec) -> tuple[Any, ...]:
    """All that the rows of a request follow from."""
    return (
        of.domain, of.scenario_id, of.scenario_version, of.given, of.effective, of.seed, of.as_of,
        of.runs, of.number_base,
    )  # fmt: skip


def _leased(
    conn: psycopg.Connection[Any], original: ReplaySpec, made: RegeneratedRun, wanted: Replay
) -> Lease:
    _, values = exposed_data(made.spec, made.tables)
    secret = wanted.owner_secret
    arguments = (
        original.test_run_id,
        original.as_of,
        Jsonb(json_value(values[0])) if values else None,
        wanted.owner,
        wanted.ttl,
        None if secret is None else hashlib.sha256(secret.encode()).digest(),
        wanted.invoker,
        wanted.source,
    )
    row = guarded(
        lambda: conn.execute(
            "SELECT atdm.lease_replayed(%s, %s, %s, %s, %s, %s, %s, %s)", arguments
        ).fetchone()
    )
    assert row is not None
    lease: dict[str, Any] = row[0]
    # Of a lease this tells its caller to take back what is overdue; the next lease will be told.
    lease.pop("overdue", None)
    return cast(Lease, lease)


def _record(
    conn: psycopg.Connection[Any],
    original: ReplaySpec,
    made: RegeneratedRun,
    wanted: Replay,
    counts: Mapping[str, int],
) -> None:
    requests.add_event(
        conn,
        "replayed",
        requests.get_request(conn, original.request_id),
        test_run_id=original.test_run_id,
        invoker=wanted.invoker,
        source=wanted.source,
        inputs={"from": wanted.origin, "reason": wanted.reason},
        outputs={
            "content_hash": made.content_hash,
            "request_content_hash": original.content_hash,
            "request_proved": wanted.proved,
            "validators": list(made.spec.scenario.rules),
            "records_created": list(_records(made, counts)),
        },
    )


def _records(made: RegeneratedRun, counts: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Kind and primary key of each row (A-AUD-05), counts alone where there are many."""
    listed = sum(counts.values()) <= _LISTED_ROWS
    for table, rows in made.tables.items():
        if not listed:
            yield {"kind": table, "count": rows.num_rows}
            continue
        keys = rows.select(list(made.spec.domain.tables[table].key_columns))
        for row in keys.to_pylist():
            yield {"kind": table, "primary_key": ",".join(str(part) for part in row.values())}


def _explained(
    conn: psycopg.Connection[Any],
    made: RegeneratedRun,
    table: str,
    error: psycopg.Error | AtdmError,
) -> AtdmError:
    """What went wrong, and whether it is because the tables are not what the files say."""
    run = made.test_run_id
    if isinstance(error, AtdmError) and error.code is not ErrorCode.SEED_FAILED:
        return error
    if isinstance(error, psycopg.errors.UniqueViolation):
        return AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"rows of {table} in database {conn.info.dbname} have values of test run {run}: "
            f"{error.diag.message_detail or error.diag.message_primary}",
            {
                "test_run_id": run,
                "table": table,
                "constraint": error.diag.constraint_name,
                "hint": "Make it again in an empty database: --into URL.",
            },
        )
    drifted = [] if conn.closed or conn.broken else differences(conn, made)
    if drifted:
        listed = "\n".join(f"  {made.spec.domain.name}.{line}" for line in drifted)
        return AtdmError(
            ErrorCode.TARGET_DRIFT,
            f"test run {run} cannot be made again: the tables in database {conn.info.dbname} are "
            f"not what they were:\n{listed}",
            {"domain": made.spec.domain.name, "differences": drifted},
        )
    if isinstance(error, AtdmError):
        return error
    said = error.diag.message_primary or str(error)
    return AtdmError(
        ErrorCode.SEED_FAILED,
        f"loading {table} of test run {run} failed: {said}",
        {
            "test_run_id": run,
            "table": table,
            "sqlstate": error.sqlstate,
            "constraint": error.diag.constraint_name,
            "reason": said,
            "detail": error.diag.message_detail,
        },
    )


def differences(conn: psycopg.Connection[Any], made: RegeneratedRun) -> list[str]:
    """How the domain's tables differ from the table files; nothing is changed by looking."""
    import sqlalchemy
    from sqlalchemy.schema import CreateSchema

    from atdm_services.target.init import one_transaction

    domain = made.spec.domain
    try:
        with one_transaction(conn) as connection:
            conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('atdm.initialise', 0))")
            connection.execute(CreateSchema(_SCRATCH))
            domain_tables(domain, _SCRATCH).create_all(connection, checkfirst=False)
            expected = drift.shapes(conn, _SCRATCH)
            actual = drift.shapes(conn, domain.name)
            missing = [f"{table}: the table is missing" for table in expected.keys() - actual]
            raise _LookedError([*sorted(missing), *drift.differences(expected, actual)])
    except _LookedError as looked:
        return looked.found
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError):
        # Whoever may not make a schema does not learn more than what failed.
        return []


class _LookedError(Exception):
    """Ends a transaction that only looked."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found


_ADD_REQUEST = """
INSERT INTO atdm.request
    (request_id, label, domain, scenario_id, scenario_version, given, effective, seed, seed_given,
     as_of, as_of_given, runs, number_base, pooled, status, invoker, source, reason, finished_at,
     partition_removed_at, content_hash)
VALUES
    (%(request_id)s, %(request_id)s, %(domain)s, %(scenario_id)s, %(scenario_version)s, %(given)s,
     %(effective)s, %(seed)s, true, %(as_of)s, true, %(runs)s, %(number_base)s, false, 'retired',
     %(invoker)s, %(source)s, %(reason)s, clock_timestamp(), clock_timestamp(), %(content_hash)s)
ON CONFLICT (request_id) DO NOTHING
"""
