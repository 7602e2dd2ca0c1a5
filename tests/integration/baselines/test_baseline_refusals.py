"""What a capture and a restore refuse, and that nothing has changed then."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services.baselines import diff, listing
from atdm_services.baselines.capture import capture
from atdm_services.baselines.manifest import Manifest, check_id, new_id
from atdm_services.baselines.restore import restore
from atdm_services.clones import templates
from tests.support.baseline_zoo import state
from tests.support.made_requests import seeded

ACTOR = Actor("human:tester", "test")
DOMAIN = "healthcare"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store" / "baselines" / DOMAIN / "one"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((tmp_path / "store").as_uri())


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def captured(
    conn: psycopg.Connection[Any], target: str, store: Store, tmp_path: Path, registry: Registry
) -> Manifest:
    """A baseline ``one`` of three runs; the target has two more since."""
    seeded(conn, tmp_path / "first", registry, runs=3)
    made = capture(target, store, DOMAIN, "one", actor=ACTOR)
    seeded(conn, tmp_path / "second", registry, runs=2)
    return made


def actions(conn: psycopg.Connection[Any]) -> list[str]:
    return [
        action
        for (action,) in conn.execute(
            "SELECT action FROM atdm.audit_event WHERE action ~ '^(snapshot|restore)'"
            " ORDER BY event_id"
        )
    ]


def part(folder: Path, table: str) -> Path:
    (found,) = (folder / table).glob("part-*.parquet")
    return found


def cut_off(folder: Path) -> None:
    path = part(folder, "claim")
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(folder: Path) -> None:
    path = part(folder, "member")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove_a_file(folder: Path) -> None:
    part(folder, "plan").unlink()


def break_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")


def edit_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["tables"][0]["rows"] += 1
    path.write_text(json.dumps(document), encoding="utf-8")


def raise_the_format(folder: Path) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["format_version"] = 99
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_off, "claim/part-"),
        (flip_a_bit, "the checksum does not match"),
        (remove_a_file, "the file is missing"),
        (break_the_manifest, "no JSON"),
        (edit_the_manifest, "its checksum does not match"),
        (raise_the_format, "format version 99"),
    ],
)
def test_a_damaged_baseline_is_named_and_nothing_is_touched(
    conn: psycopg.Connection[Any],
    target: str,
    store: Store,
    folder: Path,
    captured: Manifest,
    damage: Callable[[Path], None],
    said: str,
) -> None:
    before = state(conn, DOMAIN)
    damage(folder)
    with pytest.raises(AtdmError) as caught:
        restore(target, store, DOMAIN, "one", actor=ACTOR)
    assert caught.value.code is ErrorCode.BASELINE_INVALID
    assert said in caught.value.message
    assert state(conn, DOMAIN) == before
    assert actions(conn)[-2:] == ["restore_started", "restore_failed"]
    assert any(said in line for line in listing.verify(store, DOMAIN, "one"))
    (item,) = listing.baselines(store, DOMAIN)
    assert item.problem is not None or damage is flip_a_bit


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE {0}.claim ADD COLUMN extra text", "claim.extra: the baseline has no such"),
        (
            "ALTER TABLE {0}.plan DROP COLUMN effective_date",
            "plan.effective_date: the column is missing (date)",
        ),
        (
            "ALTER TABLE {0}.claim ALTER submitted_at TYPE timestamp",
            "claim.submitted_at: type is timestamp without time zone",
        ),
        ("DROP TABLE {0}.claim", "claim: the table is missing"),
        ("CREATE TABLE {0}.other (a integer)", "other: the baseline has no such table"),
    ],
)
def test_tables_that_differ_are_refused_column_by_column(
    conn: psycopg.Connection[Any],
    target: str,
    store: Store,
    captured: Manifest,
    change: str,
    said: str,
) -> None:
    conn.execute(change.format(DOMAIN).encode())
    before = state(conn, DOMAIN)
    with pytest.raises(AtdmError) as caught:
        restore(target, store, DOMAIN, "one", actor=ACTOR)
    assert caught.value.code is ErrorCode.TARGET_DRIFT
    assert said in caught.value.message
    assert state(conn, DOMAIN) == before


def test_an_id_that_exists_is_refused_also_when_two_start_at_once(
    conn: psycopg.Connection[Any], target: str, store: Store, folder: Path, captured: Manifest
) -> None:
    files = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(AtdmError) as caught:
        capture(target, store, DOMAIN, "one", actor=ACTOR)
    assert caught.value.code is ErrorCode.BASELINE_EXISTS
    assert sorted(path.name for path in folder.rglob("*")) == files

    def attempt(_: int) -> str:
        try:
            return capture(target, store, DOMAIN, "both", actor=ACTOR).content_hash
        except AtdmError as error:
            return str(error.code)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(attempt, range(4)))
    hashes = [result for result in results if len(result) == 32]
    assert len(hashes) == 1
    assert {r for r in results if len(r) != 32} <= {"BASELINE_EXISTS", "BUSY"}
    assert listing.verify(store, DOMAIN, "both") == []


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", ".hidden", "-x", "a" * 64, "a..b", "ü"])
def test_an_id_that_could_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(AtdmError) as caught:
        check_id(name)
    assert caught.value.code is ErrorCode.REQUEST_INVALID


def test_a_new_id_is_a_good_one() -> None:
    assert check_id(new_id()) != new_id()


def test_without_a_baseline_there_is_nothing_to_restore(
    conn: psycopg.Connection[Any], target: str, store: Store
) -> None:
    with pytest.raises(AtdmError) as caught:
        restore(target, store, DOMAIN, actor=ACTOR)
    assert caught.value.code is ErrorCode.NO_BASELINE
    with pytest.raises(AtdmError) as caught:
        restore(target, store, DOMAIN, "missing", actor=ACTOR)
    assert caught.value.code is ErrorCode.BASELINE_NOT_FOUND
    reasons = conn.execute(
        "SELECT outputs ->> 'reason' FROM atdm.audit_event WHERE action = 'restore_failed'"
        " ORDER BY event_id"
    ).fetchall()
    assert reasons[0] == ("no_baseline",)


def test_a_restore_waits_for_leases_to_be_given_back_or_revoked(
    conn: psycopg.Connection[Any], target: str, store: Store, captured: Manifest
) -> None:
    leases.lease(conn, None, "active_member_clean", owner="ci")
    before = state(conn, DOMAIN)
    with pytest.raises(AtdmError) as caught:
        restore(target, store, DOMAIN, "one", actor=ACTOR)
    assert caught.value.code is ErrorCode.BUSY
    assert caught.value.details["owners"] == [{"owner": "ci", "leases": 1}]
    assert state(conn, DOMAIN) == before
    done = restore(target, store, DOMAIN, "one", actor=ACTOR, revoke_leases=True)
    assert done.revoked == [{"owner": "ci", "leases": 1}]


def test_whoever_has_locked_a_table_is_named(
    conn: psycopg.Connection[Any], target: str, store: Store, captured: Manifest
) -> None:
    before = state(conn, DOMAIN)
    with connect(target, autocommit=False, application_name="the application") as other:
        other.execute(f"LOCK TABLE {DOMAIN}.claim IN ROW EXCLUSIVE MODE".encode())
        with pytest.raises(AtdmError) as caught:
            restore(target, store, DOMAIN, "one", actor=ACTOR, lock_timeout=timedelta(seconds=0.1))
    assert caught.value.code is ErrorCode.BUSY
    assert "the application of" in caught.value.message
    assert caught.value.details["blockers"][0]["table"] == f"{DOMAIN}.claim"
    assert state(conn, DOMAIN) == before
    leases.lease(conn, None, "active_member_clean")  # the domain is open again


def test_rows_outside_that_would_refer_to_nothing_are_named(
    conn: psycopg.Connection[Any], target: str, store: Store, captured: Manifest
) -> None:
    conn.execute(f"CREATE TABLE ticket (claim text REFERENCES {DOMAIN}.claim)".encode())
    conn.execute(f"INSERT INTO ticket SELECT max(claim_id) FROM {DOMAIN}.claim".encode())
    before = state(conn, DOMAIN)
    with pytest.raises(AtdmError) as caught:
        restore(target, store, DOMAIN, "one", actor=ACTOR)
    assert caught.value.code is ErrorCode.RESTORE_FAILED
    assert "public.ticket (ticket_claim_fkey)" in caught.value.message
    assert state(conn, DOMAIN) == before
    conn.execute("DELETE FROM ticket")
    done = restore(target, store, DOMAIN, "one", actor=ACTOR)
    assert done.outside_references == ["public.ticket (ticket_claim_fkey)"]


def test_a_database_without_its_mark_is_refused(
    conn: psycopg.Connection[Any], target: str, store: Store, captured: Manifest
) -> None:
    conn.execute("UPDATE atdm.target SET database_name = 'another'")
    with pytest.raises(AtdmError) as caught:
        restore(target, store, DOMAIN, "one", actor=ACTOR)
    assert caught.value.code is ErrorCode.TARGET_NOT_DISPOSABLE


def test_the_last_intact_baseline_stays(
    conn: psycopg.Connection[Any], target: str, store: Store, folder: Path, captured: Manifest
) -> None:
    def delete(name: str, *, confirm: bool = True) -> int:
        return listing.delete(conn, store, DOMAIN, name, confirm=confirm, actor=ACTOR)

    with pytest.raises(AtdmError) as caught:
        delete("one", confirm=False)
    assert caught.value.code is ErrorCode.CONFIRM_REQUIRED
    with pytest.raises(AtdmError) as caught:
        delete("one")
    assert caught.value.code is ErrorCode.REQUEST_CONFLICT
    capture(target, store, DOMAIN, "two", actor=ACTOR)
    cut_off(folder)
    with pytest.raises(AtdmError):
        delete("two")
    assert delete("one") > 1
    assert [item.baseline_id for item in listing.baselines(store, DOMAIN)] == ["two"]
    assert not folder.exists()


def test_differences_are_counted_by_table_and_column(
    conn: psycopg.Connection[Any], target: str, store: Store, captured: Manifest
) -> None:
    conn.execute(f"UPDATE {DOMAIN}.plan SET name = name || 'x' WHERE test_run_id IS NOT NULL"
                 .encode())  # fmt: skip
    conn.execute(f"DELETE FROM {DOMAIN}.claim WHERE claim_id = (SELECT min(claim_id)"
                 f" FROM {DOMAIN}.claim)".encode())  # fmt: skip
    found = {item.table: item for item in diff.compare(target, store, DOMAIN, "one")}
    assert (found["plan"].added, found["plan"].removed, found["plan"].changed) == (2, 0, 3)
    assert found["plan"].columns == {"name": 3}
    assert (found["claim"].added, found["claim"].removed, found["claim"].changed) == (2, 1, 0)
    assert len(found["claim"].samples["removed"][0]) == 1
    assert found["diagnosis_code"].same
    capture(target, store, DOMAIN, "two", actor=ACTOR)
    again = {item.table: item for item in diff.compare(target, store, DOMAIN, "one", "two")}
    assert {name: item.as_json() for name, item in again.items()} == {
        name: item.as_json() for name, item in found.items()
    }
    back = {item.table: item for item in diff.compare(target, store, DOMAIN, "two", "one")}
    assert (back["claim"].added, back["claim"].removed) == (1, 2)


def test_the_state_after_two_restores_is_that_of_one(
    conn: psycopg.Connection[Any],
    target: str,
    store: Store,
    registry: Registry,
    captured: Manifest,
) -> None:
    before = state(conn, DOMAIN)
    hashes = templates.hashes_of_two_restores(target, store, registry, DOMAIN, "one", actor=ACTOR)
    assert hashes == [captured.content_hash] * 2
    assert state(conn, DOMAIN) == before
