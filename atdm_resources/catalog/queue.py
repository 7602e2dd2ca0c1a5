"""The queue: submissions, their grouping into requests, their answers.

Light: psycopg and the standard library, because a submission must not cost more than a lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from atdm_resources.postgres.errors import guarded

MOST_RUNS = 10_000
"""Test runs of one request of the queue at most; the rest waits for the next tick."""


@dataclass(frozen=True, slots=True)
class Group:
    """Waiting submissions that one request can serve."""

    group_key: str
    submissions: int
    runs: int


@dataclass(frozen=True, slots=True)
class Launch:
    """A request that serves submissions and is not recorded yet. ``payload`` is one of theirs.

    ``age`` is the time since it was assigned.
    """

    request_id: str
    domain: str
    scenario_id: str
    payload: dict[str, Any]
    runs: int
    submissions: int
    age: timedelta


@dataclass(frozen=True, slots=True)
class SuiteEvent:
    """A suite that started or finished. ``age`` is the time since its restore was launched."""

    submission_id: int
    idempotency_key: str
    kind: str
    status: str
    payload: dict[str, Any]
    invoker: str
    attempts: int
    age: timedelta | None


def submit(conn: psycopg.Connection[Any], submission: Mapping[str, Any]) -> dict[str, Any]:
    """Submit a request or a suite event (fields: SQL function ``atdm.submit``); one round trip.

    Returns idempotency_key, status, answer, created (False: the key existed).

    Raises:
        AtdmError: REQUEST_INVALID naming every problem; REQUEST_CONFLICT if the key was used for
            another submission; TARGET_NOT_INITIALISED.
    """
    return _answer(conn, "SELECT atdm.submit(%s)", (Jsonb(dict(submission)),))


def submission_status(
    conn: psycopg.Connection[Any], idempotency_key: str, secret: str | None = None
) -> dict[str, Any]:
    """Status and answer of a submission, never a token. Raises AtdmError RUN_NOT_FOUND."""
    return _answer(conn, "SELECT atdm.submission_status(%s, %s)", (idempotency_key, secret))


def waiting(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """The numbers of waiting and launched submissions, by status; one cheap query."""
    row = conn.execute(
        "SELECT (SELECT count(*) FROM atdm.submission WHERE status = 'waiting'),"
        " (SELECT count(*) FROM atdm.submission WHERE status = 'launched')"
    ).fetchone()
    assert row is not None
    return {"waiting": row[0], "launched": row[1]}


def submitted_at(conn: psycopg.Connection[Any], request_id: str) -> datetime | None:
    """When the first submission of a request was made, or None."""
    row = conn.execute(
        "SELECT min(submitted_at) FROM atdm.submission WHERE request_id = %s", (request_id,)
    ).fetchone()
    return None if row is None else row[0]


def groups(conn: psycopg.Connection[Any], most: int) -> list[Group]:
    """The next groups of waiting requests: the highest priority first, then the oldest."""
    with conn.cursor(row_factory=class_row(Group)) as cursor:
        return cursor.execute(
            "SELECT group_key, count(*) AS submissions, sum(runs) AS runs FROM atdm.submission"
            " WHERE status = 'waiting' AND group_key IS NOT NULL"
            " GROUP BY group_key ORDER BY max(priority) DESC, min(submission_id) LIMIT %s",
            (most,),
        ).fetchall()


def assign(conn: psycopg.Connection[Any], group: Group, request_id: str) -> int:
    """Assign consecutive runs of a new request to the waiting submissions of a group.

    Returns the number of submissions that got runs; 0 if another process was faster.
    """
    return conn.execute(
        "UPDATE atdm.submission AS s SET status = 'launched', request_id = %s,"
        " first_run = p.before + 1, launched_at = clock_timestamp(), attempts = s.attempts + 1"
        " FROM (SELECT w.submission_id,"
        "  sum(w.runs) OVER (ORDER BY w.priority DESC, w.submission_id) - w.runs AS before"
        "  FROM (SELECT submission_id, runs, priority FROM atdm.submission"
        "   WHERE status = 'waiting' AND group_key = %s"
        "   ORDER BY priority DESC, submission_id LIMIT %s FOR UPDATE SKIP LOCKED) AS w) AS p"
        " WHERE s.submission_id = p.submission_id AND p.before < %s",
        (request_id, group.group_key, MOST_RUNS, MOST_RUNS),
    ).rowcount


def launches(conn: psycopg.Connection[Any], most: int) -> list[Launch]:
    """Assigned requests that are not recorded yet, the oldest first."""
    with conn.cursor(row_factory=class_row(Launch)) as cursor:
        return cursor.execute(
            "SELECT l.request_id, l.domain, l.scenario_id, l.payload, l.runs, l.submissions,"
            " clock_timestamp() - l.launched_at AS age FROM ("
            " SELECT request_id, min(domain) AS domain, min(scenario_id) AS scenario_id,"
            "  (array_agg(payload ORDER BY first_run))[1] AS payload,"
            "  max(first_run + runs - 1) AS runs, count(*) AS submissions,"
            "  min(launched_at) AS launched_at"
            "  FROM atdm.submission WHERE status = 'launched' AND group_key IS NOT NULL"
            "  GROUP BY request_id) AS l"
            " WHERE NOT EXISTS (SELECT FROM atdm.request AS q WHERE q.request_id = l.request_id)"
            " ORDER BY l.launched_at LIMIT %s",
            (most,),
        ).fetchall()


def unsettled(conn: psycopg.Connection[Any]) -> int:
    """The number of requests for submissions that are in progress."""
    row = conn.execute(
        "SELECT count(DISTINCT request_id) FROM atdm.submission"
        " WHERE status = 'launched' AND group_key IS NOT NULL"
    ).fetchone()
    assert row is not None
    return int(row[0])


def settle_ended(conn: psycopg.Connection[Any], most: int) -> tuple[int, int]:
    """Answer the submissions of ended requests; returns the numbers answered and waiting again."""
    rows = conn.execute(
        "SELECT (t).answered, (t).again FROM ("
        " SELECT atdm.settle(l.request_id) AS t FROM ("
        "  SELECT DISTINCT s.request_id FROM atdm.submission AS s"
        "  JOIN atdm.request AS q ON q.request_id = s.request_id AND q.status <> 'pending'"
        "  WHERE s.status = 'launched' LIMIT %s) AS l OFFSET 0) AS settled",
        (most,),
    ).fetchall()
    return sum(answered for answered, _ in rows), sum(again for _, again in rows)


def settle_failed(
    conn: psycopg.Connection[Any], request_id: str, error: Mapping[str, Any]
) -> tuple[int, int]:
    """Answer the submissions of a request whose run failed.

    ``error`` has code, message and details. Returns the numbers answered and waiting again.
    """
    row = conn.execute(
        "SELECT answered, again FROM atdm.settle(%s, %s)", (request_id, Jsonb(dict(error)))
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def suite_events(
    conn: psycopg.Connection[Any], kind: str, status: str, most: int
) -> list[SuiteEvent]:
    """Suite events of a kind and status, by priority and age."""
    with conn.cursor(row_factory=class_row(SuiteEvent)) as cursor:
        return cursor.execute(
            "SELECT submission_id, idempotency_key, kind, status, payload, invoker, attempts,"
            " clock_timestamp() - launched_at AS age FROM atdm.submission"
            " WHERE status = %s AND kind = %s"
            " ORDER BY priority DESC, submission_id LIMIT %s",
            (status, kind, most),
        ).fetchall()


def launch_suite(conn: psycopg.Connection[Any], submission_id: int) -> bool:
    """Mark a suite event as launched; False if another process has."""
    cursor = conn.execute(
        "UPDATE atdm.submission SET status = 'launched', launched_at = clock_timestamp(),"
        " attempts = attempts + 1 WHERE submission_id = %s AND status = 'waiting'",
        (submission_id,),
    )
    return cursor.rowcount == 1


def answer_suite(
    conn: psycopg.Connection[Any], submission_id: int, status: str, answer: Mapping[str, Any]
) -> bool:
    """Answer a suite event with ``status`` fulfilled or rejected; False if it was answered."""
    cursor = conn.execute(
        "UPDATE atdm.submission SET status = %s, answer = %s, answered_at = clock_timestamp()"
        " WHERE submission_id = %s AND answer IS NULL",
        (status, Jsonb({"status": status, **answer}), submission_id),
    )
    return cursor.rowcount == 1


def forget_answered(conn: psycopg.Connection[Any], age: timedelta, most: int) -> list[str]:
    """Delete submissions that were answered longer than ``age`` ago; returns their file names."""
    rows = conn.execute(
        "DELETE FROM atdm.submission WHERE submission_id IN ("
        " SELECT submission_id FROM atdm.submission"
        " WHERE answered_at < now() - %s ORDER BY submission_id LIMIT %s)"
        " RETURNING coalesce(file_name, '')",
        (age, most),
    ).fetchall()
    return [name for (name,) in rows]


def _answer(conn: psycopg.Connection[Any], query: str, values: tuple[Any, ...]) -> dict[str, Any]:
    row = guarded(lambda: conn.execute(query.encode(), values).fetchone())
    assert row is not None
    answer: dict[str, Any] = row[0]
    return answer


def unpublished_answers(
    conn: psycopg.Connection[Any], most: int
) -> list[tuple[int, str, dict[str, Any]]]:
    """Id, file name and answer of answered submissions from files without a file of the answer."""
    return conn.execute(
        "SELECT submission_id, file_name, atdm.submission_answer(s) FROM atdm.submission AS s"
        " WHERE origin = 'inbox' AND answer IS NOT NULL AND published_at IS NULL"
        " ORDER BY submission_id LIMIT %s",
        (most,),
    ).fetchall()


def mark_published(conn: psycopg.Connection[Any], submission_id: int) -> None:
    """Record that the answer of a submission is in the outbox."""
    conn.execute(
        "UPDATE atdm.submission SET published_at = clock_timestamp() WHERE submission_id = %s",
        (submission_id,),
    )
