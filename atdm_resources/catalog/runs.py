"""What the catalog knows, for people: scenarios, requests, runs, trails, a summary.

Light: psycopg and the standard library alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any

import psycopg
from psycopg.rows import dict_row

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.owner_rights import catalog_needed

_ID_LENGTH = 26
_COMPARED = 1_000
"""Requests whose names are looked at for what somebody may have meant."""


def summary(conn: psycopg.Connection[Any]) -> dict[str, Any]:
    """The state of the target: server version, catalog revision, mark, counts by status.

    Raises:
        AtdmError: TARGET_NOT_INITIALISED without a catalog.
    """
    (head,) = rows(
        conn,
        "SELECT version() AS version, current_database() AS database,"
        " (SELECT version_num FROM atdm.alembic_version) AS revision,"
        " EXISTS (SELECT FROM atdm.target WHERE database_name = current_database())"
        " AS disposable,"
        " (SELECT count(*) FROM atdm.scenario WHERE current) AS scenarios",
    )
    head["version"] = " ".join(str(head["version"]).split()[:2])
    head["requests"] = _counts(conn, "request")
    head["runs"] = _counts(conn, "test_run")
    return head


def scenarios(conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """The published scenarios with their parameters, defaults and how many runs are ready."""
    return rows(
        conn,
        "SELECT s.domain, s.scenario_id, s.version, s.description, s.tags,"
        " s.linked_requirement_ids, s.parameters, s.defaults, s.violates, s.pool_ready,"
        " (SELECT count(*) FROM atdm.test_run AS r"
        "  WHERE r.status = 'ready' AND r.pool_key = s.default_pool_key"
        "  AND r.as_of >= now() - s.max_age) AS ready"
        " FROM atdm.scenario AS s WHERE s.current ORDER BY s.domain, s.scenario_id",
    )


def requests(
    conn: psycopg.Connection[Any],
    *,
    domain: str | None = None,
    scenario_id: str | None = None,
    status: str | None = None,
    since: datetime | timedelta | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """The requests that fit every filter given, the newest first (requirement A-CAT-03)."""
    start = datetime.now(UTC) - since if isinstance(since, timedelta) else since
    return rows(
        conn,
        "SELECT request_id, label, domain, scenario_id, scenario_version, status, runs, pooled,"
        " seed, as_of, given, invoker, source, reason, dagster_run_id, created_at, finished_at,"
        " content_hash, tables, error FROM atdm.request"
        " WHERE (%(domain)s::text IS NULL OR domain = %(domain)s)"
        " AND (%(scenario)s::text IS NULL OR scenario_id = %(scenario)s)"
        " AND (%(status)s::text IS NULL OR status = %(status)s)"
        " AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)"
        " ORDER BY request_id DESC LIMIT %(limit)s",
        {
            "domain": domain,
            "scenario": scenario_id,
            "status": status,
            "since": start,
            "limit": limit,
        },
    )


def runs(
    conn: psycopg.Connection[Any],
    *,
    request_id: str | None = None,
    owner: str | None = None,
    status: str | None = None,
    scenario_id: str | None = None,
    since: datetime | timedelta | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """The test runs that fit every filter given, the newest first (requirement A-CAT-03)."""
    start = datetime.now(UTC) - since if isinstance(since, timedelta) else since
    return rows(
        conn,
        "SELECT r.test_run_id, r.request_id, q.domain, q.scenario_id, r.status, r.owner,"
        " r.leased_at, r.expires_at, r.ended_at, r.as_of, q.created_at, r.deleted"
        " FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)"
        " WHERE (%(request)s::text IS NULL OR (r.test_run_id > %(request)s"
        "  AND r.test_run_id <= left(%(request)s, 20) || 'ZZZZZZ'))"
        " AND (%(owner)s::text IS NULL OR r.owner = %(owner)s)"
        " AND (%(status)s::text IS NULL OR r.status = %(status)s)"
        " AND (%(scenario)s::text IS NULL OR q.scenario_id = %(scenario)s)"
        " AND (%(since)s::timestamptz IS NULL OR q.created_at >= %(since)s)"
        " ORDER BY r.test_run_id DESC LIMIT %(limit)s",
        {
            "request": request_id,
            "owner": owner,
            "status": status,
            "scenario": scenario_id,
            "since": start,
            "limit": limit,
        },
    )


def run(conn: psycopg.Connection[Any], test_run_id: str) -> dict[str, Any] | None:
    """One test run, None when there is none of that id."""
    found = rows(
        conn,
        "SELECT test_run_id, request_id, status, owner, leased_at, expires_at, ended_at, as_of,"
        " deleted FROM atdm.test_run WHERE test_run_id = %s",
        (test_run_id,),
    )
    return found[0] if found else None


def runs_by_scenario(conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Every published scenario with how many of its runs are ready and how many are leased."""
    return rows(
        conn,
        "SELECT s.domain, s.scenario_id, coalesce(n.ready, 0) AS ready,"
        " coalesce(n.leased, 0) AS leased FROM atdm.scenario AS s LEFT JOIN ("
        "  SELECT q.domain, q.scenario_id, count(*) FILTER (WHERE r.status = 'ready') AS ready,"
        "  count(*) FILTER (WHERE r.status = 'leased') AS leased"
        "  FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)"
        "  WHERE r.status IN ('ready', 'leased') GROUP BY 1, 2"
        " ) AS n USING (domain, scenario_id)"
        " WHERE s.current ORDER BY s.domain, s.scenario_id",
    )


