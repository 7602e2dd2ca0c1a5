"""Requests in schema ``atdm``: recorded, started, checked, loaded, ended.

Each function is one transaction on a connection in autocommit mode (the default of ``connect``),
and part of the caller's transaction inside of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.random.run_ids import check_label
from atdm_engine.values.scalars import json_value

if TYPE_CHECKING:
    from atdm_engine.generation.request import RequestSpec
    from atdm_engine.model import Scenario

RequestStatus = Literal["pending", "ready", "rejected", "rolled_back", "retired"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One row of ``atdm.request``.

    ``given`` and ``effective`` hold JSON values (dates as texts); times are aware and in UTC.
    """

    request_id: str
    label: str
    domain: str
    scenario_id: str
    scenario_version: str
    given: dict[str, Any]
    effective: dict[str, Any]
    seed: int
    seed_given: bool
    as_of: datetime
    as_of_given: bool
    runs: int
    number_base: int
    pooled: bool
    status: RequestStatus
    invoker: str
    source: str
    reason: str
    delivery: dict[str, Any]
    dagster_run_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    content_hash: str | None
    tables: dict[str, dict[str, Any]]
    error: dict[str, Any] | None

    def __post_init__(self) -> None:
        # The driver gives times in the zone of the session, which is the machine's.
        for name in ("as_of", "created_at", "started_at", "finished_at"):
            moment: datetime | None = getattr(self, name)
            if moment is not None:
                object.__setattr__(self, name, moment.astimezone(UTC))

    @property
    def folder(self) -> str:
        """The folder of its staged files in the store."""
        return request_folder(self.domain, self.scenario_id, self.request_id)

    def as_received(self) -> dict[str, Any]:
        """The inputs of its request_received event."""
        return {
            "request_id": self.request_id,
            "label": self.label,
            "scenario": f"{self.domain}/{self.scenario_id}",
            "constraints": self.given,
            "effective_constraints": self.effective,
            "runs": self.runs,
        }


@dataclass(frozen=True, slots=True)
class RequestRef:
    """Which request: what finds its partition (``label`` is the key), its files and its run."""

    request_id: str
    label: str
    domain: str
    scenario_id: str
    dagster_run_id: str | None

    @property
    def folder(self) -> str:
        """The folder of its staged files in the store."""
        return request_folder(self.domain, self.scenario_id, self.request_id)


COLUMNS = ", ".join(RequestRecord.__slots__)
RUNS_OF = "test_run_id > %(request)s AND test_run_id <= left(%(request)s, 20) || 'ZZZZZZ'"
"""Condition: the test runs of request ``request``."""


def request_folder(domain: str, scenario_id: str, request_id: str) -> str:
    """The folder in the store that holds all files of a request, and nothing else."""
    return f"requests/{domain}/{scenario_id}/{request_id}"


