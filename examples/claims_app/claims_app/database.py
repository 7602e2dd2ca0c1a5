"""What the application reads and writes.

Members, providers and claims are tables it shares with others; notes, appeals and their history are
its own (schema ``claims_app``).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg.rows import DictRow, dict_row


def database_url() -> str:
    """Where its tables are: CLAIMS_APP_DATABASE_URL."""
    return os.environ["CLAIMS_APP_DATABASE_URL"]


@contextmanager
def connected() -> Iterator[psycopg.Connection[DictRow]]:
    """A connection whose work is one transaction."""
    with psycopg.connect(database_url(), row_factory=dict_row) as connection:
        yield connection


def member(connection: psycopg.Connection[DictRow], member_id: str) -> DictRow | None:
    """A member with plan and latest window of coverage; None when there is none of that id."""
    return _one(
        connection,
        "SELECT m.member_id, m.first_name, m.last_name, m.date_of_birth, m.status,"
        " p.name AS plan, p.coverage_type, e.status AS eligibility, e.effective_to"
        " FROM healthcare.member AS m JOIN healthcare.plan AS p USING (plan_id)"
        " LEFT JOIN LATERAL (SELECT status, effective_to FROM healthcare.eligibility"
        "  WHERE member_id = m.member_id ORDER BY effective_to DESC LIMIT 1) AS e ON true"
        " WHERE m.member_id = %s",
        member_id,
    )


def claims_of(connection: psycopg.Connection[DictRow], member_id: str) -> list[DictRow]:
    """A member's claims, the latest first."""
    return _all(connection, f"{_CLAIM} WHERE c.member_id = %s {_LATEST_FIRST}", member_id)


def claim(connection: psycopg.Connection[DictRow], claim_id: str) -> DictRow | None:
    """A claim; None when there is none of that id."""
    return _one(connection, f"{_CLAIM} WHERE c.claim_id = %s", claim_id)


def worklist(connection: psycopg.Connection[DictRow], status: str) -> list[DictRow]:
    """Everybody's claims of a status: what no test can expect the length of."""
    return _all(connection, f"{_CLAIM} WHERE c.status = %s {_LATEST_FIRST} LIMIT 200", status)


def submit_claim(
    connection: psycopg.Connection[DictRow], member_id: str, provider_id: str, procedure_code: str
) -> str:
    """A new claim, pending; its id."""
    claim_id = f"desk-{uuid.uuid4()}"
    connection.execute(
        "INSERT INTO healthcare.claim (claim_id, member_id, provider_id, procedure_code,"
        " diagnosis_code, status, submitted_at)"
        " VALUES (%s, %s, %s, %s, 'Z00.00', 'pending', now())",
        (claim_id, member_id, provider_id, procedure_code),
    )
    return claim_id


def notes(connection: psycopg.Connection[DictRow], claim_id: str) -> list[DictRow]:
    """The notes on a claim, the oldest first."""
    return _all(
        connection,
        "SELECT body, written_at FROM claims_app.claim_note WHERE claim_id = %s ORDER BY note_id",
        claim_id,
    )


def add_note(connection: psycopg.Connection[DictRow], claim_id: str, body: str) -> None:
    """A note on a claim."""
    connection.execute(
        "INSERT INTO claims_app.claim_note (claim_id, body) VALUES (%s, %s)", (claim_id, body)
    )


def appeals(connection: psycopg.Connection[DictRow], claim_id: str) -> list[DictRow]:
    """The appeals against a claim's denial, with their last step."""
    return _all(
        connection,
        "SELECT a.appeal_id, a.reason, (SELECT s.step FROM claims_app.appeal_step AS s"
        "  WHERE s.appeal_id = a.appeal_id ORDER BY s.appeal_step_id DESC LIMIT 1) AS step"
        " FROM claims_app.claim_appeal AS a WHERE a.claim_id = %s ORDER BY a.appeal_id",
        claim_id,
    )


def file_appeal(connection: psycopg.Connection[DictRow], claim: DictRow, reason: str) -> None:
    """An appeal, received."""
    row = connection.execute(
        "INSERT INTO claims_app.claim_appeal (claim_id, member_id, reason) VALUES (%s, %s, %s)"
        " RETURNING appeal_id",
        (claim["claim_id"], claim["member_id"], reason),
    ).fetchone()
    assert row is not None
    connection.execute(
        "INSERT INTO claims_app.appeal_step (appeal_id, step) VALUES (%s, 'received')",
        (row["appeal_id"],),
    )


def choices(connection: psycopg.Connection[DictRow]) -> list[DictRow]:
    """The procedures that a claim may be submitted for."""
    return _all(
        connection,
        "SELECT code, description FROM healthcare.procedure_code WHERE is_valid ORDER BY code",
    )


_CLAIM = (
    "SELECT c.claim_id, c.member_id, c.provider_id, p.name AS provider, p.network_status,"
    " c.procedure_code, c.status, c.denial_reason, c.submitted_at"
    " FROM healthcare.claim AS c JOIN healthcare.provider AS p USING (provider_id)"
)
_LATEST_FIRST = "ORDER BY c.submitted_at DESC, c.claim_id"


def _all(
    connection: psycopg.Connection[DictRow], query: LiteralString, *values: Any
) -> list[DictRow]:
    return connection.execute(query, values).fetchall()


def _one(
    connection: psycopg.Connection[DictRow], query: LiteralString, *values: Any
) -> DictRow | None:
    return connection.execute(query, values).fetchone()
