"""What the audit page reads: true of the database, bounded, and nearest hints for a wrong name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm.web.audit.facts import Facts, gather
from atdm.web.audit.page import page_of
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases, outcomes, reclaim, requests, seal
from atdm_resources.catalog import runs as reports
from atdm_resources.catalog import trail as trail_reading
from atdm_resources.catalog.baselines import add_baseline_event
from atdm_resources.catalog.events import Actor
from atdm_resources.catalog.rows import one_state
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import Settings
from tests.support.made_requests import Made, recorded, seeded

Target = psycopg.Connection[Any]


@pytest.fixture
def conn(target: str) -> Iterator[Target]:
    with connect(target) as connection:
        yield connection


def told(conn: Target, name: str) -> Facts:
    settings = Settings.from_environment({"ATDM_INVOKER": "human:auditor"})
    return gather(settings, conn, name)


def leased(conn: Target, made: Made, owner: str = "suite") -> leases.Lease:
    return leases.lease_request(conn, made.request_id, owner=owner, count=1)[0]


def sealed(conn: Target) -> None:
    """Seal everything; transactions of other tests on the server may have to end first."""
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    while seal.unsealed(conn) and datetime.now(UTC) < deadline:
        seal.seal(conn)
    assert seal.unsealed(conn) == 0


def test_the_life_of_one_run(conn: Target, registry: Registry, tmp_path: Path) -> None:
    made = seeded(
        conn, tmp_path, registry, "claim_denial_active_member", label="story", pooled=False
    )
    lease = leased(conn, made)
    run = lease["test_run_id"]
    member = lease["data"]["member_id"]
    conn.execute(
        "INSERT INTO healthcare.eligibility SELECT (jsonb_populate_record(e,"
        ' \'{"eligibility_id": "of-the-application", "test_run_id": null}\')).*'
        " FROM healthcare.eligibility AS e WHERE member_id = %s",
        (member,),
    )
    leases.record_fixtures(conn, run, lease["token"], {"pytest": "/f/x.py"})
    outcomes.record(
        conn,
        [
            {
                "test_run_id": run,
                "nodeid": f"t.py::{name}",
                "outcome": name,
                "duration_seconds": 0.5,
                "session": "s",
                "at": datetime.now(UTC),
            }
            for name in ("passed", "failed")
        ],
    )

    before = told(conn, run)
    assert before.run is not None
    assert before.run["status"] == "leased"
    assert {name: there["rows"] for name, there in before.in_target.items()} == dict.fromkeys(
        before.request["tables"], 1
    )
    assert before.in_target["member"]["keys"] == [member]
    assert before.seal["sealed"] == 0
    assert [row["outcome"] for row in before.outcomes] == ["failed", "passed"]
    assert before.outcome_counts == {"failed": 1, "passed": 1}

    with pytest.raises(AtdmError):
        leases.reset_run(conn, run, "wrong", invoker="human:eve", source="test")
    leases.reset_run(conn, run, lease["token"], invoker="human:bob", source="test")
    sealed(conn)
    after = told(conn, run)
    assert {there["rows"] for there in after.in_target.values()} == {0}
    done, refused = after.resets
    assert (done["invoker"], done["strategy"], done["n"]) == ("human:bob", "reset_run", 1)
    assert done["deleted"]["eligibility"] == 2
    assert {name: n for name, n in done["adopted"].items() if n} == {"eligibility": 1}
    assert not done["shared"]
    assert (refused["action"], refused["invoker"]) == ("reset_rejected", "human:eve")
    assert after.seal["sealed"] == after.seal["events"] == len(after.first)
    assert after.seal["verified"] == {
        "from_seal": 1,
        "to_seal": after.seal["last_seal"],
        "broken": None,
    }
    assert after.seal["hash"] == seal.verify(conn).head
    page = page_of(after)
    assert "the chain holds" in page
    assert "/f/x.py" in page
    assert told(conn, "story").run is None
    assert told(conn, made.request_id).subject == made.request_id


def test_a_changed_event_breaks_the_page_s_seal(
    conn: Target, registry: Registry, tmp_path: Path
) -> None:
    made = seeded(conn, tmp_path, registry)
    sealed(conn)
    conn.execute("ALTER TABLE atdm.audit_event DISABLE TRIGGER USER")
    conn.execute(
        "UPDATE atdm.audit_event SET invoker = 'human:nobody'"
        " WHERE request_id = %s AND action = 'plan_resolved'",
        (made.request_id,),
    )
    facts = told(conn, made.request_id)
    assert facts.seal["verified"]["broken"] == 2
    assert "BROKEN" in page_of(facts)


def test_only_the_part_around_a_late_request_is_computed_again(
    conn: Target, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = seeded(conn, tmp_path, registry)
    second = seeded(conn, tmp_path, registry)
    sealed(conn)
    monkeypatch.setattr(trail_reading, "VERIFIED_AT_MOST", 5)
    early = told(conn, first.request_id).seal["verified"]
    late = told(conn, second.request_id).seal["verified"]
    assert (early["from_seal"], early["broken"]) == (1, None)
    assert (late["from_seal"] > 1, late["broken"]) == (True, None)


def test_runs_taken_back_together_are_counted_once(
    conn: Target, registry: Registry, tmp_path: Path
) -> None:
    made = seeded(conn, tmp_path, registry, runs=4, pooled=False)
    other = seeded(conn, tmp_path, registry, runs=2, pooled=False)
    runs = [made.run(1), made.run(2), made.run(3)]
    reclaim.reclaim_runs(conn, runs, strategy="together", invoker="human:a", source="test")
    (reset,) = told(conn, made.request_id).resets
    assert (reset["n"], reset["deleted"]["member"], reset["shared"]) == (3, 3, False)
    (reset,) = told(conn, made.run(1)).resets
    assert (reset["n"], reset["shared"]) == (1, True)

    reclaim.reclaim_runs(
        conn, [made.run(4), other.run(1)], strategy="mixed", invoker="human:a", source="test"
    )
    mixed = {row["strategy"]: row for row in told(conn, made.request_id).resets}["mixed"]
    assert (mixed["n"], mixed["deleted"]["member"], mixed["shared"]) == (1, 2, True)
    facts = told(conn, other.request_id)
    assert facts.run_counts == {"cleaned": 1, "ready": 1}
    assert "together with runs of other requests" in page_of(facts)


def test_what_happened_to_the_domain_meanwhile_is_told(
    conn: Target, registry: Registry, tmp_path: Path
) -> None:
    add_baseline_event(
        conn, "snapshot_completed", "healthcare", "too-early", Actor("human:a", "cli")
    )
    made = seeded(conn, tmp_path, registry)
    add_baseline_event(
        conn, "snapshot_completed", "healthcare", "meanwhile", Actor("human:a", "cli")
    )
    add_baseline_event(conn, "snapshot_completed", "elsewhere", "another", Actor("human:a", "cli"))
    reclaim.reset_all(
        conn, "healthcare", reason="tidy", revoke_leases=True, invoker="human:a", source="cli"
    )
    facts = told(conn, made.run(1))
    assert [event["action"] for event in facts.domain_events] == [
        "reset_completed",
        "snapshot_completed",
    ]
    assert facts.run is not None
    assert facts.run["status"] == "cleaned"
    page = page_of(facts)
    assert "baseline meanwhile" in page
    assert "All test runs of the domain deleted" in page


def test_a_request_that_loaded_nothing(conn: Target, registry: Registry) -> None:
    spec, record = recorded(conn, registry, reason="<b>why</b>", label="never")
    pending = told(conn, "never")
    assert pending.request["status"] == "pending"
    assert set(pending.in_target) == set(spec.scenario.tables)
    requests.rollback_request(conn, record.request_id, message="no space", step="load")
    page = page_of(told(conn, "never"))
    assert "no space" in page
    assert "&lt;b&gt;why&lt;/b&gt;" in page
    assert "Nothing was loaded; the target holds no row of it." in page


def test_a_run_of_a_large_request_lists_its_own_keys(
    conn: Target, registry: Registry, tmp_path: Path
) -> None:
    made = seeded(conn, tmp_path, registry, runs=60)
    facts = told(conn, made.run(7))
    assert facts.in_target["member"] == {"rows": 1, "keys": [f"m-{made.run(7)}"]}
    whole = told(conn, made.request_id)
    assert whole.in_target["member"]["rows"] == 60
    assert len(whole.in_target["member"]["keys"]) == 24
    assert len(whole.runs) == 24
    assert f"m-{made.run(7)}" in page_of(facts)
    assert "and 40 more test runs" in page_of(whole)


def test_many_events_are_cut_in_the_middle(
    conn: Target, registry: Registry, tmp_path: Path
) -> None:
    made = seeded(conn, tmp_path, registry, runs=50, pooled=False)
    for lease in leases.lease_request(conn, made.request_id, owner="o"):
        leases.reset_run(conn, lease["test_run_id"], lease["token"])
    facts = told(conn, made.request_id)
    ids = [event["event_id"] for event in (*facts.first, *facts.last)]
    assert ids == sorted(set(ids))
    assert len(ids) == 80
    counts = {row["action"]: row["n"] for row in facts.totals}
    assert (counts["leased"], counts["reset_completed"]) == (50, 50)
    (reset,) = facts.resets
    assert (reset["n"], reset["deleted"]["member"], reset["shared"]) == (50, 50, False)
    assert len(page_of(facts).encode()) < 100_000


def test_tables_that_are_gone_are_not_counted(
    conn: Target, registry: Registry, tmp_path: Path
) -> None:
    made = seeded(conn, tmp_path, registry)
    conn.execute("DROP TABLE healthcare.claim CASCADE")
    facts = told(conn, made.request_id)
    assert facts.in_target["claim"]["rows"] is None
    assert facts.in_target["member"]["rows"] == 1
    assert "not counted" in page_of(facts)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (lambda made: "nightly-bild-47", "nightly-build-47"),
        (lambda made: made.run(1).lower(), 1),
        (lambda made: made.request_id[:20] + "0000ZZ", 0),
    ],
)
def test_a_wrong_name_is_told_the_nearest(
    conn: Target, registry: Registry, tmp_path: Path, written: Any, meant: str | int
) -> None:
    made = seeded(conn, tmp_path, registry, label="nightly-build-47", pooled=False)
    names = {0: made.request_id, 1: made.run(1)}
    with pytest.raises(AtdmError) as refused:
        reports.find(conn, written(made))
    assert refused.value.code is ErrorCode.RUN_NOT_FOUND
    assert refused.value.details["nearest"] == [names.get(meant, meant)]  # type: ignore[arg-type]


def test_reading_changes_nothing_and_holds_no_transaction(
    conn: Target, registry: Registry, tmp_path: Path
) -> None:
    made = seeded(conn, tmp_path, registry)
    told(conn, made.request_id)
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    with conn.transaction():
        one_state(conn)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), conn.transaction():
            conn.execute("DELETE FROM atdm.test_run")


def test_the_command_writes_the_page(
    conn: Target,
    target: str,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    from atdm.cli import audit
    from atdm.cli.output import Mode, Output

    monkeypatch.setenv("ATDM_DATABASE_URL", target)
    made = seeded(conn, tmp_path, registry, label="to-file")
    asked: dict[str, Any] = {"run": "to-file", "summary": False, "since": None}
    path = tmp_path / "audit.html"
    audit.audit(Output(mode=Mode.JSON), **asked, html=str(path))
    written = json.loads(capfdbinary.readouterr().out)
    assert written == {
        "subject": made.request_id,
        "path": str(path),
        "bytes": path.stat().st_size,
    }
    audit.audit(Output(), **asked, html="-")
    assert capfdbinary.readouterr().out.startswith(b"<!DOCTYPE html>\n<html")
    audit.audit(Output(mode=Mode.JSON), run=None, html=None, summary=True, since="1d")
    assert json.loads(capfdbinary.readouterr().out)["runs"]["made"] == 1


def test_who_may_only_lease_is_told_what_to_do(conn: Target) -> None:
    with conn.transaction():
        conn.execute("SET LOCAL ROLE atdm_client")
        with pytest.raises(AtdmError, match="connect as the owner of schema atdm") as refused:
            reports.find(conn, "x")
    assert refused.value.code is ErrorCode.TARGET_NOT_INITIALISED


def test_without_a_catalog_the_error_says_init(empty_database: str) -> None:
    with connect(empty_database) as conn, pytest.raises(AtdmError, match="atdm init") as refused:
        told(conn, "x")
    assert refused.value.code is ErrorCode.TARGET_NOT_INITIALISED