def create_request(
    conn: psycopg.Connection[Any],
    spec: RequestSpec,
    *,
    numbers: int,
    label: str | None = None,
    seed_given: bool = False,
    as_of_given: bool = False,
    pooled: bool = False,
    invoker: str,
    source: str,
    reason: str = "",
    dagster_run_id: str | None = None,
) -> RequestRecord:
    """Record a resolved request as pending; events request_received and plan_resolved.

    ``numbers`` is the spec's ``numbers_needed``. The record's ``number_base`` is the first
    number of the range that the request now owns: put it into the spec before generating.
    ``label`` defaults to the request id. Any caller may lease ``pooled`` runs by scenario and
    constraints; pass False when seed or as_of were given.

    Raises:
        AtdmError: REQUEST_INVALID for a bad label; REQUEST_CONFLICT when the label or the id is
            taken; TARGET_NOT_INITIALISED when the domain or this version of the scenario is not
            published.
    """
    name = check_label(label if label is not None else spec.request_id)
    scenario = spec.scenario
    with conn.transaction():
        base = conn.execute(
            "UPDATE atdm.domain SET next_number = next_number + %s WHERE domain = %s"
            " RETURNING next_number - %s",
            (numbers, spec.domain.name, numbers),
        ).fetchone()
        if base is None:
            raise _not_published(scenario)
        values = {
            "request_id": spec.request_id,
            "label": name,
            "domain": spec.domain.name,
            "scenario_id": scenario.name,
            "scenario_version": scenario.version,
            "given": Jsonb(json_value(spec.given)),
            "effective": Jsonb(json_value(spec.effective)),
            "seed": spec.seed,
            "seed_given": seed_given,
            "as_of": spec.as_of,
            "as_of_given": as_of_given,
            "runs": spec.runs,
            "number_base": base[0],
            "pooled": pooled,
            "status": "pending",
            "invoker": invoker,
            "source": source,
            "reason": reason,
            "delivery": Jsonb({}),
            "dagster_run_id": dagster_run_id,
        }
        with conn.cursor(row_factory=class_row(RequestRecord)) as cursor:
            try:
                cursor.execute(_INSERT.encode(), values)
            except psycopg.errors.UniqueViolation as error:
                raise AtdmError(
                    ErrorCode.REQUEST_CONFLICT,
                    f"a request named {name!r} of {scenario.key} exists already",
                    {"label": name, "scenario": scenario.key, "request_id": spec.request_id},
                ) from error
            except psycopg.errors.ForeignKeyViolation as error:
                raise _not_published(scenario) from error
            record = cursor.fetchone()
        assert record is not None
        add_event(
            conn,
            "request_received",
            record,
            inputs={
                **record.as_received(),
                "delivery": record.delivery,
                "planner_mode": "rule",
                "reason": reason,
            },
        )
        add_event(
            conn,
            "plan_resolved",
            record,
            outputs={
                "scenario_id": scenario.name,
                "scenario_version": scenario.version,
                "steps": [{"generator": table} for table in scenario.tables],
                "validators": list(scenario.rules),
                "seed": record.seed,
                "as_of": record.as_of.isoformat(),
            },
        )
    return record


def get_request(conn: psycopg.Connection[Any], request_id: str) -> RequestRecord:
    """The request with this id. Raises AtdmError RUN_NOT_FOUND."""
    record = _select_one(conn, "request_id = %s", (request_id,))
    if record is None:
        raise AtdmError(
            ErrorCode.RUN_NOT_FOUND,
            f"there is no request {request_id!r}",
            {"request_id": request_id},
        )
    return record


def is_recorded(conn: psycopg.Connection[Any], request_id: str) -> bool:
    """Whether there is a request of this id."""
    query = "SELECT FROM atdm.request WHERE request_id = %s"
    return conn.execute(query, (request_id,)).fetchone() is not None


def request_by_label(
    conn: psycopg.Connection[Any], domain: str, scenario_id: str, label: str
) -> RequestRecord | None:
    """The request that a partition key names (its label, or its id), or None when it is new."""
    return _select_one(
        conn,
        "domain = %s AND scenario_id = %s AND (label = %s OR request_id = %s)"
        " ORDER BY label = %s DESC LIMIT 1",
        (domain, scenario_id, label, label, label),
    )


def reopen_request(
    conn: psycopg.Connection[Any],
    request_id: str,
    *,
    invoker: str,
    source: str,
    dagster_run_id: str | None = None,
) -> RequestRecord:
    """Start a replay of a recorded request; event request_received.

    A rejected or rolled back request becomes pending. A ready one stays ready, so that a failed
    replay loses nothing: loading replaces its rows.

    Raises:
        AtdmError: RUN_NOT_FOUND; REQUEST_CONFLICT for a retired request and for one with leased,
            cleaned or expired runs, which are counted.
    """
    with conn.transaction():
        conn.execute("SELECT FROM atdm.request WHERE request_id = %s FOR UPDATE", (request_id,))
        record = get_request(conn, request_id)
        used = {
            status: count
            for status, count in run_counts(conn, request_id).items()
            if status != "ready"
        }
        if used or record.status == "retired":
            raise AtdmError(
                ErrorCode.REQUEST_CONFLICT,
                f"request {record.label!r} cannot be made again: "
                + (", ".join(f"{n} runs {s}" for s, n in used.items()) or "it is retired"),
                {"request_id": request_id, "status": record.status, "runs": used},
            )
        if record.status in ("rejected", "rolled_back"):
            conn.execute(
                "UPDATE atdm.request SET status = 'pending', error = NULL, finished_at = NULL,"
                " dagster_run_id = %s WHERE request_id = %s",
                (dagster_run_id, request_id),
            )
        else:
            # A start after the finish marks a replay that is under way.
            conn.execute(
                "UPDATE atdm.request SET dagster_run_id = %s, started_at = clock_timestamp()"
                " WHERE request_id = %s",
                (dagster_run_id, request_id),
            )
        add_event(
            conn,
            "request_received",
            record,
            invoker=invoker,
            source=source,
            inputs={"request_id": request_id, "label": record.label, "replay": True},
        )
    return get_request(conn, request_id)


