"""The sealed trail: nothing is lost to a slow transaction, nothing can be changed unnoticed."""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest

from atdm_resources.catalog import outside_events, seal
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services.audit import export
from tests.support.waiting import until


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


def write(conn: psycopg.Connection[Any], action: str, count: int = 1) -> None:
    conn.execute(
        "INSERT INTO atdm.audit_event (action, domain, invoker, source, inputs)"
        " SELECT %s, 'healthcare', 'agent:test', 'test', jsonb_build_object('n', n)"
        " FROM generate_series(1, %s) AS n",
        (action, count),
    )


def sealed_actions(conn: psycopg.Connection[Any]) -> list[str]:
    rows = conn.execute(
        "SELECT e.action FROM atdm.audit_seal AS s JOIN atdm.audit_event AS e USING (event_id)"
        " ORDER BY s.seal_number"
    )
    return [action for (action,) in rows]


def seal_all(conn: psycopg.Connection[Any]) -> None:
    """Other tests' transactions on the same server hold the horizon back for moments."""

    def sealed() -> bool:
        seal.seal(conn)
        return seal.unsealed(conn) == 0

    until(sealed)


def test_events_are_chained_and_the_chain_holds(conn: psycopg.Connection[Any]) -> None:
    before = seal.verify(conn).sealed
    write(conn, "a", 7000)
    seal_all(conn)
    verdict = seal.verify(conn)
    assert verdict.intact
    assert (verdict.sealed, verdict.unsealed) == (before + 7000, 0)
    assert len(bytes.fromhex(verdict.head)) == 32
    assert seal.seal(conn) == 0


def test_the_event_of_a_slow_transaction_is_sealed_after_it_ends(
    conn: psycopg.Connection[Any], target: str
) -> None:
    seal_all(conn)
    before = len(sealed_actions(conn))
    with connect(target, autocommit=False) as slow:
        write(slow, "slow")
        write(conn, "quick")
        seal.seal(conn)
        # The quick one has the later id; sealing it now would put the slow one before it.
        assert sealed_actions(conn)[before:] == []
        slow.commit()
    seal_all(conn)
    assert sealed_actions(conn)[before:] == ["slow", "quick"]
    assert seal.verify(conn).intact


def test_two_sealers_at_once_make_one_chain(conn: psycopg.Connection[Any], target: str) -> None:
    write(conn, "many", 30_000)

    def work() -> None:
        with connect(target) as own:
            for _ in range(20):
                seal.seal(own)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seal_all(conn)
    verdict = seal.verify(conn)
    assert verdict.intact
    assert verdict.sealed >= 30_000


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE atdm.audit_event SET invoker = 'human:x' WHERE event_id = %s", "changed"),
        ("UPDATE atdm.audit_event SET inputs = '{}' WHERE event_id = %s", "changed"),
        ("DELETE FROM atdm.audit_event WHERE event_id = %s", "removed"),
        ("UPDATE atdm.audit_seal SET hash = sha256('x') WHERE event_id = %s", "changed"),
        ("DELETE FROM atdm.audit_seal WHERE event_id = %s", "seal is missing"),
    ],
)
def test_what_a_superuser_changes_is_found_and_named(
    conn: psycopg.Connection[Any], change: str, problem: str
) -> None:
    write(conn, "b", 20)
    seal_all(conn)
    row = conn.execute(
        "SELECT event_id, seal_number FROM atdm.audit_seal ORDER BY seal_number DESC OFFSET 9"
    ).fetchone()
    assert row is not None
    for table in ("audit_event", "audit_seal"):
        conn.execute(f"ALTER TABLE atdm.{table} DISABLE TRIGGER USER".encode())
    conn.execute(change.encode(), (row[0],))
    broken = seal.verify(conn).broken
    assert broken is not None
    assert broken["seal_number"] == row[1]
    assert problem in broken["problem"]
    if "missing" not in problem:
        assert broken["event_id"] == row[0]


def test_an_event_that_is_slipped_in_later_is_found(conn: psycopg.Connection[Any]) -> None:
    write(conn, "c", 3)
    write(conn, "c", 3)
    seal_all(conn)
    conn.execute(
        "INSERT INTO atdm.audit_event (xid, action, invoker, source)"
        " SELECT min(xid), 'forged', 'human:x', 'x' FROM atdm.audit_seal"
    )
    broken = seal.verify(conn).broken
    assert broken is not None
    assert "inserted after its time" in broken["problem"]


def test_seals_cannot_be_changed_without_disabling_triggers(conn: psycopg.Connection[Any]) -> None:
    write(conn, "d")
    seal_all(conn)
    for statement in ("UPDATE atdm.audit_seal SET event_id = 0", "TRUNCATE atdm.audit_seal"):
        with pytest.raises(psycopg.errors.RestrictViolation):
            conn.execute(statement.encode())


def test_a_day_is_exported_once_and_can_be_verified_from_its_files(
    conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    store = Store(tmp_path.as_uri())
    write(conn, "e", 50)
    seal_all(conn)
    today = datetime.now(UTC).date()
    assert export.export(conn, store, before=today) == []
    paths = export.export(conn, store)
    assert len(paths) in (1, 2)  # the events may lie on both sides of midnight
    assert all(path.startswith("audit/dt=") for path in paths)
    assert export.export(conn, store) == []
    rows = [row for path in paths for row in pq.read_table(tmp_path / path).to_pylist()]
    assert len(rows) == seal.verify(conn).sealed
    before = seal.GENESIS
    for row in sorted(rows, key=lambda row: row["seal_number"]):
        before = hashlib.sha256(before + row["canonical"].encode()).digest()
        assert before.hex() == row["hash"]
    assert rows[-1]["action"] == "e"


def test_an_export_that_was_cut_off_writes_the_same_files_again(
    conn: psycopg.Connection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path.as_uri())
    write(conn, "f", 5)
    seal_all(conn)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export, "_write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            export.export(conn, store)
    write(conn, "g", 5)
    seal_all(conn)
    paths = export.export(conn, store)
    rows = [row for path in paths for row in pq.read_table(tmp_path / path).to_pylist()]
    numbers = sorted(row["seal_number"] for row in rows)
    assert numbers == list(range(1, seal.verify(conn).sealed + 1))


def test_gathered_events_leave_out_what_runs_record_and_end_at_many_subjects(
    conn: psycopg.Connection[Any],
) -> None:
    seal_all(conn)
    start = len(sealed_actions(conn))
    write(conn, "seed_started", 3)
    write(conn, "reset_completed", 2)
    seal_all(conn)
    gathered, last = outside_events.gather(conn, start, events=100, subjects=10)
    assert [(one.domain, one.counts) for one in gathered] == [
        ("healthcare", {"reset_completed": 2})
    ]
    assert last == start + 5
    none, stopped = outside_events.gather(conn, start, events=100, subjects=0)
    assert (none, stopped) == ([], start + 3)
