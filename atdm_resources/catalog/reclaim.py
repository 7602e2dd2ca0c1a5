"""Reclaims test runs without their tokens: for operators, pools, expiry, the end of a suite.

Every function needs the owner of the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases
from atdm_resources.postgres.errors import guarded

MOST = 500
"""Runs that one transaction reclaims: few enough that other transactions do not wait long."""


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """Deleted rows by domain, then table; ``adopted`` ones had no run's id.

    ``failed`` maps runs whose rows are still there to the reason; ``busy`` are domains in reset.
    """

    runs: list[str] = field(default_factory=list)
    deleted: dict[str, dict[str, int]] = field(default_factory=dict)
    adopted: dict[str, dict[str, int]] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)

    def __add__(self, other: Reclaimed) -> Reclaimed:
        return Reclaimed(
            [*self.runs, *other.runs],
            _summed(self.deleted, other.deleted),
            _summed(self.adopted, other.adopted),
            [*self.failed, *other.failed],
            list(dict.fromkeys([*self.busy, *other.busy])),
        )

    @property
    def complete(self) -> bool:
        """Whether every run was reclaimed."""
        return not self.failed and not self.busy


def _summed(
    one: dict[str, dict[str, int]], other: dict[str, dict[str, int]]
) -> dict[str, dict[str, int]]:
    total = {domain: dict(counts) for domain, counts in one.items()}
    for domain, counts in other.items():
        into = total.setdefault(domain, {})
        for table, count in counts.items():
            into[table] = into.get(table, 0) + count
    return total


def reclaim_runs(
    conn: psycopg.Connection[Any],
    run_ids: Sequence[str],
    *,
    strategy: str,
    ended_as: str = "cleaned",
    invoker: str,
    source: str,
) -> Reclaimed:
    """Delete the rows of these ready or leased runs and all rows that refer to them.

    Runs that another transaction works on and runs that have ended are skipped. ``strategy`` is the
    reason in the audit trail. One transaction for every 500 runs, where ``conn`` is in autocommit
    mode.

    Raises:
        AtdmError: TARGET_NOT_INITIALISED, TARGET_NOT_DISPOSABLE.
    """
    done = Reclaimed()
    for first in range(0, len(run_ids), MOST):
        done += _called(
            conn,
            "SELECT atdm.reclaim(%s, %s, %s, %s, %s)",
            (list(run_ids[first : first + MOST]), strategy, ended_as, invoker, source),
        )
    return done


def expire_due(
    conn: psycopg.Connection[Any], most: int = MOST, *, invoker: str, source: str
) -> Reclaimed:
    """Reclaim at most ``most`` overdue leases; their status becomes ``expired``."""
    return _called(conn, "SELECT atdm.expire_due(%s, %s, %s)", (most, invoker, source))


def reset_run(
    conn: psycopg.Connection[Any], test_run_id: str, *, reason: str, invoker: str, source: str
) -> dict[str, Any]:
    """Reclaim one run for an operator, who gives a reason instead of a token.

    Returns status (cleaned, already_cleaned), test_run_id, domain, deleted and adopted by table.

    Raises:
        AtdmError: RUN_NOT_FOUND; REQUEST_INVALID without a reason; RESET_FAILED naming the
        obstacle; BUSY.
    """
    if not reason.strip():
        raise AtdmError(ErrorCode.REQUEST_INVALID, "a reset without a token needs a reason")
    row = conn.execute(
        "SELECT r.status, q.domain, q.scenario_id, q.request_id FROM atdm.test_run AS r"
        " JOIN atdm.request AS q USING (request_id) WHERE r.test_run_id = %s",
        (test_run_id,),
    ).fetchone()
    if row is None:
        raise AtdmError(
            ErrorCode.RUN_NOT_FOUND,
            f"there is no test run {test_run_id[:64]!r}",
            {"test_run_id": test_run_id[:64]},
        )
    status, domain, scenario_id, request_id = row
    answer: dict[str, Any] = {"test_run_id": test_run_id, "domain": domain}
    if status not in ("ready", "leased"):
        return {**answer, "status": "already_cleaned", "deleted": {}, "adopted": {}}
    conn.execute(
        "INSERT INTO atdm.audit_event (action, domain, scenario_id, request_id, test_run_id,"
        " invoker, source, inputs) VALUES ('reset_requested', %s, %s, %s, %s, %s, %s, %s)",
        (
            domain,
            scenario_id,
            request_id,
            test_run_id,
            invoker,
            source,
            Jsonb({"reason": reason, "run_was": status}),
        ),
    )
    done = reclaim_runs(conn, [test_run_id], strategy="reset_run", invoker=invoker, source=source)
    if done.failed:
        problem = done.failed[0]["error"]
        raise AtdmError(
            ErrorCode(problem["code"]), problem["message"], problem.get("details") or {}
        )
    if not done.runs:
        raise AtdmError(
            ErrorCode.BUSY,
            f"domain {domain} is being reset, or {test_run_id} is in use; try again",
            {"test_run_id": test_run_id, "domain": domain},
        )
    return {
        **answer,
        "status": "cleaned",
        "deleted": done.deleted.get(domain, {}),
        "adopted": done.adopted.get(domain, {}),
    }


def reset_all(
    conn: psycopg.Connection[Any],
    domain: str,
    *,
    reason: str,
    revoke_leases: bool,
    invoker: str,
    source: str,
) -> dict[str, Any]:
    """``leases.reset_all`` for an operator, who gives a reason; a failure is recorded too.

    Raises:
        AtdmError: REQUEST_INVALID without a reason; BUSY, naming the owners of leases;
        RESET_FAILED.
    """
    if not reason.strip():
        raise AtdmError(ErrorCode.REQUEST_INVALID, "a reset of everything needs a reason")
    note = (
        "INSERT INTO atdm.audit_event (action, status, domain, invoker, source, inputs, outputs)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)"
    )
    said = Jsonb({"strategy": "reset_all", "reason": reason, "revoke_leases": revoke_leases})
    conn.execute(note, ("reset_requested", "ok", domain, invoker, source, said, Jsonb({})))
    try:
        return leases.reset_all(
            conn,
            domain,
            confirm=True,
            revoke_leases=revoke_leases,
            invoker=invoker,
            source=source,
        )
    except AtdmError as error:
        outputs = Jsonb(error.envelope()["error"])
        conn.execute(note, ("reset_failed", "failed", domain, invoker, source, said, outputs))
        raise


def reset_suite(
    conn: psycopg.Connection[Any], build: str, *, invoker: str, source: str
) -> Reclaimed:
    """Reclaim all leases that ``build`` owns, except those to be left (requirement A-OPS-16)."""
    held = conn.execute(
        "SELECT test_run_id FROM atdm.test_run WHERE status = 'leased' AND owner = %s"
        " AND cleanup_strategy IS DISTINCT FROM 'leave' ORDER BY test_run_id",
        (build,),
    ).fetchall()
    return reclaim_runs(
        conn, [run for (run,) in held], strategy="after_suite", invoker=invoker, source=source
    )


def reset_unclaimed(
    conn: psycopg.Connection[Any], age: timedelta, most: int, *, invoker: str, source: str
) -> Reclaimed:
    """Reclaim ready runs of requests that ended longer than ``age`` ago and were never leased."""
    old = conn.execute(
        "SELECT r.test_run_id FROM atdm.request AS q"
        " JOIN atdm.test_run AS r ON r.test_run_id > q.request_id"
        "  AND r.test_run_id <= left(q.request_id, 20) || 'ZZZZZZ'"
        " WHERE q.status = 'ready' AND q.partition_removed_at IS NULL"
        " AND q.finished_at < now() - %s AND r.status = 'ready'"
        " AND (r.retry_at IS NULL OR r.retry_at < now()) LIMIT %s",
        (age, most),
    ).fetchall()
    return reclaim_runs(
        conn, [run for (run,) in old], strategy="retention", invoker=invoker, source=source
    )


def _called(conn: psycopg.Connection[Any], query: str, values: tuple[Any, ...]) -> Reclaimed:
    row = guarded(lambda: conn.execute(query.encode(), values).fetchone())
    assert row is not None
    return Reclaimed(**row[0])