def mark_started(
    conn: psycopg.Connection[Any],
    request_id: str,
    *,
    step_count: int,
    dagster_run_id: str | None = None,
) -> None:
    """Generation begins: started_at, the Dagster run; event seed_started (A-AUD-03)."""
    with conn.transaction():
        conn.execute(
            "UPDATE atdm.request SET started_at = clock_timestamp(),"
            " dagster_run_id = coalesce(%s, dagster_run_id) WHERE request_id = %s",
            (dagster_run_id, request_id),
        )
        record = get_request(conn, request_id)
        add_event(conn, "seed_started", record, outputs={"step_count": step_count})


def mark_validated(
    conn: psycopg.Connection[Any], request_id: str, *, validators: Sequence[str]
) -> None:
    """Every blocking check has passed: event validators_passed (A-AUD-04)."""
    add_event(
        conn,
        "validators_passed",
        get_request(conn, request_id),
        outputs={"validators": list(validators)},
    )


def mark_rejected(
    conn: psycopg.Connection[Any],
    request_id: str,
    *,
    failed: Sequence[Mapping[str, Any]],
    expected: bool = False,
    quarantine: str | None = None,
) -> None:
    """The checks refused the data: status rejected, event plan_rejected.

    ``failed`` has validator, message and details of each check (A-AUD-04). ``expected`` is True for
    a scenario that breaks exactly the rules that it declares. ``quarantine`` is the folder of the
    rejected rows.
    """
    problem = {
        "code": str(ErrorCode.VALIDATOR_REJECTED),
        "message": ("rejected as expected: " if expected else "rejected: ")
        + ", ".join(str(item.get("validator")) for item in failed),
        "details": {"expected": expected, "failed": list(failed), "quarantine": quarantine},
    }
    with conn.transaction():
        _finish(conn, request_id, "rejected", problem)
        add_event(
            conn,
            "plan_rejected",
            get_request(conn, request_id),
            status="rejected",
            outputs={
                "failed_validators": list(failed),
                "expected": expected,
                "quarantine": quarantine,
            },
        )


def rollback_request(
    conn: psycopg.Connection[Any],
    request_id: str,
    *,
    message: str,
    step: str,
    code: ErrorCode = ErrorCode.SEED_FAILED,
    details: Mapping[str, Any] | None = None,
) -> bool:
    """Nothing of the request is in the target: status rolled_back, event seed_failed (A-AUD-05).

    Returns False, and changes nothing, unless the request is pending: a ready one keeps its rows.
    """
    problem = {"code": str(code), "message": message, "details": {"step": step, **(details or {})}}
    with conn.transaction():
        if not _finish(conn, request_id, "rolled_back", problem):
            return False
        add_event(
            conn,
            "seed_failed",
            get_request(conn, request_id),
            status="rolled_back",
            outputs={"step": step, "downstream_status": str(code), "message": message},
        )
    return True


def end_replay(
    conn: psycopg.Connection[Any], request_id: str, *, message: str, step: str, code: ErrorCode
) -> bool:
    """A replay of a ready request has failed: event seed_failed; its rows and files stay.

    Returns False, and changes nothing, unless the request is ready and a replay is under way.
    """
    with conn.transaction():
        ended = conn.execute(
            "UPDATE atdm.request SET finished_at = clock_timestamp()"
            " WHERE request_id = %s AND status = 'ready' AND started_at > finished_at",
            (request_id,),
        )
        if not ended.rowcount:
            return False
        record = get_request(conn, request_id)
        add_event(
            conn,
            "seed_failed",
            record,
            status=record.status,
            outputs={"step": step, "downstream_status": str(code), "message": message},
        )
    return True


