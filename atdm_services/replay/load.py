"""Replays of test runs: what the catalog recorded of a run, and loading its rows again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.batches import exposed_data
from atdm_engine.hashing.content import ContentHash, combined
from atdm_engine.model import Domain
from atdm_engine.random.run_ids import is_run_id, request_of, run_id
from atdm_engine.replay.regeneration import RegeneratedRun
from atdm_engine.replay.spec import ReplaySpec
from atdm_engine.values.scalars import json_value
from atdm_resources.catalog import replays, requests, runs
from atdm_resources.catalog.leases import Lease
from atdm_resources.postgres.owner_rights import catalog_needed
from atdm_resources.postgres.ownership import RunColumn
from atdm_resources.postgres.run_rows import rows_of_run
from atdm_services.replay.request import ReplayRequest
from atdm_services.requests.load import records_created, seed_failed


@dataclass(frozen=True, slots=True)
class Replayed:
    """A run that was loaded again. ``rows`` by table; the hash is that of the rows read back."""

    lease: Lease
    rows: dict[str, int]
    content_hash: str


def recorded(conn: psycopg.Connection[Any], name: str) -> ReplaySpec:
    """The recorded specification of a run. ``name`` is its id, or the request of a single run.

    Any run of a rejected request will do: none of them has rows.

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
        why = "is still being made" if record.status == "pending" else "was rolled back"
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"request {record.label!r} {why}: there never was a test run {name}",
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
    return ReplaySpec(
        test_run_id=found,
        domain=record.domain,
        scenario_id=record.scenario_id,
        scenario_version=record.scenario_version,
        parts=replays.scenario_parts(conn, record),
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
    """Raise REQUEST_CONFLICT, naming the holder, when the run has its rows in this database."""
    run = runs.run(conn, test_run_id)
    if run is None or run["status"] not in ("ready", "leased"):
        return
    until = run["expires_at"]
    held, way_out = "ready", "Dagster's job reset_run deletes them"
    if run["status"] == "leased":
        held = f"leased to {run['owner']} until {until}"
        way_out = (
            f"`atdm reset {test_run_id} --token TOKEN` or `atdm reset --owner {run['owner']}` "
            "deletes them"
        )
    raise AtdmError(
        ErrorCode.REQUEST_CONFLICT,
        f"the rows of test run {test_run_id} are in database {conn.info.dbname}: it is {held}",
        {
            "test_run_id": test_run_id,
            "status": run["status"],
            "owner": run["owner"],
            "expires_at": None if until is None else str(until),
            "hint": f"Look at them where test_run_id = '{test_run_id}', and at "
            f"`atdm audit {test_run_id}`; {way_out}. Or make the run again in another database: "
            "--into URL.",
        },
    )


def load_run(
    conn: psycopg.Connection[Any],
    original: ReplaySpec,
    made: RegeneratedRun,
    request: ReplayRequest,
    *,
    invoker: str,
    origin: str,
    proved: bool,
) -> Replayed:
    """Load the rows of a run again, leased under its old id, in one transaction.

    The rows are read back and hashed before it ends. A database that does not know the request
    records it as ``retired``: nothing of it is to be made there, and the lease's end deletes the
    run. ``origin`` is where the specification was found; ``proved``: the whole request was made
    again and has the recorded hash. ``conn`` must be in autocommit mode, and the caller holds the
    request's lock.

    Raises:
        AtdmError: REQUEST_CONFLICT, the run has its rows there, the request has other values there,
            or rows of others have values of the run; TARGET_NOT_INITIALISED, the scenario's version
            is not published; SEED_FAILED; BUSY; TARGET_DRIFT naming the differences from the table
            files where they are the reason. Nothing has changed then.
    """
    spec = made.spec
    table = "(start)"
    try:
        with conn.transaction():
            requests.require_published(conn, spec.scenario)
            _ensure_request(conn, original, request, invoker=invoker, numbers=spec.numbers_needed)
            _, exposed = exposed_data(spec, made.tables)
            lease = replays.lease_replayed(
                conn,
                original,
                json_value(exposed[0]) if exposed else None,
                owner=request.owner or invoker,
                owner_secret=request.owner_secret,
                ttl=request.ttl,
                invoker=invoker,
                source=request.source,
            )
            for table in spec.scenario.tables:
                batches = made.tables[table].to_batches()
                RunColumn().load(conn, spec.domain.name, table, batches)
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
            requests.add_event(
                conn,
                "replayed",
                requests.get_request(conn, original.request_id),
                test_run_id=original.test_run_id,
                invoker=invoker,
                source=request.source,
                inputs={"from": origin, "reason": request.reason},
                outputs={
                    "content_hash": made.content_hash,
                    "request_content_hash": original.content_hash,
                    "request_proved": proved,
                    "validators": list(spec.scenario.rules),
                    "records_created": records_created(
                        counts, lambda name: _keys(made, name), sum(counts.values())
                    ),
                },
            )
    except (psycopg.Error, AtdmError) as error:
        raise _explained(conn, made, table, error) from error
    return Replayed(lease, counts, combined(found))


def read_back_hashes(conn: psycopg.Connection[Any], made: RegeneratedRun) -> dict[str, str]:
    """The content hash of each table of the run as the database holds it."""
    spec, hashes = made.spec, {}
    run = made.test_run_id
    for table in spec.scenario.tables:
        digest = ContentHash(spec.domain, table, spec.request_id, spec.number_base)
        digest.add(rows_of_run(conn, spec.domain.name, table, spec.domain.tables[table], run))
        hashes[table] = digest.hexdigest()
    return hashes


def _ensure_request(
    conn: psycopg.Connection[Any],
    original: ReplaySpec,
    request: ReplayRequest,
    *,
    invoker: str,
    numbers: int,
) -> None:
    """Record the request, or compare it with the recorded one."""
    reason = request.reason or f"replay of {original.test_run_id}"
    if replays.add_request(
        conn, original, numbers=numbers, invoker=invoker, source=request.source, reason=reason
    ):
        return
    record = requests.get_request(conn, original.request_id)
    same = _values(record) == _values(original)
    if not same or record.status not in ("ready", "retired"):
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"database {conn.info.dbname} knows request {record.request_id} "
            + (f"as {record.status}" if same else "with other values")
            + f": test run {original.test_run_id} cannot be made again there",
            {"request_id": record.request_id, "status": record.status},
        )


