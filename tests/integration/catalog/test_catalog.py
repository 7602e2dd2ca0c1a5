"""Recording requests: labels, number ranges, status, and the events that go with each."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases, pages, requests, runs
from atdm_resources.catalog.trail import all_events
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services.requests import load
from tests.support.made_requests import recorded, seeded, staged


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


def listed(conn: Any, kind: pages.Kind, limit: int = 50, **filters: Any) -> list[dict[str, Any]]:
    return pages.read(conn, kind, pages.Filters(**filters), limit=limit).rows


def actions(conn: psycopg.Connection[Any], request_id: str) -> list[tuple[str, str]]:
    return [(event["action"], event["status"]) for event in all_events(conn, request_id)]


def test_a_request_is_recorded_with_its_first_two_events(
    conn: psycopg.Connection[Any], registry: Registry
) -> None:
    spec, record = recorded(
        conn,
        registry,
        constraints={"claim_status": "pending"},
        runs=3,
        label="my-first",
        reason="because",
        dagster_run_id="d-1",
    )
    assert record.status == "pending"
    assert record.given == {"claim_status": "pending"}
    assert record.effective["claim_status"] == "pending"
    assert record.effective["member_status"] == "active"
    assert record.as_of == spec.as_of
    assert record.as_of.tzinfo is UTC
    assert (record.label, record.runs, record.seed) == ("my-first", 3, spec.seed)
    assert requests.get_request(conn, spec.request_id) == record
    found = requests.request_by_label(conn, "healthcare", "active_member_clean", "my-first")
    assert found == record
    by_id = requests.request_by_label(conn, "healthcare", "active_member_clean", spec.request_id)
    assert by_id == record
    assert requests.request_by_label(conn, "healthcare", "active_member_clean", "other") is None
    received, resolved = all_events(conn, spec.request_id)
    assert received["action"] == "request_received"
    assert received["inputs"]["constraints"] == {"claim_status": "pending"}
    assert received["inputs"]["planner_mode"] == "rule"
    assert resolved["action"] == "plan_resolved"
    assert resolved["outputs"]["steps"] == [{"generator": table} for table in spec.scenario.tables]


@pytest.mark.parametrize(
    "label", ["../../etc/x", "", "a b", "a\n", "x" * 65, "ä", "a/b", "%2e", "a;b"]
)
def test_a_label_is_letters_digits_dash_and_underscore(
    conn: psycopg.Connection[Any], registry: Registry, label: str
) -> None:
    with pytest.raises(AtdmError) as caught:
        recorded(conn, registry, label=label)
    assert caught.value.code is ErrorCode.REQUEST_INVALID
    assert listed(conn, "requests") == []


def test_a_label_names_one_request_of_a_scenario(
    conn: psycopg.Connection[Any], registry: Registry
) -> None:
    recorded(conn, registry, label="same")
    with pytest.raises(AtdmError) as caught:
        recorded(conn, registry, label="same")
    assert caught.value.code is ErrorCode.REQUEST_CONFLICT
    _, other = recorded(conn, registry, "expired_eligibility", label="same")
    assert other.label == "same"
    with pytest.raises(AtdmError) as caught:
        runs.find(conn, "same")
    assert caught.value.code is ErrorCode.RUN_NOT_FOUND
    assert len(caught.value.details["requests"]) == 2


def test_ranges_of_numbers_never_overlap(
    conn: psycopg.Connection[Any], target: str, registry: Registry
) -> None:
    ranges: list[tuple[int, int]] = []

    def work() -> None:
        with connect(target) as own:
            for _ in range(5):
                _, record = recorded(own, registry, numbers=7)
                ranges.append((record.number_base, record.number_base + 7))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(ranges)
    assert len(ordered) == 20
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(ordered))


def test_a_version_that_is_not_published_is_refused(
    conn: psycopg.Connection[Any], registry: Registry
) -> None:
    conn.execute("DELETE FROM atdm.scenario WHERE scenario_id = 'active_member_clean'")
    with pytest.raises(AtdmError) as caught:
        recorded(conn, registry)
    assert caught.value.code is ErrorCode.TARGET_NOT_INITIALISED


def test_the_happy_path_has_the_events_of_the_trail_in_order(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    store = Store(tmp_path.as_uri())
    spec, record = recorded(conn, registry)
    requests.mark_started(conn, spec.request_id, step_count=5, dagster_run_id="run-7")
    requests.mark_validated(conn, spec.request_id, validators=list(spec.scenario.rules))
    files, exposed, content_hash = staged(store, spec)
    load.seed(
        conn, store, record, spec, files,
        content_hash=content_hash, exposed=exposed,
    )  # fmt: skip
    lease = leases.lease(conn, None, "active_member_clean")
    leases.reset_run(conn, lease["test_run_id"], lease["token"])
    assert [action for action, _ in actions(conn, spec.request_id)] == [
        "request_received",
        "plan_resolved",
        "seed_started",
        "validators_passed",
        "seed_completed",
        "catalog_recorded",
        "leased",
        "reset_started",
        "reset_completed",
    ]
    done = requests.get_request(conn, spec.request_id)
    assert done.status == "ready"
    assert done.dagster_run_id == "run-7"
    assert done.content_hash == content_hash
    assert done.tables["claim"]["rows"] == 1
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.started_at <= done.finished_at
    completed = all_events(conn, spec.request_id)[4]
    assert {"kind": "claim", "primary_key": f"claim-{lease['test_run_id']}"} in (
        completed["outputs"]["records_created"]
    )


def test_a_rejected_request_says_why_and_may_be_taken_up_again(
    conn: psycopg.Connection[Any], registry: Registry
) -> None:
    _, record = recorded(conn, registry)
    failed = [{"validator": "a.rule", "message": "3 of 4 rows", "details": {"failed": 3}}]
    requests.mark_rejected(conn, record.request_id, failed=failed, quarantine="q/x.parquet")
    rejected = requests.get_request(conn, record.request_id)
    assert rejected.status == "rejected"
    assert rejected.error is not None
    assert rejected.error["code"] == "VALIDATOR_REJECTED"
    assert rejected.error["details"]["failed"] == failed
    assert actions(conn, record.request_id)[-1] == ("plan_rejected", "rejected")
    again = requests.reopen_request(
        conn, record.request_id, invoker="human:x", source="test", dagster_run_id="r2"
    )
    assert (again.status, again.error, again.dagster_run_id) == ("pending", None, "r2")
    assert again.seed == record.seed


def test_only_a_pending_request_is_rolled_back(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    _, record = recorded(conn, registry)
    assert requests.rollback_request(conn, record.request_id, message="broke", step="claim")
    assert not requests.rollback_request(conn, record.request_id, message="again", step="claim")
    assert actions(conn, record.request_id)[-1] == ("seed_failed", "rolled_back")
    made = seeded(conn, tmp_path, registry)
    assert not requests.rollback_request(conn, made.request_id, message="no", step="claim")
    assert requests.get_request(conn, made.request_id).status == "ready"


def test_a_request_whose_runs_were_used_is_not_taken_up_again(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, runs=2)
    assert requests.run_counts(conn, made.request_id) == {"ready": 2}
    record = requests.reopen_request(conn, made.request_id, invoker="human:x", source="test")
    assert record.status == "ready"
    lease = leases.lease_request(conn, made.request_id, count=1)[0]
    for state in ("leased", "cleaned"):
        with pytest.raises(AtdmError) as caught:
            requests.reopen_request(conn, made.request_id, invoker="human:x", source="test")
        assert caught.value.code is ErrorCode.REQUEST_CONFLICT
        assert caught.value.details["runs"] == {state: 1}
        leases.reset_run(conn, lease["test_run_id"], lease["token"])


def test_requests_and_runs_are_listed_by_what_is_asked(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    clean = seeded(conn, tmp_path, registry, runs=3)
    expired = seeded(conn, tmp_path, registry, "expired_eligibility")
    leases.lease(conn, None, "active_member_clean", owner="me")
    ids = [row["request_id"] for row in listed(conn, "requests")]
    assert ids == [expired.request_id, clean.request_id]
    assert len(listed(conn, "requests", scenario_id="expired_eligibility")) == 1
    assert listed(conn, "requests", status="pending") == []
    now = datetime.now(UTC)
    assert listed(conn, "requests", since=now + timedelta(days=1)) == []
    assert len(listed(conn, "requests", since=now - timedelta(hours=1), limit=1)) == 1
    assert [run["owner"] for run in listed(conn, "runs", status="leased")] == ["me"]
    assert len(listed(conn, "runs", request_id=clean.request_id)) == 3
    assert runs.find(conn, clean.run(2)) == (clean.request_id, clean.run(2))
    assert runs.find(conn, clean.request_id) == (clean.request_id, None)
    with pytest.raises(AtdmError) as caught:
        runs.find(conn, "nothing")
    assert caught.value.code is ErrorCode.RUN_NOT_FOUND


def test_a_trail_of_one_run_leaves_the_others_out(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, runs=2)
    first, second = leases.lease_request(conn, made.request_id)
    trail = all_events(conn, made.request_id, first["test_run_id"])
    assert {event["test_run_id"] for event in trail} == {None, first["test_run_id"]}
    everything = all_events(conn, made.request_id)
    assert second["test_run_id"] in {event["test_run_id"] for event in everything}
