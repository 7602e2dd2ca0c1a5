"""How long what is kept: defaults, what a person may say instead, and deleting what is older.

Audit events are never deleted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode, nearest_spelling
from atdm_engine.random import run_ids
from atdm_resources.catalog import queue as queueing
from atdm_resources.store.files import Store
from atdm_services.audit.export import FOLDER as AUDIT
from atdm_services.queue import inbox

VARIABLE = "ATDM_RETENTION"
QUARANTINE = "quarantine"

_LENGTH = re.compile(r"(\d{1,5})([smhd])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DAY = re.compile(r"/dt=(\d{4}-\d{2}-\d{2})/")
_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are kept. ``ATDM_RETENTION=ready=3d,exports=90d`` changes some of them.

    ready: a ready run that nobody leases. retired: a request whose runs are all gone, before its
    partition key and files go. failed: the same for one that was rejected or rolled back. runs: the
    row of a run that is over, in the catalog. submissions: an answered submission and its file.
    outcomes: how a test ended that used a run. quarantine: rejected rows. exports: the trail as
    Parquet. dagster: events of Dagster's runs that the audit does not need.
    """

    ready: timedelta = timedelta(days=7)
    retired: timedelta = timedelta(hours=1)
    failed: timedelta = timedelta(days=7)
    runs: timedelta = timedelta(days=90)
    submissions: timedelta = timedelta(days=30)
    outcomes: timedelta = timedelta(days=90)
    quarantine: timedelta = timedelta(days=30)
    exports: timedelta = timedelta(days=400)
    dagster: timedelta = timedelta(days=30)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Retention:
        """The defaults with what ATDM_RETENTION says.

        Raises:
            AtdmError: REQUEST_INVALID naming the part that cannot be read and what is allowed.
        """
        source = os.environ if environ is None else environ
        known = [field.name for field in fields(cls)]
        given: dict[str, timedelta] = {}
        for part in source.get(VARIABLE, "").split(","):
            if not part.strip():
                continue
            name, _, length = (word.strip() for word in part.partition("="))
            match = _LENGTH.match(length)
            if name not in known or match is None:
                nearest = nearest_spelling(name, known)
                hint = f"; did you mean {nearest}?" if nearest and nearest != name else ""
                raise AtdmError(
                    ErrorCode.REQUEST_INVALID,
                    f"{VARIABLE}: found {part.strip()!r}; allowed: NAME=LENGTH like ready=7d,"
                    f" NAME one of {', '.join(known)}{hint}",
                    {"variable": VARIABLE, "found": part.strip(), "allowed": known},
                )
            given[name] = timedelta(**{_UNITS[match[2]]: int(match[1])})
        return cls(**given)


def delete_old(
    conn: psycopg.Connection[Any], store: Store, retention: Retention, now: datetime
) -> dict[str, int]:
    """Delete what is older than ``retention`` says; how much of what went.

    Keys: runs, submissions, outcomes (rows of the catalog); outbox, inbox, quarantine, exports
    (files).
    """
    names = _old_submissions(conn, retention)
    outbox = sum(store.delete_prefix(f"{inbox.OUTBOX}/{name}") for name in names if name)
    return {
        "runs": _old_runs(conn, retention),
        "submissions": len(names),
        "outcomes": _old_outcomes(conn, retention),
        "outbox": outbox,
        "inbox": _old_days(store, inbox.REJECTED, now - retention.submissions),
        "quarantine": _old_quarantine(store, now - retention.quarantine),
        "exports": _old_days(store, AUDIT, now - retention.exports),
    }


def _old_submissions(conn: psycopg.Connection[Any], retention: Retention) -> list[str]:
    names: list[str] = []
    while part := queueing.forget_answered(conn, retention.submissions, _AT_ONCE):
        names += part
    return names


def _old_runs(conn: psycopg.Connection[Any], retention: Retention) -> int:
    """Rows of runs that are over and whose request is retired; the request stays as history."""
    total = 0
    while True:
        gone = conn.execute(
            "DELETE FROM atdm.test_run WHERE test_run_id IN ("
            " SELECT r.test_run_id FROM atdm.request AS q"
            " JOIN atdm.test_run AS r ON r.test_run_id > q.request_id"
            "  AND r.test_run_id <= left(q.request_id, 20) || 'ZZZZZZ'"
            " WHERE q.status = 'retired' AND q.finished_at < now() - %s"
            " AND r.status IN ('cleaned', 'expired') AND r.ended_at < now() - %s LIMIT %s)",
            (retention.runs, retention.runs, _AT_ONCE),
        ).rowcount
        total += gone
        if gone < _AT_ONCE:
            return total


def _old_outcomes(conn: psycopg.Connection[Any], retention: Retention) -> int:
    total = 0
    while True:
        gone = conn.execute(
            "DELETE FROM atdm.test_outcome WHERE outcome_id IN ("
            " SELECT outcome_id FROM atdm.test_outcome WHERE at < now() - %s LIMIT %s)",
            (retention.outcomes, _AT_ONCE),
        ).rowcount
        total += gone
        if gone < _AT_ONCE:
            return total


def _old_days(store: Store, folder: str, limit: datetime) -> int:
    """Delete files below ``folder`` whose ``dt=`` folder is a day before ``limit``'s."""
    old = set()
    for path in store.files(folder):
        day = _DAY.search(path)
        if day is not None and date.fromisoformat(day[1]) < limit.astimezone(UTC).date():
            old.add(path[: day.end() - 1])
    return sum(store.delete_prefix(path) for path in sorted(old))


def _old_quarantine(store: Store, limit: datetime) -> int:
    """Delete the folders of requests older than ``limit``: a request's id tells its time."""
    old = set()
    for path in store.files(QUARANTINE):
        folder, _, _ = path.rpartition("/")
        request_id = folder.rpartition("/")[2]
        if run_ids.is_request_id(request_id) and run_ids.time_of(request_id) < limit:
            old.add(folder)
    return sum(store.delete_prefix(folder) for folder in sorted(old))


def record(conn: psycopg.Connection[Any], deleted: Mapping[str, int]) -> None:
    """Write retention_applied with how much of what was deleted."""
    conn.execute(
        "INSERT INTO atdm.audit_event (action, invoker, source, outputs)"
        " VALUES ('retention_applied', 'agent:atdm-retention', 'retention', %s)",
        (Jsonb(dict(deleted)),),
    )
