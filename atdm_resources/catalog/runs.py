"""State of the catalog: counts, published scenarios, one run, the meaning of a name.

Light: psycopg and the standard library alone.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog.rows import rows

_ID_LENGTH = 26
_COMPARED = 1_000
"""Requests whose names are compared for a similar spelling."""


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
    """The published scenarios with parameters, defaults and the number of ready runs."""
    return rows(
        conn,
        "SELECT s.domain, s.scenario_id, s.version, s.description, s.tags,"
        " s.linked_requirement_ids, s.parameters, s.defaults, s.violates, s.pool_ready,"
        " (SELECT count(*) FROM atdm.test_run AS r"
        "  WHERE r.status = 'ready' AND r.pool_key = s.default_pool_key"
        "  AND r.as_of >= now() - s.max_age) AS ready"
        " FROM atdm.scenario AS s WHERE s.current ORDER BY s.domain, s.scenario_id",
    )


def run(conn: psycopg.Connection[Any], test_run_id: str) -> dict[str, Any] | None:
    """One test run, or None."""
    found = rows(
        conn,
        "SELECT test_run_id, request_id, status, owner, leased_at, expires_at, ended_at, as_of,"
        " deleted FROM atdm.test_run WHERE test_run_id = %s",
        (test_run_id,),
    )
    return found[0] if found else None


def runs_by_scenario(conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Every published scenario with its numbers of ready and leased runs."""
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
    """The request of ``name`` (a run id, a request id or a label), and the run if it is one.

    Raises:
        AtdmError: RUN_NOT_FOUND if there is none (with similar names), or if several requests have
            that label.
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
    """Why ``name`` is unknown or ambiguous, with similar names."""
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
        # In small letters, or an id of a run of that request that was never loaded.
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


def _counts(conn: psycopg.Connection[Any], table: str) -> dict[str, int]:
    queries = {
        "request": "SELECT status, count(*) AS n FROM atdm.request GROUP BY 1 ORDER BY 1",
        "test_run": "SELECT status, count(*) AS n FROM atdm.test_run GROUP BY 1 ORDER BY 1",
    }
    return {row["status"]: row["n"] for row in rows(conn, queries[table])}
