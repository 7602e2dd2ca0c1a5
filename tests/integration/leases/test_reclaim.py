"""Expiry, drains and operators' resets: whatever takes runs back without a token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases as leasing
from atdm_resources.catalog import reclaim, residue, retirement
from atdm_resources.catalog import runs as reports
from atdm_resources.catalog.trail import all_events
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from tests.support.made_requests import Made, rows_left, seeded

WHO = {"invoker": "agent:test", "source": "test"}


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def made(conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry) -> Made:
    return seeded(conn, tmp_path, registry, runs=4)


def overdue(conn: psycopg.Connection[Any], run: str) -> None:
    conn.execute(
        "UPDATE atdm.test_run SET expires_at = now() - interval '1 minute' WHERE test_run_id = %s",
        (run,),
    )


def status(conn: psycopg.Connection[Any], run: str) -> str:
    found = reports.run(conn, run)
    assert found is not None
    return str(found["status"])


def application_claim(conn: psycopg.Connection[Any], run: str, key: str) -> None:
    """A claim that the application hangs on the run's member; it bears no run's id."""
    conn.execute(
        "INSERT INTO healthcare.claim SELECT %s, member_id, provider_id, procedure_code,"
        " diagnosis_code, status, submitted_at, denial_reason, NULL FROM healthcare.claim"
        " WHERE test_run_id = %s",
        (key, run),
    )


def test_an_overdue_lease_goes_with_the_rows_of_the_application(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    first, second, *_ = leasing.lease_request(conn, made.request_id, owner="ci")
    application_claim(conn, first["test_run_id"], "app-1")
    overdue(conn, first["test_run_id"])
    done = reclaim.expire_due(conn, **WHO)
    assert done.runs == [first["test_run_id"]]
    assert done.deleted["healthcare"]["claim"] == 2
    assert done.adopted == {"healthcare": {"claim": 1}}
    assert set(rows_left(conn, first["test_run_id"]).values()) == {0}
    assert sum(rows_left(conn, second["test_run_id"]).values()) == 5
    assert (status(conn, first["test_run_id"]), status(conn, second["test_run_id"])) == (
        "expired",
        "leased",
    )
    actions = [
        event["action"]
        for event in all_events(conn, made.request_id, first["test_run_id"])
        if event["test_run_id"]
    ]
    assert actions == ["leased", "reset_started", "reset_completed", "lease_expired"]
    assert residue.residue_of_domain(conn, "healthcare").rows == 0
    assert reclaim.expire_due(conn, **WHO).runs == []


def test_a_token_of_an_expired_run_finds_it_cleaned(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    lease = leasing.lease_request(conn, made.request_id, count=1)[0]
    overdue(conn, lease["test_run_id"])
    reclaim.expire_due(conn, **WHO)
    again = leasing.reset_run(conn, lease["test_run_id"], lease["token"])
    assert again["status"] == "already_cleaned"


def test_a_lease_takes_back_what_is_overdue_and_says_nothing_of_it(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    old = leasing.lease(conn, None, "active_member_clean", owner="gone")
    overdue(conn, old["test_run_id"])
    new = leasing.lease(conn, None, "active_member_clean", owner="here")
    assert "overdue" not in new
    assert status(conn, old["test_run_id"]) == "expired"
    assert status(conn, new["test_run_id"]) == "leased"
    assert sum(rows_left(conn, old["test_run_id"]).values()) == 0


def test_a_sweep_that_fails_does_not_cost_the_lease(
    conn: psycopg.Connection[Any], made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    old = leasing.lease(conn, None, "active_member_clean")
    overdue(conn, old["test_run_id"])
    conn.execute("ALTER FUNCTION atdm.expire_due RENAME TO expire_due_gone")
    new = leasing.lease(conn, None, "active_member_clean")
    assert new["token"]
    assert "expire_due" in caplog.text


def test_inside_a_transaction_of_the_callers_a_lease_leaves_the_sweep_to_others(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    old = leasing.lease(conn, None, "active_member_clean")
    overdue(conn, old["test_run_id"])
    with conn.transaction():
        leasing.lease(conn, None, "active_member_clean")
        assert status(conn, old["test_run_id"]) == "leased"


def test_a_client_role_may_reset_expired_leases_and_nothing_else(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    one, two, *_ = leasing.lease_request(conn, made.request_id)
    overdue(conn, one["test_run_id"])
    conn.execute("SET ROLE atdm_client")
    row = conn.execute("SELECT atdm.expire_due(10)").fetchone()
    assert row is not None
    assert row[0]["runs"] == [one["test_run_id"]]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(
            "SELECT atdm.reclaim(ARRAY[%s], 's', 'cleaned', 'a', 'b')", (two["test_run_id"],)
        )
    conn.execute("RESET ROLE")
    assert status(conn, two["test_run_id"]) == "leased"


def test_one_run_that_cannot_go_does_not_keep_the_others_and_is_left_alone_for_a_while(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    leases = leasing.lease_request(conn, made.request_id)
    runs = [lease["test_run_id"] for lease in leases]
    # A row of the second run refers to the member of the first, which therefore cannot go alone.
    conn.execute(
        "UPDATE healthcare.claim SET member_id = %s WHERE test_run_id = %s",
        (leases[0]["data"]["member_id"], runs[1]),
    )
    for run in (runs[0], runs[2]):
        overdue(conn, run)
    done = reclaim.expire_due(conn, **WHO)
    assert done.runs == [runs[2]]
    assert [item["test_run_id"] for item in done.failed] == [runs[0]]
    assert runs[1] in done.failed[0]["error"]["message"]
    assert sum(rows_left(conn, runs[0]).values()) == 5
    events = len(all_events(conn, made.request_id))
    assert reclaim.expire_due(conn, **WHO).failed == []
    assert len(all_events(conn, made.request_id)) == events
    # Together they go.
    both = reclaim.reclaim_runs(conn, runs[:2], strategy="test", **WHO)
    assert sorted(both.runs) == runs[:2]


def test_a_domain_that_is_being_reset_is_left_for_later(
    conn: psycopg.Connection[Any], made: Made, target: str
) -> None:
    lease = leasing.lease_request(conn, made.request_id, count=1)[0]
    overdue(conn, lease["test_run_id"])
    with connect(target) as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(atdm.domain_lock_key('healthcare'))")
        done = reclaim.expire_due(conn, **WHO)
    assert (done.runs, done.busy) == ([], ["healthcare"])
    assert reclaim.expire_due(conn, **WHO).runs == [lease["test_run_id"]]


def test_two_sweeps_at_once_share_the_work(
    conn: psycopg.Connection[Any], made: Made, target: str
) -> None:
    for lease in leasing.lease_request(conn, made.request_id):
        overdue(conn, lease["test_run_id"])
    with connect(target) as other, conn.transaction():
        mine = reclaim.expire_due(conn, 2, **WHO)
        theirs = reclaim.expire_due(other, 10, **WHO)
    assert len(mine.runs) == len(theirs.runs) == 2
    assert not set(mine.runs) & set(theirs.runs)


def test_an_operator_resets_a_run_with_a_reason(conn: psycopg.Connection[Any], made: Made) -> None:
    lease = leasing.lease_request(conn, made.request_id, count=1)[0]
    run = lease["test_run_id"]
    keys = residue.keys_of_run(conn, "healthcare", run)
    done = reclaim.reset_run(conn, run, reason="stuck", **WHO)
    assert (done["status"], done["deleted"]["claim"]) == ("cleaned", 1)
    assert residue.residue_of_run(conn, "healthcare", run, keys).rows == 0
    again = reclaim.reset_run(conn, run, reason="stuck", **WHO)
    assert (again["status"], again["deleted"]) == ("already_cleaned", {})
    requested = next(
        event
        for event in all_events(conn, made.request_id, run)
        if event["action"] == "reset_requested"
    )
    assert requested["inputs"] == {"reason": "stuck", "run_was": "leased"}
    with pytest.raises(AtdmError) as unknown:
        reclaim.reset_run(conn, "01K7ZQ0000ABCDEFGHJK000001", reason="stuck", **WHO)
    assert unknown.value.code == ErrorCode.RUN_NOT_FOUND
    with pytest.raises(AtdmError) as unreasoned:
        reclaim.reset_run(conn, made.run(2), reason=" ", **WHO)
    assert unreasoned.value.code == ErrorCode.REQUEST_INVALID


def test_residue_finds_rows_of_a_run_that_is_over_and_references_to_keys_that_are_gone(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    run = made.run(1)
    keys = residue.keys_of_run(conn, "healthcare", run)
    assert residue.residue_of_run(conn, "healthcare", run, keys).bearing["healthcare.claim"] == 1
    conn.execute("UPDATE atdm.test_run SET status = 'cleaned' WHERE test_run_id = %s", (run,))
    assert residue.residue_of_domain(conn, "healthcare").bearing["healthcare.claim"] == 1
    conn.execute("SET session_replication_role = replica")  # foreign keys are not looked at
    conn.execute("DELETE FROM healthcare.member WHERE test_run_id = %s", (run,))
    conn.execute("UPDATE healthcare.claim SET test_run_id = NULL WHERE test_run_id = %s", (run,))
    conn.execute("RESET session_replication_role")
    # The claim refers to the run's member and provider, the eligibility to its member.
    referring = residue.residue_of_run(conn, "healthcare", run, keys).referring
    assert set(referring) >= {"healthcare.claim", "healthcare.eligibility"}
    assert residue.residue_of_domain(conn, "healthcare").referring["healthcare.claim"] == 1


def test_the_end_of_a_suite_takes_back_all_but_what_is_to_be_left(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    leases = leasing.lease_request(conn, made.request_id, owner="build-7", count=3)
    (other,) = leasing.lease_request(conn, made.request_id, owner="build-8")
    conn.execute(
        "UPDATE atdm.test_run SET cleanup_strategy = 'leave' WHERE test_run_id = %s",
        (leases[1]["test_run_id"],),
    )
    done = reclaim.reset_suite(conn, "build-7", **WHO)
    assert done.runs == [leases[0]["test_run_id"], leases[2]["test_run_id"]]
    assert status(conn, leases[1]["test_run_id"]) == "leased"
    assert status(conn, other["test_run_id"]) == "leased"


def test_requests_are_retired_when_their_runs_are_gone_and_then_forgotten(
    conn: psycopg.Connection[Any], made: Made, tmp_path: Path, registry: Registry
) -> None:
    store = Store(tmp_path.as_uri())
    kept = seeded(conn, tmp_path, registry, runs=1)
    zero = timedelta(0)
    assert retirement.retire(conn, zero, 10) == []
    reclaim.reclaim_runs(conn, [made.run(n) for n in range(1, 5)], strategy="test", **WHO)
    assert retirement.retire(conn, timedelta(hours=1), 10) == []
    assert retirement.retire(conn, zero, 10) == [made.request_id]
    assert all_events(conn, made.request_id)[-1]["action"] == "request_retired"
    (over,) = retirement.over_requests(conn, zero, 10)
    assert (over.request_id, over.label) == (made.request_id, made.record.label)
    retirement.forget(conn, store, [over])
    assert retirement.over_requests(conn, zero, 10) == []
    left = {path.split("/")[3] for path in store.files("requests")}
    assert left == {kept.request_id}


def test_runs_that_nobody_came_for_are_taken_back(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    (lease,) = leasing.lease_request(conn, made.request_id, count=1)
    assert reclaim.reset_unclaimed(conn, timedelta(days=1), 10, **WHO).runs == []
    conn.execute("UPDATE atdm.request SET finished_at = %s", (datetime.now(UTC) - timedelta(2),))
    done = reclaim.reset_unclaimed(conn, timedelta(days=1), 10, **WHO)
    assert len(done.runs) == 3
    assert lease["test_run_id"] not in done.runs