def pending_requests(
    conn: psycopg.Connection[Any], dagster_run_ids: Sequence[str] | None = None
) -> list[RequestRef]:
    """Requests that are being made, or were when their process died; the oldest first.

    Pending ones, and ready ones with a replay under way. ``dagster_run_ids`` limits them.
    """
    with conn.cursor(row_factory=class_row(RequestRef)) as cursor:
        return cursor.execute(
            "SELECT request_id, label, domain, scenario_id, dagster_run_id FROM atdm.request"
            " WHERE (status = 'pending' OR status = 'ready' AND partition_removed_at IS NULL"
            "  AND started_at > finished_at)"
            " AND (%(runs)s::text[] IS NULL OR dagster_run_id = ANY (%(runs)s))"
            " ORDER BY created_at",
            {"runs": dagster_run_ids},
        ).fetchall()


def lock_if_free(conn: psycopg.Connection[Any], request_id: str) -> bool:
    """Take the request's lock for the caller's transaction, unless a process holds it."""
    row = conn.execute(
        "SELECT pg_try_advisory_xact_lock(atdm.request_lock_key(%s))", (request_id,)
    ).fetchone()
    return bool(row and row[0])


def begin_load(conn: psycopg.Connection[Any], record: RequestRecord) -> list[str]:
    """Join the domain and lock the request's row, in the caller's transaction.

    Returns the test runs that an earlier execution of the same request has loaded.

    Raises:
        AtdmError: BUSY while the domain is reset or restored; REQUEST_CONFLICT when the request was
            rolled back meanwhile, or runs of it are or were leased.
    """
    row = conn.execute(
        "SELECT pg_try_advisory_xact_lock_shared(atdm.domain_lock_key(%s))", (record.domain,)
    ).fetchone()
    if row is None or not row[0]:
        raise AtdmError(
            ErrorCode.BUSY,
            f"domain {record.domain} is being reset or restored",
            {"domain": record.domain},
        )
    status = conn.execute(
        "SELECT status FROM atdm.request WHERE request_id = %s FOR UPDATE", (record.request_id,)
    ).fetchone()
    if status is None or status[0] not in ("pending", "ready"):
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"request {record.label!r} is {status[0] if status else 'gone'}: it was given up "
            "while its data was being made",
            {"request_id": record.request_id},
        )
    earlier = conn.execute(
        f"SELECT test_run_id, status FROM atdm.test_run WHERE {RUNS_OF} FOR UPDATE".encode(),
        {"request": record.request_id},
    ).fetchall()
    used = [run for run, status in earlier if status != "ready"]
    if used:
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"request {record.label!r} cannot be made again: {len(used)} of its runs are or were "
            f"leased, {used[0]} for one",
            {"request_id": record.request_id, "runs": used[:20]},
        )
    return [run for run, _ in earlier]


def forget_runs(conn: psycopg.Connection[Any], request_id: str) -> None:
    """Delete the test runs of a request from the catalog, not their rows."""
    conn.execute(f"DELETE FROM atdm.test_run WHERE {RUNS_OF}".encode(), {"request": request_id})


def pool_key(conn: psycopg.Connection[Any], record: RequestRecord) -> str | None:
    """The key of the pool that the request's runs belong to, None for runs of no pool."""
    if not record.pooled:
        return None
    row = conn.execute(
        "SELECT atdm.pool_key(s.domain, s.scenario_id, s.version,"
        " atdm.effective_constraints(s.parameters, s.defaults, %s))"
        " FROM atdm.scenario AS s"
        " WHERE s.domain = %s AND s.scenario_id = %s AND s.version = %s",
        (Jsonb(record.given), record.domain, record.scenario_id, record.scenario_version),
    ).fetchone()
    assert row is not None
    return str(row[0])


