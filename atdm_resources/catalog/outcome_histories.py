"""Histories of tests by scenario, from their outcomes.

Light: psycopg and the standard library alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.owner_rights import catalog_needed

LAST = "last"
"""Stands for the session with the latest outcome."""

_TURNS = 3
"""Changes between passing and failing that make a test flaky. A defect and its mend are two."""


def histories(
    conn: psycopg.Connection[Any],
    *,
    since: datetime | None = None,
    session: str | None = None,
) -> list[dict[str, Any]]:
    """Each test with each scenario of its last session, by nodeid.

    ``since`` excludes earlier outcomes, ``session`` those of other sessions; ``last`` is the
    latest. Keys: nodeid, scenario (``<domain>/<name>``), requirement_ids (at that time), outcome,
    at (UTC),
    session, test_run_id: of the last outcome; passed, failed (with errors), skipped: counts of
    all outcomes; flaky: passed and failed within one session, or changed three times.

    Raises:
        AtdmError: REQUEST_INVALID for a session without any outcome; TARGET_NOT_INITIALISED
            without a catalog that this user may read.
    """
    values = {"since": since, "session": session, "turns": _TURNS}
    with catalog_needed(conn, "coverage"), conn.cursor(row_factory=dict_row) as cursor:
        if session == LAST:
            found = cursor.execute(_LAST_SESSION, (since, since)).fetchone()
            values["session"] = found["session"] if found else ""
        rows = cursor.execute(_HISTORIES.encode(), values).fetchall()
        if not rows and session not in (None, LAST):
            _refuse_unknown(conn, str(session))
    return [{**row, "at": row["at"].astimezone(UTC)} for row in rows]


def _refuse_unknown(conn: psycopg.Connection[Any], session: str) -> None:
    there = conn.execute(
        "SELECT FROM atdm.test_outcome WHERE session = %s LIMIT 1", (session,)
    ).fetchone()
    if there is None:
        known = [name for (name,) in conn.execute(_LATEST_SESSIONS)]
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"session {session[:200]!r} has no outcomes; the latest are: "
            + (", ".join(known) or "none at all"),
            {"session": session[:200], "latest": known},
        )


_LATEST_SESSIONS = """
SELECT session FROM atdm.test_outcome GROUP BY session ORDER BY max(at) DESC LIMIT 5
"""
_LAST_SESSION = """
SELECT session FROM atdm.test_outcome WHERE %s::timestamptz IS NULL OR at >= %s
ORDER BY at DESC, outcome_id DESC LIMIT 1
"""

# Only the last session of a test counts: before a rewrite it may have leased other scenarios.
_HISTORIES = """
WITH chosen AS (
    SELECT o.outcome_id, o.nodeid, o.domain || '/' || o.scenario_id AS scenario, o.requirement_ids,
           o.outcome, o.at, o.session, o.test_run_id, o.outcome IN ('failed', 'error') AS bad
    FROM atdm.test_outcome AS o
    WHERE (%(since)s::timestamptz IS NULL OR o.at >= %(since)s)
      AND (%(session)s::text IS NULL OR o.session = %(session)s)
), last_session AS (
    SELECT DISTINCT ON (nodeid) nodeid, session FROM chosen
    ORDER BY nodeid, at DESC, outcome_id DESC
), last_outcome AS (
    SELECT DISTINCT ON (c.nodeid, c.scenario) c.nodeid, c.scenario, c.requirement_ids, c.outcome,
           c.at, c.session, c.test_run_id
    FROM chosen AS c JOIN last_session USING (nodeid, session)
    ORDER BY c.nodeid, c.scenario, c.at DESC, c.outcome_id DESC
), counted AS (
    SELECT nodeid, scenario, count(*) FILTER (WHERE outcome = 'passed') AS passed,
           count(*) FILTER (WHERE bad) AS failed,
           count(*) FILTER (WHERE outcome = 'skipped') AS skipped
    FROM chosen GROUP BY nodeid, scenario
), turned AS (
    SELECT t.nodeid, t.scenario,
           count(*) FILTER (WHERE t.bad <> t.bad_before) AS turns,
           bool_or(t.bad <> t.bad_before AND t.session = t.session_before) AS within
    FROM (SELECT c.*, lag(c.bad) OVER w AS bad_before, lag(c.session) OVER w AS session_before
          FROM chosen AS c WHERE c.outcome <> 'skipped'
          WINDOW w AS (PARTITION BY c.nodeid, c.scenario ORDER BY c.at, c.outcome_id)) AS t
    GROUP BY t.nodeid, t.scenario
)
SELECT l.*, c.passed, c.failed, c.skipped,
       coalesce(t.turns >= %(turns)s OR t.within, false) AS flaky
FROM last_outcome AS l
JOIN counted AS c USING (nodeid, scenario)
LEFT JOIN turned AS t USING (nodeid, scenario)
ORDER BY l.nodeid, l.scenario
"""
