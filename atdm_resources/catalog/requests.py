"""Requests and test runs in schema ``atdm``: recording what is asked, and how it ended.

Every function takes an open connection. Where the connection is in autocommit mode (the default of
``target.connect``), a function is one transaction; inside a transaction of the caller's it is part
of that.
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


COLUMNS = ", ".join(RequestRecord.__slots__)


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
    planner: str = "rule",
    delivery: Mapping[str, Any] | None = None,
    dagster_run_id: str | None = None,
) -> RequestRecord:
    """Record a resolved request as pending, with request_received and plan_resolved.

    ``numbers`` is what ``planning.numbers_needed`` says; the record's ``number_base`` is the first
    number of the range that the request now owns (put it into the spec before generating).
    ``label`` defaults to the request id. ``pooled`` runs may be leased by anybody who asks for the
    same scenario and constraints; pass False when seed or as_of were given.

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
            "delivery": Jsonb(dict(delivery or {})),
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
                "request_id": record.request_id,
                "label": record.label,
                "scenario": scenario.key,
                "constraints": record.given,
                "effective_constraints": record.effective,
                "runs": record.runs,
                "delivery": record.delivery,
                "planner_mode": planner,
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
    """Take up a recorded request once more, as when its partition is materialised again.

    One that was rejected or rolled back becomes pending. A ready one stays ready, so that nothing
    is lost when the replay fails; ``seeding.seed`` replaces its rows. Adds request_received.

    Raises:
        AtdmError: RUN_NOT_FOUND; REQUEST_CONFLICT when a run of it was leased, cleaned or expired,
            or when it is retired, naming what is in the way.
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
            # Started after it had finished: that is how a replay that is under way is known.
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
    """Generation begins: started_at, the Dagster run, seed_started (requirement A-AUD-03)."""
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
    """Every blocking check has passed: validators_passed (requirement A-AUD-04)."""
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
    """The checks refused the data: status rejected, plan_rejected.

    ``failed`` has validator, message and details of each (requirement A-AUD-04). ``expected`` is
    True for a scenario that breaks exactly the rules it says it does. ``quarantine`` is where the
    rejected rows are.
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
    """Nothing of the request is in the target: status rolled_back, seed_failed (A-AUD-05).

    Does nothing and returns False unless the request is pending: a ready one keeps its rows.
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


def run_counts(conn: psycopg.Connection[Any], request_id: str) -> dict[str, int]:
    """How many runs the request has, by status."""
    rows = conn.execute(
        "SELECT status, count(*) FROM atdm.test_run"
        " WHERE test_run_id > %s AND test_run_id <= left(%s, 20) || 'ZZZZZZ'"
        " GROUP BY status ORDER BY status",
        (request_id, request_id),
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
    """Write one audit event about a request (names: requirements A-AUD-01..09).

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
