"""Outcomes of tests that used test runs.

Light: psycopg and the standard library alone, because every test session records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.errors import guarded

MOST = 5_000
"""Outcomes that one statement records."""


def record(conn: psycopg.Connection[Any], outcomes: Sequence[Mapping[str, object]]) -> int:
    """Record outcomes of tests; returns the number of new ones.

    Required in each: ``test_run_id``, ``nodeid`` (1 to 2,000 characters), ``outcome`` (passed,
    failed, error or skipped), ``duration_seconds`` (0 to 10,000,000), ``session`` (1 to 200
    characters; one for all workers of a test session) and ``at`` (an aware datetime or ISO 8601
    text; without an offset it is UTC). This catalog does not know runs in clones: their
    outcomes have ``scenario`` (``<domain>/<name>``) and ``seed`` as well, and count for the version
    that is published here. A test that used two runs has two outcomes. A repeated outcome (same
    session, nodeid, test_run_id and at) is not new: a sender may try again.

    One statement for every 5,000, each a transaction of its own where ``conn`` is in autocommit
    mode.

    Raises:
        AtdmError: REQUEST_INVALID naming each wrong outcome by its place (from 0) in ``outcomes``,
            nothing of its statement is recorded; RUN_NOT_FOUND naming unknown runs (``details``:
            unknown, recorded), after all others were recorded;
            TARGET_NOT_INITIALISED.
    """
    recorded = 0
    unknown: list[str] = []
    for first in range(0, len(outcomes), MOST):
        answer = _recorded(conn, outcomes[first : first + MOST], first)
        recorded += answer["recorded"]
        unknown += answer["unknown"]
    if unknown:
        named = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if unknown[5:] else "")
        raise AtdmError(
            ErrorCode.RUN_NOT_FOUND,
            f"the catalog does not know {named}: their outcomes are not recorded, "
            f"{recorded} others are",
            {"unknown": unknown[:1000], "recorded": recorded},
        )
    return recorded


def _recorded(
    conn: psycopg.Connection[Any], outcomes: Sequence[Mapping[str, object]], first: int
) -> dict[str, Any]:
    try:
        text = json.dumps([_plain(outcome) for outcome in outcomes], allow_nan=False)
        row = guarded(
            lambda: conn.execute(
                "SELECT atdm.record_outcomes(%s)", (Jsonb(None, dumps=lambda _: text),)
            ).fetchone()
        )
    except (TypeError, ValueError, psycopg.DataError) as error:
        # Not JSON, or not accepted by PostgreSQL: NaN, NUL, half a surrogate pair.
        raise AtdmError(
            ErrorCode.REQUEST_INVALID, f"these outcomes cannot be recorded: {error}", {}
        ) from error
    except AtdmError as error:
        problems = error.details.get("problems")
        if not problems:
            raise
        # Places are relative to the statement.
        placed = [{**problem, "place": problem["place"] + first} for problem in problems]
        raise AtdmError(
            error.code,
            "; ".join(f"outcome {one['place']}: {one['problem']}" for one in placed),
            {**error.details, "problems": placed},
        ) from error
    assert row is not None
    answer: dict[str, Any] = row[0]
    return answer


def _plain(outcome: Mapping[str, object]) -> dict[str, object]:
    plain = dict(outcome)
    at = plain.get("at")
    if isinstance(at, datetime):
        aware = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        plain["at"] = aware.astimezone(UTC).isoformat()
    return plain
