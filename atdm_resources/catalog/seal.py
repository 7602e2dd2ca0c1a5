"""The sealed audit trail: a hash chain over events, and its verification.

An event is sealed after every transaction that could write an earlier one has ended, in the order
of (transaction, event). Each hash is sha256 over the hash before it and the event's canonical text.
The chain is computed here and not in the database, so that a changed database function cannot make
a
changed event fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

GENESIS = bytes(32)
"""The hash before that of the first event."""

BATCH = 5_000
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('atdm.seal', 0))"

_SEALABLE = """
SELECT e.event_id, e.xid::text, atdm.canonical_event(e) FROM atdm.audit_event AS e
WHERE (e.xid, e.event_id) > (%s::xid8, %s)
  AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY e.xid, e.event_id LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a verification. ``broken`` describes the first wrong event, or is None.

    ``sealed`` counts the verified events; ``unsealed`` those after the end of the chain.
    ``head`` is the last hash in hexadecimal.
    """

    sealed: int
    unsealed: int
    head: str
    broken: dict[str, Any] | None = None

    @property
    def intact(self) -> bool:
        return self.broken is None


def chained(before: bytes, canonical: str) -> bytes:
    """The hash of an event whose predecessor's hash is ``before``."""
    return hashlib.sha256(before + canonical.encode()).digest()


def seal(
    conn: psycopg.Connection[Any],
    most: int = 100_000,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Seal at most ``most`` events; returns how many. 0 also while another process seals.

    ``conn`` must be in autocommit mode. One transaction for every 5,000 events.
    """
    total = 0
    while total < most:
        with conn.transaction():
            free = conn.execute(_LOCK.encode()).fetchone()
            if free is None or not free[0]:
                return total
            sealed = _seal_batch(conn, min(BATCH, most - total))
        total += sealed
        if progress is not None:
            progress(total)
        if sealed < BATCH:
            break
    return total


def _seal_batch(conn: psycopg.Connection[Any], most: int) -> int:
    last = conn.execute(
        "SELECT seal_number, xid::text, event_id, hash FROM atdm.audit_seal"
        " ORDER BY seal_number DESC LIMIT 1"
    ).fetchone()
    number, xid, event_id, before = last or (0, "0", 0, GENESIS)
    events = conn.execute(_SEALABLE.encode(), (xid, event_id, most)).fetchall()
    if not events:
        return 0
    with conn.cursor().copy(
        "COPY atdm.audit_seal (seal_number, event_id, xid, hash) FROM STDIN"
    ) as copy:
        for place, (sealed_id, sealed_xid, canonical) in enumerate(events, start=number + 1):
            before = chained(before, canonical)
            copy.write_row((place, sealed_id, sealed_xid, before))
    return len(events)


def unsealed(conn: psycopg.Connection[Any]) -> int:
    """How many events are not sealed yet."""
    row = conn.execute(
        "SELECT count(*) FROM atdm.audit_event AS e, ("
        " SELECT coalesce(max(s.seal_number), 0) AS n FROM atdm.audit_seal AS s) AS h"
        " LEFT JOIN atdm.audit_seal AS l ON l.seal_number = h.n"
        " WHERE (e.xid, e.event_id) > (coalesce(l.xid, '0'::xid8), coalesce(l.event_id, 0))"
    ).fetchone()
    assert row is not None
    return int(row[0])


def seals_between(
    conn: psycopg.Connection[Any], first: int, last: int
) -> dict[int, tuple[int, bytes]]:
    """Event id and hash of the seals ``first`` to ``last`` by number, and of seal 0."""
    rows = conn.execute(
        "SELECT seal_number, event_id, hash FROM atdm.audit_seal"
        " WHERE seal_number BETWEEN %s AND %s",
        (first, last),
    ).fetchall()
    return {0: (0, GENESIS), **{number: (event, kept) for number, event, kept in rows}}


def verify(conn: psycopg.Connection[Any], progress: Callable[[int], None] | None = None) -> Verdict:
    """Compute the chain again; reports the first event that was changed, removed or inserted.

    Reads one consistent state, in batches.
    """
    before, checked, edge = GENESIS, 0, ("0", 0)
    broken: dict[str, Any] | None = None
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for number, event_id, xid, kept, present, canonical in _sealed(conn):
            if number != checked + 1:
                broken = _broken(checked + 1, None, "its seal is missing")
            elif not present:
                broken = _broken(number, event_id, "the event was removed")
            elif chained(before, canonical) != kept:
                broken = _broken(number, event_id, "the event or its seal was changed")
            if broken is not None:
                break
            before, checked, edge = kept, number, (xid, event_id)
            if progress is not None and checked % BATCH == 0:
                progress(checked)
        if broken is None:
            slipped = conn.execute(
                "SELECT e.event_id FROM atdm.audit_event AS e"
                " WHERE (e.xid, e.event_id) <= (%s::xid8, %s) AND NOT EXISTS ("
                " SELECT FROM atdm.audit_seal AS s WHERE s.event_id = e.event_id)"
                " ORDER BY e.xid, e.event_id LIMIT 1",
                edge,
            ).fetchone()
            if slipped is not None:
                broken = _broken(None, slipped[0], "the event was inserted after its time")
        waiting = unsealed(conn)
    return Verdict(checked, waiting, before.hex(), broken)


def _sealed(
    conn: psycopg.Connection[Any],
) -> Iterator[tuple[int, int, str, bytes, bool, str]]:
    """Every seal with its event, in the order of the chain."""
    with conn.cursor(name="atdm_verify") as cursor:
        cursor.itersize = BATCH
        cursor.execute(
            "SELECT s.seal_number, s.event_id, s.xid::text, s.hash, e.event_id IS NOT NULL,"
            " atdm.canonical_event(e) FROM atdm.audit_seal AS s"
            " LEFT JOIN atdm.audit_event AS e USING (event_id) ORDER BY s.seal_number"
        )
        yield from cursor


def _broken(number: int | None, event_id: int | None, what: str) -> dict[str, Any]:
    return {"seal_number": number, "event_id": event_id, "problem": what}