def _values(of: requests.RequestRecord | ReplaySpec) -> tuple[Any, ...]:
    """All that the rows of a request follow from."""
    return (
        of.domain, of.scenario_id, of.scenario_version, of.given, of.effective, of.seed, of.as_of,
        of.runs, of.number_base,
    )  # fmt: skip


def _keys(made: RegeneratedRun, table: str) -> list[str]:
    """The primary keys of a table's rows; the columns of a key are joined by commas."""
    keys = made.tables[table].select(list(made.spec.domain.tables[table].key_columns))
    return [",".join(str(part) for part in row.values()) for row in keys.to_pylist()]


def _explained(
    conn: psycopg.Connection[Any],
    made: RegeneratedRun,
    table: str,
    error: psycopg.Error | AtdmError,
) -> AtdmError:
    """The error, as TARGET_DRIFT where the tables differ from the table files."""
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
    drifted = [] if conn.closed else table_drift(conn, made.spec.domain)
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
    return seed_failed(error, table, f"test run {run}", test_run_id=run)


def table_drift(conn: psycopg.Connection[Any], domain: Domain) -> list[str]:
    """How the domain's tables differ from the table files; the database stays as it is.

    Empty for a user who may not create the schema that they are compared in.
    """
    # SQLAlchemy loads here: a replay that succeeds does not need it.
    import sqlalchemy

    from atdm_resources.catalog.setup import lock_setup
    from atdm_resources.postgres.expected_tables import ExpectedTables
    from atdm_resources.postgres.sqlalchemy_transaction import sqlalchemy_transaction

    try:
        with sqlalchemy_transaction(conn) as connection:
            lock_setup(conn)
            tables = ExpectedTables(conn, connection, domain)
            missing = [f"{table}: the table is missing" for table in tables.missing()]
            found = [*missing, *tables.drift()]
            connection.rollback()
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError):
        return []
    return found