def mark_ready(
    conn: psycopg.Connection[Any],
    record: RequestRecord,
    *,
    tables: Mapping[str, Mapping[str, Any]],
    content_hash: str,
    records_created: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
) -> None:
    """Its rows are loaded: status ready; events seed_completed and catalog_recorded.

    ``tables`` has rows, bytes, content_hash and path of each table's file, ``records_created`` is
    as in requirement A-AUD-05, ``seconds`` is how long each table took to load.
    """
    conn.execute(
        "UPDATE atdm.request SET status = 'ready', finished_at = clock_timestamp(),"
        " content_hash = %s, tables = %s, error = NULL WHERE request_id = %s",
        (content_hash, Jsonb(tables), record.request_id),
    )
    add_event(
        conn,
        "seed_completed",
        record,
        outputs={"records_created": list(records_created), "seconds": dict(seconds)},
    )
    add_event(
        conn,
        "catalog_recorded",
        record,
        outputs={"status": "ready", "runs": record.runs, "content_hash": content_hash},
    )


def run_counts(conn: psycopg.Connection[Any], request_id: str) -> dict[str, int]:
    """How many runs the request has, by status."""
    rows = conn.execute(
        f"SELECT status, count(*) FROM atdm.test_run WHERE {RUNS_OF}"
        " GROUP BY status ORDER BY status".encode(),
        {"request": request_id},
    ).fetchall()
    return dict(rows)


def require_published(conn: psycopg.Connection[Any], scenario: Scenario) -> None:
    """Raise TARGET_NOT_INITIALISED unless the catalog has this version of the scenario."""
    found = conn.execute(
        "SELECT FROM atdm.scenario WHERE domain = %s AND scenario_id = %s AND version = %s",
        (scenario.domain, scenario.name, scenario.version),
    ).fetchone()
    if found is None:
        raise _not_published(scenario)


def add_event(
    conn: psycopg.Connection[Any],
    action: str,
    record: RequestRecord,
    *,
    status: str = "ok",
    test_run_id: str | None = None,
    invoker: str | None = None,
    source: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    tools_called: Sequence[Any] = (),
    outputs: Mapping[str, Any] | None = None,
) -> None:
    """Write one audit event about a request (A-AUD-01 to A-AUD-09).

    ``invoker`` and ``source`` default to the request's own. Never pass a token.
    """
    conn.execute(
        "INSERT INTO atdm.audit_event"
        " (action, status, domain, scenario_id, request_id, test_run_id, invoker, source,"
        " inputs, tools_called, outputs)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            action,
            status,
            record.domain,
            record.scenario_id,
            record.request_id,
            test_run_id,
            invoker or record.invoker,
            source or record.source,
            Jsonb(json_value(inputs or {})),
            Jsonb(list(tools_called)),
            Jsonb(json_value(outputs or {})),
        ),
    )


_INSERT = (
    "INSERT INTO atdm.request (request_id, label, domain, scenario_id, scenario_version, given,"
    " effective, seed, seed_given, as_of, as_of_given, runs, number_base, pooled, status, invoker,"
    " source, reason, delivery, dagster_run_id) VALUES (%(request_id)s, %(label)s, %(domain)s,"
    " %(scenario_id)s, %(scenario_version)s, %(given)s, %(effective)s, %(seed)s, %(seed_given)s,"
    " %(as_of)s, %(as_of_given)s, %(runs)s, %(number_base)s, %(pooled)s, %(status)s, %(invoker)s,"
    f" %(source)s, %(reason)s, %(delivery)s, %(dagster_run_id)s) RETURNING {COLUMNS}"
)


def _select_one(
    conn: psycopg.Connection[Any], condition: str, values: tuple[Any, ...]
) -> RequestRecord | None:
    with conn.cursor(row_factory=class_row(RequestRecord)) as cursor:
        query = f"SELECT {COLUMNS} FROM atdm.request WHERE {condition}"
        return cursor.execute(query.encode(), values).fetchone()


def _finish(
    conn: psycopg.Connection[Any], request_id: str, status: str, problem: Mapping[str, Any]
) -> bool:
    cursor = conn.execute(
        "UPDATE atdm.request SET status = %s, error = %s, finished_at = clock_timestamp()"
        " WHERE request_id = %s AND status = 'pending'",
        (status, Jsonb(json_value(problem)), request_id),
    )
    return cursor.rowcount == 1


def _not_published(scenario: Scenario) -> AtdmError:
    return AtdmError(
        ErrorCode.TARGET_NOT_INITIALISED,
        f"{scenario.key} version {scenario.version} is not published in this database; "
        "run atdm init",
        {"scenario": scenario.key, "version": scenario.version},
    )
