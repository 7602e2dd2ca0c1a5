"""The trail of one request or test run.

Light: psycopg and the standard library alone.

A request may have a hundred thousand runs and half a million events, so lists have a limit and come
with the count of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from atdm_resources.catalog.rows import rows
from atdm_resources.catalog.seal import GENESIS, chained

VERIFIED_AT_MOST = 20_000
"""Seals that are verified for one page; `atdm audit-verify` verifies all of them."""

COUNTED_AT_MOST = 100_000
"""Rows of one table that are counted in the target at most."""

_EVENT = (
    "SELECT e.event_id, e.at, e.action, e.status, e.domain, e.scenario_id, e.request_id,"
    " e.test_run_id, e.invoker, e.source, e.inputs, e.tools_called, e.outputs, e.schema_version"
    " FROM atdm.audit_event AS e"
)
_OF_SUBJECT = (
    " WHERE e.request_id = %(request)s"
    " AND (%(run)s::text IS NULL OR e.test_run_id IS NULL OR e.test_run_id = %(run)s)"
)
_RUNS_OF = "test_run_id > %(request)s AND test_run_id <= left(%(request)s, 20) || 'ZZZZZZ'"
_OF_THE_DOMAIN = (
    "snapshot_completed",
    "snapshot_failed",
    "restore_completed",
    "restore_failed",
    "reset_completed",
    "reset_failed",
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A request, or one run of it."""

    request_id: str
    test_run_id: str | None

    @property
    def values(self) -> dict[str, Any]:
        return {"request": self.request_id, "run": self.test_run_id}


def all_events(
    conn: psycopg.Connection[Any], request_id: str, test_run_id: str | None = None
) -> list[dict[str, Any]]:
    """The audit events of a request in the order they were written.

    With ``test_run_id``, those of the request itself and of this run; without, those of every run.
    """
    subject = Subject(request_id, test_run_id)
    return rows(conn, f"{_EVENT}{_OF_SUBJECT} ORDER BY e.event_id", subject.values)


