"""Snapshot, change everything, restore: what comes back is what was there, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm.client.sync import AtdmClient, AtdmClientError
from atdm_engine.bundle.registry import Registry
from atdm_resources.catalog import leases
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import Settings
from atdm_resources.store.files import Store
from atdm_services.baselines.capture import capture
from atdm_services.baselines.listing import baselines, verify
from atdm_services.baselines.restore import restore
from atdm_services.target.init import initialise
from tests.support.baseline_zoo import make_zoo, state
from tests.support.made_requests import seeded

ACTOR = Actor("human:tester", "test", "round trip")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((tmp_path / "store").as_uri())


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


def test_every_type_and_dependency_comes_back_to_the_bit(
    conn: psycopg.Connection[Any], target: str, store: Store
) -> None:
    make_zoo(conn)
    before = state(conn)
    manifest = capture(target, store, "zoo", "first", actor=ACTOR)
    assert verify(store, "zoo", "first") == []
    assert {table.name: table.rows for table in manifest.tables}["no_columns"] == 3
    for table in ("egg", "hen", "everything", "measure", "note", "booking", "cat", "no_columns"):
        conn.execute(f"TRUNCATE zoo.{table} CASCADE".encode())
    conn.execute("ALTER TABLE zoo.node DISABLE TRIGGER no_truncate")
    conn.execute("DELETE FROM zoo.node WHERE id > 10")
    conn.execute("INSERT INTO zoo.node (parent, label) VALUES (1, 'another')")
    conn.execute("ALTER TABLE zoo.node ENABLE TRIGGER no_truncate")
    conn.execute("SELECT setval('zoo.lonely', 5), setval('zoo.untouched', 77)")
    conn.execute("UPDATE zoo.only_null SET a = 'y'")
    conn.execute("INSERT INTO zoo.empty VALUES (1, 'x')")
    assert state(conn) != before
    result = restore(target, store, "zoo", actor=ACTOR)
    after = state(conn)
    for part, value in before.items():
        assert after[part] == value, part
    assert after == before
    assert result.content_hash == manifest.content_hash
    assert result.outside_references == ["elsewhere.visitor (visits)"]
    again = capture(target, store, "zoo", "second", actor=ACTOR)
    assert again.content_hash == manifest.content_hash
    assert again.definitions == manifest.definitions
    assert [item.baseline_id for item in baselines(store, "zoo")] == ["second", "first"]


def test_restoring_twice_is_restoring_once(
    conn: psycopg.Connection[Any], target: str, store: Store
) -> None:
    make_zoo(conn)
    capture(target, store, "zoo", "first", actor=ACTOR)
    restore(target, store, "zoo", "first", actor=ACTOR)
    once = state(conn)
    restore(target, store, "zoo", "first", actor=ACTOR)
    assert state(conn) == once


def test_runs_and_requests_come_back_with_their_rows(
    conn: psycopg.Connection[Any], target: str, store: Store, tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, runs=5)
    lease = leases.lease(conn, None, "active_member_clean", owner="ci")
    before = state(conn, "healthcare")
    manifest = capture(target, store, "healthcare", actor=ACTOR)
    assert manifest.runs.counts == {"leased": 1, "ready": 4}
    later = seeded(conn, tmp_path, registry, runs=3)
    leases.reset_run(conn, lease["test_run_id"], lease["token"])
    leases.lease(conn, None, "active_member_clean", owner="somebody")
    result = restore(target, store, "healthcare", actor=ACTOR, revoke_leases=True)
    assert state(conn, "healthcare") == before
    assert result.runs.ready == 5
    assert result.revoked == [{"owner": "somebody", "leases": 1}]
    statuses = dict(
        conn.execute(
            "SELECT request_id, array_agg(DISTINCT status) FROM atdm.test_run GROUP BY 1"
        ).fetchall()
    )
    assert statuses[made.request_id] == ["ready"]
    assert set(statuses[later.request_id]) <= {"cleaned", "expired"}
    tokens = conn.execute(
        "SELECT count(*) FROM atdm.test_run WHERE status = 'ready'"
        " AND (token_sha256 IS NOT NULL OR owner IS NOT NULL OR expires_at IS NOT NULL)"
    ).fetchone()
    assert tokens == (0,)
    again = leases.lease(conn, None, "active_member_clean")
    assert leases.reset_run(conn, again["test_run_id"], again["token"])["status"] == "cleaned"


def test_the_client_captures_lists_and_restores(
    conn: psycopg.Connection[Any], target: str, tmp_path: Path, registry: Registry
) -> None:
    seeded(conn, tmp_path / "made", registry)
    settings = Settings.from_environment(
        {"ATDM_HOME": str(tmp_path / "home"), "ATDM_DATABASE_URL": target}
    )
    with AtdmClient(settings=settings) as client:
        before = state(conn, "healthcare")
        made = client.baseline_snapshot("mine", reason="so")
        conn.execute("DELETE FROM healthcare.claim")
        assert client.baseline_restore()["content_hash"] == made["content_hash"]
        assert state(conn, "healthcare") == before
        assert [item["baseline_id"] for item in client.baseline_list()] == ["mine"]
        with pytest.raises(AtdmClientError) as caught:
            client.baseline_snapshot("mine")
        assert caught.value.code == "BASELINE_EXISTS"
        with pytest.raises(AtdmClientError) as caught:
            client.baseline_list(domain="healthcaer")
        assert "did you mean healthcare?" in caught.value.message


def test_a_baseline_of_another_target_brings_its_runs_and_requests_along(
    conn: psycopg.Connection[Any],
    target: str,
    empty_database: str,
    store: Store,
    tmp_path: Path,
    registry: Registry,
) -> None:
    made = seeded(conn, tmp_path / "made", registry, runs=3, label="named")
    capture(target, store, "healthcare", "one", actor=ACTOR)
    with connect(empty_database) as other:
        initialise(other, registry)
        seeded(other, tmp_path / "own", registry, label="named")
        restore(empty_database, store, "healthcare", actor=ACTOR)
        lease = leases.lease(other, None, "active_member_clean")
        assert lease["request_id"] == made.request_id
        labels = other.execute(
            "SELECT label FROM atdm.request WHERE request_id = %s", (made.request_id,)
        ).fetchone()
        assert labels == (made.request_id,)  # the other request keeps its label
        number = other.execute(
            "SELECT next_number FROM atdm.domain WHERE domain = 'healthcare'"
        ).fetchone()
        taken = conn.execute(
            "SELECT next_number FROM atdm.domain WHERE domain = 'healthcare'"
        ).fetchone()
        assert number is not None
        assert taken is not None
        assert number[0] >= taken[0]
        seeded(other, tmp_path / "later", registry, runs=5)
