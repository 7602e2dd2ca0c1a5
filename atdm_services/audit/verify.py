"""Verifies exported files of the audit trail against the chain of seals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import exports
from atdm_resources.catalog.seal import chained, seals_between
from atdm_resources.store.files import Store

_CANONICAL = (
    "event_id", "xid", "at", "action", "status", "domain", "scenario_id", "request_id",
    "test_run_id", "invoker", "source", "inputs", "tools_called", "outputs", "schema_version",
)  # fmt: skip
"""The places of an event's canonical text, which is a JSON array."""

_JSON = frozenset({"inputs", "tools_called", "outputs"})
_DAY = re.compile(r"/dt=(\d{4}-\d{2}-\d{2})/")

Seals = Mapping[int, tuple[int, bytes]]


@dataclass(slots=True)
class ExportVerdict:
    """The result. ``problems`` name a file and its error.

    ``retired`` counts files that retention has deleted.
    """

    files: int = 0
    events: int = 0
    retired: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        return not self.problems


def verify_exports(
    conn: psycopg.Connection[Any],
    store: Store,
    *,
    kept_since: datetime,
    progress: Callable[[int], None] | None = None,
) -> ExportVerdict:
    """Read every exported file: each event must have the seal that the file names.

    ``kept_since``: files of earlier days may be gone. Raises AtdmError STORE_FAILED if the store
    cannot be reached; a file that cannot be read is a problem in the result.
    """
    verdict = ExportVerdict()
    ranges = exports.finished(conn)
    there = set(store.files("audit")) if ranges else set()
    for first, last, files in ranges:
        seals = seals_between(conn, first - 1, last)
        seen: set[int] = set()
        whole = True
        for file in files:
            path = str(file["path"])
            if path not in there:
                whole = False
                if _day(path) < kept_since.astimezone(UTC).date():
                    verdict.retired += 1
                else:
                    verdict.problems.append({"file": path, "problem": "the file is missing"})
                continue
            verdict.files += 1
            rows, problem = _checked(store, path, seals, seen, first, last)
            verdict.events += rows
            if problem is None and rows != file["rows"]:
                problem = f"it holds {rows} events, {file['rows']} were written"
            if problem is not None:
                whole = False
                verdict.problems.append({"file": path, "problem": problem})
            if progress is not None:
                progress(verdict.events)
        missing = set(range(first, last + 1)) - seen
        if whole and missing:
            verdict.problems.append(
                {
                    "file": ", ".join(str(file["path"]) for file in files),
                    "problem": f"seal {min(missing)} and {len(missing) - 1} more are in no file",
                }
            )
    return verdict


def _checked(
    store: Store, path: str, seals: Seals, seen: set[int], first: int, last: int
) -> tuple[int, str | None]:
    """The number of events read from a file, and its first error."""
    rows = 0
    day = _day(path)
    try:
        for row in _rows(store, path):
            rows += 1
            number = row["seal_number"]
            if number is None or not first <= number <= last or number in seen:
                return rows, f"seal {number} does not belong into it"
            seen.add(number)
            problem = _wrong(row, day, seals)
            if problem is not None:
                return rows, f"seal {number}: {problem}"
    except AtdmError as error:
        if error.code is not ErrorCode.STORE_FAILED:
            raise
        return rows, f"it cannot be read: {error.details.get('reason', error.message)}"
    except (KeyError, ValueError) as error:
        # pyarrow raises these for bytes that are not Parquet, and for missing columns.
        return rows, f"it is no file of the trail: {error}"
    return rows, None


def _rows(store: Store, path: str) -> Iterator[dict[str, Any]]:
    from atdm_resources.store.parquet import read_batches

    for batch in read_batches(store, path):
        yield from batch.to_pylist()


def _wrong(row: Mapping[str, Any], day: date, seals: Seals) -> str | None:
    """The error of an event, or None if the chain has it unchanged."""
    number, canonical = row["seal_number"], row["canonical"]
    here, before = seals.get(number), seals.get(number - 1)
    if here is None or before is None:
        return "the database has no such seal"
    if (row["event_id"], row["hash"]) != (here[0], here[1].hex()):
        return "its event or its hash is another than the database's"
    if canonical is None or chained(before[1], canonical) != here[1]:
        return "its text was changed"
    event = dict(zip(_CANONICAL, json.loads(canonical), strict=True))
    for name, value in event.items():
        shown = row.get(name, value) if name == "xid" else row[name]
        if name == "at":
            shown = shown and shown.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            if shown is not None and date.fromisoformat(shown[:10]) != day:
                return f"it is in the folder of {day}"
        elif name in _JSON:
            shown = None if shown is None else json.loads(shown)
        if shown != value:
            return f"column {name} was changed"
    return None


def _day(path: str) -> date:
    match = _DAY.search(path)
    return date.max if match is None else date.fromisoformat(match[1])
