"""Retention: how long things are kept, and deleting what is older. Audit events always stay."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode, nearest_spelling
from atdm_engine.random import run_ids
from atdm_resources.catalog import queue, retirement
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

    - ready: a run that is not leased
    - retired: partition key and files of a request whose runs are all gone
    - failed: the same of a request that was rejected or rolled back
    - runs: the catalog's row of a run that has ended
    - submissions: an answered submission and its file
    - outcomes: the outcome of a test that used a run
    - quarantine: rejected rows
    - exports: the audit trail as Parquet
    - dagster: events of Dagster's runs that the audit does not need
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
        """The defaults, changed by ATDM_RETENTION.

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
    """Delete what is older than its retention; returns how much of what.

    Keys: runs, submissions, outcomes (rows of the catalog); outbox, inbox, quarantine, exports
    (files).
    """
    files: list[str] = []
    while part := queue.forget_answered(conn, retention.submissions, _AT_ONCE):
        files += part
    return {
        "runs": _all(retirement.delete_ended_runs, conn, retention.runs),
        "submissions": len(files),
        "outcomes": _all(retirement.delete_outcomes, conn, retention.outcomes),
        "outbox": sum(store.delete_prefix(f"{inbox.OUTBOX}/{name}") for name in files if name),
        "inbox": _old_days(store, inbox.REJECTED, now - retention.submissions),
        "quarantine": _old_quarantine(store, now - retention.quarantine),
        "exports": _old_days(store, AUDIT, now - retention.exports),
    }


def _all(
    delete: Callable[[psycopg.Connection[Any], timedelta, int], int],
    conn: psycopg.Connection[Any],
    age: timedelta,
) -> int:
    """Delete all that is older, in parts; returns how many rows."""
    total = 0
    while part := delete(conn, age, _AT_ONCE):
        total += part
    return total


def _old_days(store: Store, folder: str, limit: datetime) -> int:
    """Delete files below ``folder`` in ``dt=`` folders of days before ``limit``; how many."""
    old = set()
    for path in store.files(folder):
        day = _DAY.search(path)
        if day is not None and date.fromisoformat(day[1]) < limit.astimezone(UTC).date():
            old.add(path[: day.end() - 1])
    return sum(store.delete_prefix(path) for path in sorted(old))


def _old_quarantine(store: Store, limit: datetime) -> int:
    """Delete the folders of requests whose id was minted before ``limit``; how many files."""
    old = set()
    for path in store.files(QUARANTINE):
        folder, _, _ = path.rpartition("/")
        request_id = folder.rpartition("/")[2]
        if run_ids.is_request_id(request_id) and run_ids.time_of(request_id) < limit:
            old.add(folder)
    return sum(store.delete_prefix(folder) for folder in sorted(old))