def events(
    conn: psycopg.Connection[Any], subject: Subject, most: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The events in the order they were written: at most ``most`` first, and ``most`` last ones.

    The two do not overlap; the second is empty where the first has all.
    """
    values = {**subject.values, "most": most}
    first = rows(conn, f"{_EVENT}{_OF_SUBJECT} ORDER BY e.event_id LIMIT %(most)s", values)
    if len(first) < most:
        return first, []
    values["after"] = first[-1]["event_id"]
    last = rows(
        conn,
        f"{_EVENT}{_OF_SUBJECT} AND e.event_id > %(after)s ORDER BY e.event_id DESC LIMIT %(most)s",
        values,
    )
    return first, last[::-1]


def making_events(conn: psycopg.Connection[Any], subject: Subject) -> list[dict[str, Any]]:
    """The newest 50 events of the request itself and of replays.

    Other events of single runs are counted in ``totals``.
    """
    found = rows(
        conn,
        f"{_EVENT}{_OF_SUBJECT} AND (e.test_run_id IS NULL OR e.action = 'replayed')"
        " ORDER BY e.event_id DESC LIMIT 50",
        subject.values,
    )
    return found[::-1]


def totals(conn: psycopg.Connection[Any], subject: Subject) -> list[dict[str, Any]]:
    """By action: the number of events, and the times of the first and the last."""
    return rows(
        conn,
        "SELECT e.action, count(*) AS n, min(e.at) AS first_at, max(e.at) AS last_at"
        f" FROM atdm.audit_event AS e{_OF_SUBJECT} GROUP BY e.action ORDER BY min(e.event_id)",
        subject.values,
    )


def fixtures(conn: psycopg.Connection[Any], subject: Subject, most: int) -> list[dict[str, Any]]:
    """The latest events about fixture files."""
    return rows(
        conn,
        f"{_EVENT}{_OF_SUBJECT} AND e.action = 'fixtures_emitted'"
        " ORDER BY e.event_id DESC LIMIT %(most)s",
        {**subject.values, "most": most},
    )


def resets(conn: psycopg.Connection[Any], subject: Subject, most: int) -> list[dict[str, Any]]:
    """Resets by invoker, strategy and result; successful ones first.

    ``deleted`` and ``adopted`` are counts of rows by table. Runs that were reset together have one
    count for all; where some belong to other subjects, ``shared`` is true and the counts are of
    all.
    """
    return rows(
        conn,
        "WITH batch AS ("
        "  SELECT e.xid, e.action, e.status, e.invoker, e.source, e.outputs, count(*) AS n,"
        "   min(e.at) AS first_at, max(e.at) AS last_at,"
        "   greatest(coalesce((e.outputs ->> 'runs')::integer, 1), 1) AS runs"
        f"  FROM atdm.audit_event AS e{_OF_SUBJECT}"
        "   AND e.action IN ('reset_completed', 'reset_failed', 'reset_rejected')"
        "  GROUP BY e.xid, e.action, e.status, e.invoker, e.source, e.outputs"
        "), by_way AS ("
        "  SELECT action, status, invoker, source, outputs ->> 'strategy' AS strategy,"
        "   sum(n)::bigint AS n, min(first_at) AS first_at, max(last_at) AS last_at,"
        "   bool_or(n %% runs <> 0) AS shared, max(outputs ->> 'message') AS message"
        "  FROM batch GROUP BY 1, 2, 3, 4, 5"
        "), counted AS ("
        "  SELECT b.action, b.status, b.invoker, b.source, b.outputs ->> 'strategy' AS strategy,"
        "   c.kind, c.name, sum(c.rows * greatest(b.n / b.runs, 1))::bigint AS rows"
        "  FROM batch AS b, LATERAL ("
        "   SELECT 'deleted' AS kind, d.key AS name, d.value::bigint AS rows"
        "   FROM jsonb_each_text(coalesce(b.outputs -> 'deleted_counts', '{}')) AS d UNION ALL"
        "   SELECT 'adopted', a.key, a.value::bigint"
        "   FROM jsonb_each_text(coalesce(b.outputs -> 'adopted', '{}')) AS a) AS c"
        "  GROUP BY 1, 2, 3, 4, 5, 6, 7)"
        " SELECT w.*, k.deleted, k.adopted FROM by_way AS w LEFT JOIN LATERAL ("
        "  SELECT jsonb_object_agg(name, rows) FILTER (WHERE kind = 'deleted') AS deleted,"
        "   jsonb_object_agg(name, rows) FILTER (WHERE kind = 'adopted') AS adopted"
        "  FROM counted AS c WHERE (c.action, c.status, c.invoker, c.source)"
        "   = (w.action, w.status, w.invoker, w.source)"
        "   AND c.strategy IS NOT DISTINCT FROM w.strategy) AS k ON true"
        " ORDER BY w.action <> 'reset_completed', w.n DESC, w.first_at LIMIT %(most)s",
        {**subject.values, "most": most},
    )


def runs(conn: psycopg.Connection[Any], subject: Subject, most: int) -> list[dict[str, Any]]:
    """The first test runs of the request, or the one run."""
    return rows(
        conn,
        "SELECT test_run_id, status, owner, leased_at, expires_at, ended_at, deleted"
        f" FROM atdm.test_run WHERE {_RUNS_OF}"
        " AND (%(run)s::text IS NULL OR test_run_id = %(run)s)"
        " ORDER BY test_run_id LIMIT %(most)s",
        {**subject.values, "most": most},
    )


def run_state(conn: psycopg.Connection[Any], subject: Subject) -> dict[str, Any]:
    """The request's runs by status, and when the last of them ended (None: not yet)."""
    (found,) = rows(
        conn,
        "SELECT coalesce(jsonb_object_agg(s.status, s.n), '{}') AS counts,"
        " CASE WHEN coalesce(bool_or(s.status IN ('ready', 'leased')), false) THEN NULL"
        " ELSE max(s.ended_at) END AS ended_at"
        " FROM (SELECT status, count(*) AS n, max(ended_at) AS ended_at"
        f"  FROM atdm.test_run WHERE {_RUNS_OF}"
        "   AND (%(run)s::text IS NULL OR test_run_id = %(run)s) GROUP BY status) AS s",
        subject.values,
    )
    return found


def published(
    conn: psycopg.Connection[Any], domain: str, scenario_id: str, version: str
) -> dict[str, Any] | None:
    """The published scenario in the version of the request, or None."""
    found = rows(
        conn,
        "SELECT description, tags, linked_requirement_ids, defaults, violates, current,"
        " published_at FROM atdm.scenario"
        " WHERE domain = %s AND scenario_id = %s AND version = %s",
        (domain, scenario_id, version),
    )
    return found[0] if found else None


def domain_events(
    conn: psycopg.Connection[Any],
    domain: str,
    since: datetime,
    until: datetime | None,
    most: int,
) -> list[dict[str, Any]]:
    """Snapshots, restores and resets of the whole domain while the rows were there; newest first.

    ``until`` is when the last run ended. The event that ended it is written right after, in the
    same transaction, so the minute after belongs to it.
    """
    return rows(
        conn,
        f"{_EVENT} WHERE e.request_id IS NULL AND e.test_run_id IS NULL"
        " AND e.domain = %(domain)s AND e.action = ANY (%(actions)s) AND e.at >= %(since)s"
        " AND (%(until)s::timestamptz IS NULL"
        "  OR e.at <= %(until)s::timestamptz + interval '1 minute')"
        " ORDER BY e.event_id DESC LIMIT %(most)s",
        {
            "domain": domain,
            "actions": list(_OF_THE_DOMAIN),
            "since": since,
            "until": until,
            "most": most,
        },
    )


def queued_at(conn: psycopg.Connection[Any], request_id: str) -> dict[str, Any]:
    """The number of submissions that became this request, and the time of the first."""
    (found,) = rows(
        conn,
        "SELECT count(*) AS submissions, min(submitted_at) AS first_at FROM atdm.submission"
        " WHERE request_id = %s",
        (request_id,),
    )
    return found


def outcomes(
    conn: psycopg.Connection[Any], subject: Subject, most: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Outcomes of tests with these runs: failed ones first, then the latest; and counts of all.

    Empty where the catalog is older than the table of outcomes.
    """
    row = conn.execute("SELECT to_regclass('atdm.test_outcome') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return [], {}
    whose = f" FROM atdm.test_outcome WHERE {_RUNS_OF}" + (
        " AND test_run_id = %(run)s" if subject.test_run_id else ""
    )
    found = rows(
        conn,
        "SELECT nodeid, test_run_id, outcome, duration_seconds, at, requirement_ids"
        f"{whose} ORDER BY outcome NOT IN ('failed', 'error'), at DESC, outcome_id LIMIT %(most)s",
        {**subject.values, "most": most},
    )
    counts = rows(
        conn, f"SELECT outcome, count(*) AS n{whose} GROUP BY 1 ORDER BY 1", subject.values
    )
    return found, {row["outcome"]: row["n"] for row in counts}


def rows_in_target(
    conn: psycopg.Connection[Any],
    subject: Subject,
    domain: str,
    tables: Sequence[str],
    keys: int,
) -> dict[str, dict[str, Any]]:
    """By table: the number of the subject's rows in the target now, and the first ``keys`` keys.

    ``rows`` is None where the table is gone or may not be read. Counting ends at COUNTED_AT_MOST.
    """
    found: dict[str, dict[str, Any]] = {}
    known = {
        name: (schema, key)
        for name, schema, key in conn.execute(
            "SELECT t.table_name, t.schema_name, (SELECT array_agg(a.attname ORDER BY k.place)"
            "  FROM pg_constraint AS c"
            "  CROSS JOIN LATERAL unnest(c.conkey) WITH ORDINALITY AS k (number, place)"
            "  JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.number"
            "  WHERE c.conrelid = to_regclass(format('%%I.%%I', t.schema_name, t.table_name))"
            "  AND c.contype = 'p') AS key"
            " FROM atdm.domain_table AS t WHERE t.domain = %s AND t.table_name = ANY (%s)",
            (domain, list(tables)),
        )
    }
    for table in tables:
        found[table] = {"rows": None, "keys": []}
        if table not in known or not known[table][1]:
            continue
        schema, key = known[table]
        try:
            with conn.transaction():
                found[table] = _rows_of(conn, subject, sql.Identifier(schema, table), key, keys)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
            # The page says that the rows could not be counted.
            continue
    return found


def _rows_of(
    conn: psycopg.Connection[Any],
    subject: Subject,
    table: sql.Identifier,
    key: Sequence[str],
    most: int,
) -> dict[str, Any]:
    whose = sql.SQL("test_run_id = %(run)s" if subject.test_run_id else _RUNS_OF)
    count = sql.SQL(
        "SELECT count(*) FROM (SELECT FROM {} WHERE {} LIMIT %(most)s) AS counted"
    ).format(table, whose)
    row = conn.execute(count, {**subject.values, "most": COUNTED_AT_MOST}).fetchone()
    assert row is not None
    listed = sql.SQL("SELECT concat_ws(',', {}) FROM {} WHERE {} ORDER BY {} LIMIT %(most)s")
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in key)
    query = listed.format(columns, table, whose, columns)
    keys = conn.execute(query, {**subject.values, "most": most}).fetchall() if row[0] else []
    return {"rows": int(row[0]), "keys": [text for (text,) in keys]}


def seal_state(conn: psycopg.Connection[Any], subject: Subject) -> dict[str, Any]:
    """How much of the trail is sealed, and whether the part of the chain around it is intact.

    Keys: events, sealed (number of them), first_seal, last_seal, hash (of the last, hexadecimal),
    sealed_at; head (last number of the chain); verified: from_seal, to_seal, broken (number of the
    first broken seal, or None), or None where nothing is sealed.
    """
    (found,) = rows(
        conn,
        "SELECT count(*) AS events, count(s.seal_number) AS sealed,"
        " min(s.seal_number) AS first_seal, max(s.seal_number) AS last_seal,"
        " max(s.sealed_at) AS sealed_at,"
        " (SELECT coalesce(max(seal_number), 0) FROM atdm.audit_seal) AS head"
        f" FROM atdm.audit_event AS e LEFT JOIN atdm.audit_seal AS s USING (event_id){_OF_SUBJECT}",
        subject.values,
    )
    found["hash"] = found["verified"] = None
    if found["last_seal"] is not None:
        row = conn.execute(
            "SELECT encode(hash, 'hex') FROM atdm.audit_seal WHERE seal_number = %s",
            (found["last_seal"],),
        ).fetchone()
        found["hash"] = row[0] if row else None
        last = found["last_seal"]
        first = 1 if last <= VERIFIED_AT_MOST else max(found["first_seal"], last - VERIFIED_AT_MOST)
        found["verified"] = _verified(conn, first, last)
    return found


def _verified(conn: psycopg.Connection[Any], first: int, last: int) -> dict[str, Any]:
    """Verify the seals ``first`` to ``last``, starting with the hash before them."""
    row = conn.execute(
        "SELECT hash FROM atdm.audit_seal WHERE seal_number = %s", (first - 1,)
    ).fetchone()
    before = row[0] if row else GENESIS
    answer: dict[str, Any] = {"from_seal": first, "to_seal": last, "broken": None}
    number = first - 1
    for number, kept, present, canonical in conn.execute(
        "SELECT s.seal_number, s.hash, e.event_id IS NOT NULL, atdm.canonical_event(e)"
        " FROM atdm.audit_seal AS s LEFT JOIN atdm.audit_event AS e USING (event_id)"
        " WHERE s.seal_number BETWEEN %s AND %s ORDER BY s.seal_number",
        (first, last),
    ):
        if not present or chained(before, canonical) != kept:
            answer["broken"] = number
            return answer
        before = kept
    if number != last:
        answer["broken"] = number + 1
    return answer
