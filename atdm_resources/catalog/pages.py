"""Requests and test runs page by page, the newest first (requirement A-CAT-03).

Light: psycopg and the standard library alone.

A page starts after the last id of the page before it. New rows have greater ids, so they neither
repeat a row nor hide one. Ids sort by time: bounds in time are bounds of the primary key.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode, nearest_spelling
from atdm_engine.random.run_ids import ALPHABET, least_id, request_of
from atdm_resources.catalog.rows import rows

Kind = Literal["requests", "runs"]

_DIGEST = 12

STATUSES: Mapping[Kind, tuple[str, ...]] = {
    "requests": ("pending", "ready", "rejected", "rolled_back", "retired"),
    "runs": ("ready", "leased", "cleaned", "expired"),
}
_REQUEST = (
    "q.request_id, q.label, q.domain, q.scenario_id, q.scenario_version, q.status, q.runs,"
    " q.pooled, q.seed, q.as_of, q.given, q.effective, q.invoker, q.source, q.reason,"
    " q.dagster_run_id, q.created_at, q.finished_at, q.content_hash, q.tables, q.error"
)
_RUN = (
    "r.test_run_id, q.request_id, q.label, q.domain, q.scenario_id, r.status, r.owner,"
    " r.leased_at, r.expires_at, r.ended_at, r.as_of, r.deleted, q.effective, q.invoker, q.source,"
    " q.reason, q.created_at"
)


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters of a listing. None and an empty mapping filter nothing.

    ``owner`` filters runs only. ``since`` (inclusive) and ``until`` (exclusive) are times of the
    request. ``constraints`` compares effective values as texts; an empty text is a constraint
    without a value.
    """

    request_id: str | None = None
    domain: str | None = None
    scenario_id: str | None = None
    status: str | None = None
    owner: str | None = None
    invoker: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    constraints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, and the cursor of the next page, or None on the last page."""

    rows: list[dict[str, Any]]
    next_cursor: str | None


def read(
    conn: psycopg.Connection[Any],
    kind: Kind,
    filters: Filters,
    *,
    limit: int = 50,
    cursor: str | None = None,
) -> Page:
    """One page.

    Raises:
        AtdmError: REQUEST_INVALID for an unknown status and for a cursor of another listing;
            SCENARIO_NOT_FOUND, CONSTRAINT_INVALID for names that were never published.
    """
    since = None if filters.since is None else least_id(filters.since)
    after = None
    if cursor is not None:
        after, since = _continued(cursor, kind, filters)
    _check(conn, kind, filters)
    query, values = (_requests if kind == "requests" else _runs)(filters, after, since)
    found = rows(conn, query, {**values, "limit": limit + 1})
    id_name = "request_id" if kind == "requests" else "test_run_id"
    more = None
    if len(found) > limit:
        more = _cursor(kind, filters, found[limit - 1][id_name], since)
    return Page(found[:limit], more)


def _requests(filters: Filters, after: str | None, since: str | None) -> tuple[str, dict[str, Any]]:
    where, values = _of_request(filters, since)
    if filters.status is not None:
        where.append("q.status = %(status)s")
    if after is not None:
        where.append("q.request_id < %(after)s")
        values["after"] = after
    return (
        f"SELECT {_REQUEST} FROM atdm.request AS q{_all(where)}"
        " ORDER BY q.request_id DESC LIMIT %(limit)s",
        values,
    )


def _runs(filters: Filters, after: str | None, since: str | None) -> tuple[str, dict[str, Any]]:
    """With a filter of runs: along the runs. Else request by request, each with a page of its runs.

    A rare status is found in one pass over the runs; the runs of a scenario are found without
    reading those of others.
    """
    where, values = _of_request(filters, since)
    of_run = [f"t.{name} = %({name})s" for name in ("status", "owner") if values[name] is not None]
    walks = bool(of_run)
    if after is not None:
        where.append("q.request_id <= %(after_request)s")
        of_run.append("t.test_run_id < %(after)s")
        values |= {"after": after, "after_request": request_of(after)}
    columns = "t.test_run_id, t.request_id, t.status, t.owner, t.leased_at, t.expires_at,"
    columns += " t.ended_at, t.as_of, t.deleted"
    if walks:
        # The bounds of the request, for the index that is walked.
        of_run += [
            f"t.test_run_id {comparison} %({name})s"
            for name, comparison in (("since", ">="), ("until", "<"))
            if name in values
        ]
        return (
            f"SELECT {_RUN} FROM (SELECT {columns} FROM atdm.test_run AS t{_all(of_run)}) AS r"
            f" JOIN atdm.request AS q ON q.request_id = r.request_id{_all(where)}"
            " ORDER BY r.test_run_id DESC LIMIT %(limit)s",
            values,
        )
    return (
        f"SELECT {_RUN} FROM atdm.request AS q CROSS JOIN LATERAL ("
        f"SELECT {columns} FROM atdm.test_run AS t WHERE t.test_run_id > q.request_id"
        f" AND t.test_run_id <= left(q.request_id, 20) || 'ZZZZZZ'{_and(of_run)}"
        f" ORDER BY t.test_run_id DESC LIMIT %(limit)s) AS r{_all(where)}"
        " ORDER BY q.request_id DESC, r.test_run_id DESC LIMIT %(limit)s",
        values,
    )


def _of_request(filters: Filters, since: str | None) -> tuple[list[str], dict[str, Any]]:
    where = []
    values: dict[str, Any] = {
        name: getattr(filters, name)
        for name in ("request_id", "domain", "scenario_id", "status", "owner", "invoker")
    }
    for name in ("request_id", "domain", "scenario_id", "invoker"):
        if values[name] is not None:
            where.append(f"q.{name} = %({name})s")
    if since is not None:
        where.append("q.request_id >= %(since)s")
        values["since"] = since
    if filters.until is not None:
        where.append("q.request_id < %(until)s")
        values["until"] = least_id(filters.until)
    for place, (name, value) in enumerate(sorted(filters.constraints.items())):
        where.append(f"coalesce(q.effective ->> %(name{place})s, '') = %(value{place})s")
        values |= {f"name{place}": name, f"value{place}": value}
    return where, values


def _all(where: Iterable[str]) -> str:
    text = " AND ".join(where)
    return f" WHERE {text}" if text else ""


def _and(where: Iterable[str]) -> str:
    return "".join(f" AND {part}" for part in where)


def _check(conn: psycopg.Connection[Any], kind: Kind, filters: Filters) -> None:
    allowed = STATUSES[kind]
    if filters.status is not None and filters.status not in allowed:
        raise _refused(ErrorCode.REQUEST_INVALID, "status", filters.status, allowed)
    if filters.scenario_id is None and filters.domain is None and not filters.constraints:
        return
    published = rows(
        conn,
        "SELECT s.domain, s.scenario_id, array_agg(DISTINCT k.name) FILTER (WHERE k.name IS NOT"
        " NULL) AS names FROM atdm.scenario AS s"
        " LEFT JOIN LATERAL jsonb_object_keys(s.parameters) AS k (name) ON true GROUP BY 1, 2",
    )
    meant = [
        row
        for row in published
        if filters.scenario_id in (None, row["scenario_id"])
        and filters.domain in (None, row["domain"])
    ]
    if not meant:
        wanted = "/".join(part for part in (filters.domain, filters.scenario_id) if part)
        known = {row["scenario_id"] for row in published} | {
            f"{row['domain']}/{row['scenario_id']}" for row in published
        }
        raise _refused(ErrorCode.SCENARIO_NOT_FOUND, "scenario", wanted, sorted(known))
    names = {name for row in meant for name in row["names"] or ()}
    for name in filters.constraints:
        if name not in names:
            raise _refused(ErrorCode.CONSTRAINT_INVALID, "constraint", name, sorted(names))


def _refused(code: ErrorCode, what: str, found: str, allowed: Iterable[str]) -> AtdmError:
    known = list(allowed)
    nearest = nearest_spelling(found, known)
    hint = f"; did you mean {nearest}?" if nearest else ""
    listed = f" (one of {', '.join(known)})" if code is ErrorCode.REQUEST_INVALID else ""
    return AtdmError(
        code,
        f"there is no {what} {found[:100]!r}{listed}{hint}",
        {"found": found[:100], "nearest": nearest},
    )


def _digest(kind: Kind, filters: Filters) -> str:
    said = {**asdict(filters), "since": None, "until": None}
    text = json.dumps([kind, said], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]


def _cursor(kind: Kind, filters: Filters, last: str, since: str | None) -> str:
    """The listing, the last id, and ``since`` of the first page ("a day ago" would move)."""
    text = f"{_digest(kind, filters)}{last}{since or ''}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _continued(cursor: str, kind: Kind, filters: Filters) -> tuple[str, str | None]:
    """The last id of the page before, and ``since`` of the first page."""
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        last, since = text[_DIGEST : _DIGEST + 26], text[_DIGEST + 26 :]
        request_of(last)
        if len(since) not in (0, 10) or not set(since) <= set(ALPHABET):
            raise ValueError("no time")
    except ValueError as error:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{cursor[:80]!r} is no cursor: take next_cursor of the page before, unchanged",
            {"cursor": cursor[:200]},
        ) from error
    if text[:_DIGEST] != _digest(kind, filters):
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            "the cursor belongs to another listing: give the filters of the page before",
            {"cursor": cursor[:200]},
        )
    return last, since or None