def find(conn: psycopg.Connection[Any], name: str) -> tuple[str, str | None]:
    """The request that ``name`` (a run id, a request id, a label) means, and the run if it is one.

    Raises:
        AtdmError: RUN_NOT_FOUND when there is none (with what was probably meant), or several
            requests have that label.
    """
    found = rows(
        conn,
        "SELECT q.request_id, r.test_run_id FROM atdm.test_run AS r"
        " JOIN atdm.request AS q USING (request_id) WHERE r.test_run_id = %(name)s"
        " UNION ALL SELECT q.request_id, NULL FROM atdm.request AS q"
        " WHERE q.request_id = %(name)s OR (q.label = %(name)s AND q.label <> q.request_id)",
        {"name": name},
    )
    if len(found) == 1:
        return found[0]["request_id"], found[0]["test_run_id"]
    raise _not_found(conn, name, [row["request_id"] for row in found])


def _not_found(conn: psycopg.Connection[Any], name: str, several: list[str]) -> AtdmError:
    """Why ``name`` means nothing, or too much, and what was probably meant."""
    details: dict[str, Any] = {"name": name[:200]}
    if several:
        message = f"several requests are called {name!r}: give the request id"
        return AtdmError(ErrorCode.RUN_NOT_FOUND, message, {**details, "requests": several})
    message = f"there is no test run, request or label {name[:200]!r}"
    request_id = name.upper()[:20] + "000000"
    runs_of = rows(
        conn,
        "SELECT request_id, runs, status FROM atdm.request WHERE request_id = %s",
        (request_id,),
    )
    if runs_of and len(name) == _ID_LENGTH:
        # Written small, or an id of that request that was never loaded or is forgotten.
        whole = runs_of[0]
        meant = name.upper() if run(conn, name.upper()) else whole["request_id"]
        runs_made = f"{whole['runs']:,} run" + ("s" if whole["runs"] != 1 else "")
        message += f"; request {whole['request_id']} is {whole['status']} and has {runs_made}"
        return AtdmError(ErrorCode.RUN_NOT_FOUND, message, {**details, "nearest": [meant]})
    known = rows(
        conn,
        "SELECT request_id, label FROM atdm.request ORDER BY request_id DESC LIMIT %s",
        (_COMPARED,),
    )
    words = dict.fromkeys(word for row in known for word in (row["label"], row["request_id"]))
    nearest = get_close_matches(name[: _ID_LENGTH * 3], words, n=3, cutoff=0.7)
    if nearest:
        message += f"; did you mean {' or '.join(nearest)}?"
    return AtdmError(ErrorCode.RUN_NOT_FOUND, message, {**details, "nearest": nearest})


def events(
    conn: psycopg.Connection[Any], request_id: str, test_run_id: str | None = None
) -> list[dict[str, Any]]:
    """The audit events of a request in the order they were written.

    With ``test_run_id``, those of the request itself and of this run; without, those of every run.
    """
    return rows(
        conn,
        "SELECT event_id, at, action, status, domain, scenario_id, request_id, test_run_id,"
        " invoker, source, inputs, tools_called, outputs, schema_version FROM atdm.audit_event"
        " WHERE request_id = %(request)s"
        " AND (%(run)s::text IS NULL OR test_run_id IS NULL OR test_run_id = %(run)s)"
        " ORDER BY event_id",
        {"request": request_id, "run": test_run_id},
    )


def one_state(conn: psycopg.Connection[Any]) -> None:
    """Let the transaction that has just begun read one consistent state, and change nothing."""
    conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _counts(conn: psycopg.Connection[Any], table: str) -> dict[str, int]:
    queries = {
        "request": "SELECT status, count(*) AS n FROM atdm.request GROUP BY 1 ORDER BY 1",
        "test_run": "SELECT status, count(*) AS n FROM atdm.test_run GROUP BY 1 ORDER BY 1",
    }
    return {row["status"]: row["n"] for row in rows(conn, queries[table])}


def rows(conn: psycopg.Connection[Any], query: str, values: Any = None) -> list[dict[str, Any]]:
    """What a query selects, as mappings; times in UTC, whatever the session's zone is.

    Raises:
        AtdmError: TARGET_NOT_INITIALISED without a catalog, and for a user who may not read it.
    """
    what = "what you ask for"
    with catalog_needed(conn, what), conn.cursor(row_factory=dict_row) as cursor:
        found: Sequence[dict[str, Any]] = cursor.execute(query.encode(), values).fetchall()
    return [{name: _utc(value) for name, value in row.items()} for row in found]


def _utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value
