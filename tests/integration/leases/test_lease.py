"""Leases: who gets which run, with what, and what is refused."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases
from atdm_resources.catalog.trail import all_events
from atdm_resources.postgres.connection import connect
from tests.support.made_requests import Made, recorded, seeded


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


@pytest.fixture
def made(conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry) -> Made:
    return seeded(conn, tmp_path, registry, runs=20)


def test_a_lease_hands_out_a_run_with_its_keys_and_a_token_kept_as_a_hash(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    lease = leases.lease(conn, None, "active_member_clean", owner="ci", invoker="agent:1")
    run = lease["test_run_id"]
    assert lease["request_id"] == made.request_id
    assert lease["domain"] == "healthcare"
    assert lease["seed"] == made.spec.seed
    assert datetime.fromisoformat(lease["as_of"]) == made.spec.as_of
    assert lease["data"]["claim_id"] == f"claim-{run}"
    assert re.fullmatch(r"atdm_[A-Za-z0-9_-]{43}", lease["token"])
    row = conn.execute(
        "SELECT status, token_sha256, owner, expires_at - leased_at FROM atdm.test_run"
        " WHERE test_run_id = %s",
        (run,),
    ).fetchone()
    assert row is not None
    assert row[:3] == ("leased", hashlib.sha256(lease["token"].encode()).digest(), "ci")
    assert row[3] == timedelta(hours=4)
    (event,) = [e for e in all_events(conn, made.request_id, run) if e["action"] == "leased"]
    assert event["invoker"] == "agent:1"
    assert lease["token"] not in str(event)


def test_every_run_is_leased_once_and_then_none_is_ready(
    conn: psycopg.Connection[Any], made: Made, target: str
) -> None:
    def lease_some(count: int) -> list[str]:
        with connect(target) as own:
            return [
                leases.lease(own, None, "active_member_clean")["test_run_id"] for _ in range(count)
            ]

    with ThreadPoolExecutor(4) as pool:
        runs = [run for part in pool.map(lease_some, [5] * 4) for run in part]
    assert sorted(runs) == [made.run(number) for number in range(1, 21)]
    with pytest.raises(AtdmError) as caught:
        leases.lease(conn, None, "active_member_clean")
    assert caught.value.code is ErrorCode.NONE_READY


def test_constraints_given_as_text_find_runs_made_with_typed_ones(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    made = seeded(
        conn,
        tmp_path,
        registry,
        "denied_claim_withdrawn_code",
        constraints={"diagnosis_code_is_valid": False},
    )
    with pytest.raises(AtdmError) as caught:
        leases.lease(conn, None, "denied_claim_withdrawn_code")
    assert caught.value.code is ErrorCode.NONE_READY
    lease = leases.lease(
        conn, "healthcare", "denied_claim_withdrawn_code", {"diagnosis_code_is_valid": "FALSE"}
    )
    assert lease["request_id"] == made.request_id


def test_a_default_that_is_spelled_out_is_the_default(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    lease = leases.lease(conn, None, "active_member_clean", {"member_status": "active"})
    assert lease["request_id"] == made.request_id


@pytest.mark.parametrize(
    ("scenario", "constraints", "code", "said"),
    [
        ("active_member_claen", {}, ErrorCode.SCENARIO_NOT_FOUND, "active_member_clean"),
        (
            "active_member_clean",
            {"member_statsu": "active"},
            ErrorCode.CONSTRAINT_INVALID,
            "did you mean 'member_status'",
        ),
        (
            "active_member_clean",
            {"member_status": "gone", "claim_status": "lost"},
            ErrorCode.CONSTRAINT_INVALID,
            "claim_status: found lost; allowed: one of: paid, denied, pending; member_status: ",
        ),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_spelling(
    conn: psycopg.Connection[Any],
    scenario: str,
    constraints: dict[str, Any],
    code: ErrorCode,
    said: str,
) -> None:
    with pytest.raises(AtdmError) as caught:
        leases.lease(conn, None, scenario, constraints)
    assert caught.value.code is code
    assert said in caught.value.message


def test_runs_that_are_too_old_are_not_leased(conn: psycopg.Connection[Any], made: Made) -> None:
    conn.execute("UPDATE atdm.test_run SET as_of = as_of - interval '25 hours'")
    with pytest.raises(AtdmError) as caught:
        leases.lease(conn, None, "active_member_clean")
    assert caught.value.code is ErrorCode.NONE_READY
    lease = leases.lease(conn, None, "active_member_clean", max_age=timedelta(hours=26))
    assert lease["request_id"] == made.request_id


def test_runs_of_an_older_version_of_the_scenario_are_not_leased(
    conn: psycopg.Connection[Any], made: Made
) -> None:
    conn.execute(
        "INSERT INTO atdm.scenario SELECT domain, scenario_id, 'newer', false, description, tags,"
        " linked_requirement_ids, parameters, defaults,"
        " atdm.pool_key(domain, scenario_id, 'newer', defaults), exposes, violates, pool_ready,"
        " max_age, lease_ttl FROM atdm.scenario WHERE scenario_id = 'active_member_clean'"
    )
    conn.execute(
        "UPDATE atdm.scenario SET current = false WHERE scenario_id = 'active_member_clean'"
    )
    conn.execute("UPDATE atdm.scenario SET current = true WHERE version = 'newer'")
    with pytest.raises(AtdmError) as caught:
        leases.lease(conn, None, "active_member_clean")
    assert caught.value.code is ErrorCode.NONE_READY


def test_runs_that_are_not_pooled_are_leased_by_request_only(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, runs=3, pooled=False)
    with pytest.raises(AtdmError) as caught:
        leases.lease(conn, None, "active_member_clean")
    assert caught.value.code is ErrorCode.NONE_READY
    first = leases.lease_request(conn, made.request_id, count=2)
    assert [lease["test_run_id"] for lease in first] == [made.run(1), made.run(2)]
    rest = leases.lease_request(conn, made.request_id)
    assert [lease["test_run_id"] for lease in rest] == [made.run(3)]
    assert len({lease["token"] for lease in [*first, *rest]}) == 3
    with pytest.raises(AtdmError) as caught:
        leases.lease_request(conn, made.request_id)
    assert caught.value.code is ErrorCode.NONE_READY


def test_exposed_values_that_are_not_keys_are_handed_out(
    conn: psycopg.Connection[Any], tmp_path: Path, registry: Registry
) -> None:
    made = seeded(conn, tmp_path, registry, "member_with_dependents")
    lease = leases.lease(conn, None, "member_with_dependents")
    names = {exposure.name for exposure in made.spec.scenario.exposes}
    assert set(lease["data"]) == names
    for exposure in made.spec.scenario.exposes:
        found = conn.execute(
            psycopg.sql.SQL("SELECT count(*) FROM {} WHERE {} = %s AND test_run_id = %s").format(
                psycopg.sql.Identifier("healthcare", exposure.table),
                psycopg.sql.Identifier(exposure.column),
            ),
            (lease["data"][exposure.name], lease["test_run_id"]),
        ).fetchone()
        assert found == (1,), exposure


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), timedelta(days=400)])
def test_a_lease_is_never_endless_and_never_over_at_once(
    conn: psycopg.Connection[Any], made: Made, ttl: timedelta
) -> None:
    with pytest.raises(AtdmError) as caught:
        leases.lease(conn, None, "active_member_clean", ttl=ttl)
    assert caught.value.code is ErrorCode.REQUEST_INVALID


def test_nothing_is_leased_while_somebody_waits_for_the_domain_or_has_it(
    conn: psycopg.Connection[Any], made: Made, target: str
) -> None:
    with connect(target, autocommit=False) as other:
        other.execute("SELECT pg_advisory_xact_lock(atdm.domain_lock_key('healthcare'))")
        with pytest.raises(AtdmError) as caught:
            leases.lease(conn, None, "active_member_clean")
        assert caught.value.code is ErrorCode.BUSY
        other.rollback()
    conn.execute("UPDATE atdm.domain SET draining_until = now() + interval '5 s'")
    with pytest.raises(AtdmError) as caught:
        leases.lease(conn, None, "active_member_clean")
    assert caught.value.code is ErrorCode.BUSY
    conn.execute("UPDATE atdm.domain SET draining_until = now() - interval '1 s'")
    assert leases.lease(conn, None, "active_member_clean")["test_run_id"]


def test_a_database_without_a_catalog_says_so(empty_database: str) -> None:
    with connect(empty_database) as conn, pytest.raises(AtdmError) as caught:
        leases.lease(conn, None, "active_member_clean")
    assert caught.value.code is ErrorCode.TARGET_NOT_INITIALISED


def test_a_copy_of_a_target_is_not_one(
    target: str, made: Made, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("UPDATE atdm.target SET database_name = 'another'")
    with pytest.raises(AtdmError) as caught:
        leases.lease(conn, None, "active_member_clean")
    assert caught.value.code is ErrorCode.TARGET_NOT_DISPOSABLE


def test_a_client_role_may_lease_and_reset_and_nothing_else(
    target: str, made: Made, conn: psycopg.Connection[Any]
) -> None:
    role = f"c_{made.request_id.lower()}"
    conn.execute(
        psycopg.sql.SQL("CREATE ROLE {} LOGIN IN ROLE atdm_client").format(
            psycopg.sql.Identifier(role)
        )
    )
    try:
        with connect(target, user=role) as client:
            lease = leases.lease(client, None, "active_member_clean")
            assert lease["owner"] == role
            for statement in (
                "SELECT * FROM atdm.test_run",
                "SELECT * FROM atdm.request",
                "SELECT * FROM healthcare.member",
                "SELECT * FROM atdm.delete_runs('healthcare', '{}')",
                "SELECT atdm.reset_all('healthcare')",
                "INSERT INTO atdm.audit_event (action, invoker, source) VALUES ('a', 'b', 'c')",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    client.execute(statement.encode())
            done = leases.reset_run(client, lease["test_run_id"], lease["token"])
            assert done["status"] == "cleaned"
            with pytest.raises(AtdmError) as caught:
                leases.lease_request(client, made.request_id[:25] + "1")
            assert caught.value.code is ErrorCode.RUN_NOT_FOUND
    finally:
        conn.execute(psycopg.sql.SQL("DROP ROLE {}").format(psycopg.sql.Identifier(role)))


def test_a_pending_request_has_no_runs_to_lease(
    conn: psycopg.Connection[Any], registry: Registry
) -> None:
    _, record = recorded(conn, registry)
    with pytest.raises(AtdmError) as caught:
        leases.lease_request(conn, record.request_id)
    assert caught.value.code is ErrorCode.NONE_READY
    assert caught.value.details["status"] == "pending"
