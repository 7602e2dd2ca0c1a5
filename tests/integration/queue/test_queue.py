"""The queue: what is asked by a row or a file is made once, answered, and leased by its key."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import Any

import dagster as dg
import psycopg
import pytest

from atdm.client.sync import AtdmClient, AtdmClientError
from atdm_assets import names
from atdm_assets.instance import ticks
from atdm_assets.queue import sensor
from atdm_assets.requests.failures import tick as failure_tick
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.random import run_ids
from atdm_resources.catalog import leases as leasing
from atdm_resources.catalog import pages, reclaim
from atdm_resources.catalog import queue as queueing
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from tests.support.dagster_world import World, from_several_daemons
from tests.support.queue_steps import CLEAN, execute, standing, submit, tick

pytest_plugins = ["tests.support.dagster_fixtures"]


@pytest.fixture
def conn(world: World) -> Any:
    with connect(world.target_url) as connection:
        yield connection


def test_submissions_that_share_scenario_and_constraints_are_one_request(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    submit(conn, "a", runs=2)
    submit(conn, "b", scenario=f"healthcare/{CLEAN}", constraints={})
    # The default, spelled out, and in another type: the same effective constraints.
    submit(conn, "c", constraints={"claim_status": "paid"})
    submit(conn, "other", constraints={"coverage_type": "ppo"})
    requests = tick(world, conn)
    assert sorted(r.run_config["ops"][f"healthcare__{CLEAN}__request"]["config"]["runs"]
                  for r in requests) == [1, 4]  # fmt: skip
    assert tick(world, conn) == [], "launched, not again"
    for request in requests:
        assert execute(world, request).success
    tick(world, conn)
    found = {key: standing(conn, key) for key in ("a", "b", "c", "other")}
    assert {row["status"] for row in found.values()} == {"fulfilled"}
    (shared,) = {found[key]["request_id"] for key in ("a", "b", "c")}
    runs = [run for key in ("a", "b", "c") for run in found[key]["answer"]["test_run_ids"]]
    assert sorted(runs) == [run_ids.run_id(shared, n) for n in range(1, 5)]
    assert len(found["a"]["answer"]["test_run_ids"]) == 2
    assert found["b"]["answer"]["data"][0]["member_id"].startswith("m-")
    assert "atdm_" not in json.dumps(found), "no token before it is leased"


def test_a_submission_is_claimed_once_by_whoever_knows_its_secret(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    secret = "open sesame"
    submit(
        conn, "mine", runs=2, owner="build-3", ttl="30 minutes", cleanup_strategy="leave",
        secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
    )  # fmt: skip
    with pytest.raises(AtdmError) as early:
        leasing.claim(conn, "mine", secret=secret)
    assert early.value.code == ErrorCode.NONE_READY
    (request,) = tick(world, conn)
    execute(world, request)
    for wrong in (None, "guess"):
        with pytest.raises(AtdmError) as caught:
            leasing.claim(conn, "mine", secret=wrong)
        assert caught.value.code == ErrorCode.RUN_NOT_FOUND
    leases = leasing.claim(conn, "mine", secret=secret)
    assert [lease["owner"] for lease in leases] == ["build-3", "build-3"]
    assert len({lease["token"] for lease in leases}) == 2
    with pytest.raises(AtdmError) as again:
        leasing.claim(conn, "mine", secret=secret)
    assert again.value.code == ErrorCode.REQUEST_CONFLICT
    assert reclaim.reset_suite(conn, "build-3", invoker="a:b", source="t").runs == []
    done = leasing.reset_run(conn, leases[0]["test_run_id"], leases[0]["token"])
    assert done["status"] == "cleaned"


def test_the_runs_of_a_submission_are_nobody_elses(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    submit(conn, "first")
    submit(conn, "second")
    (request,) = tick(world, conn)
    execute(world, request)
    with pytest.raises(AtdmError) as caught:
        leasing.lease(conn, None, CLEAN)
    assert caught.value.code == ErrorCode.NONE_READY
    (second,) = leasing.claim(conn, "second")
    (first,) = leasing.claim(conn, "first")
    assert [run_ids.run_number(one["test_run_id"]) for one in (first, second)] == [1, 2]


def test_the_same_key_twice_is_one_submission_and_other_values_are_refused(
    conn: psycopg.Connection[Any],
) -> None:
    assert submit(conn, "k", runs=2)["created"] is True
    assert submit(conn, "k", runs=2, priority=9)["created"] is False
    with pytest.raises(AtdmError) as caught:
        submit(conn, "k", runs=3)
    assert caught.value.code == ErrorCode.REQUEST_CONFLICT
    assert queueing.waiting(conn)["waiting"] == 1


def test_the_same_key_from_many_at_once_is_one_submission(world: World) -> None:
    created: list[bool] = []

    def work() -> None:
        with connect(world.target_url) as own:
            created.append(submit(own, "race")["created"])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False] * 7 + [True]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scenaro": "x"}, "unknown field scenaro"),
        ({"runs": 0}, "runs must be"),
        ({"runs": "many"}, "runs must be"),
        ({"priority": 1.5}, "priority must be"),
        ({"kind": "wish"}, "kind is wish"),
        ({"constraints": []}, "constraints must be"),
        ({"cleanup_strategy": "maybe"}, "after_test, after_suite, leave"),
        ({"ttl": "soon"}, "ttl must be"),
        ({"ttl": "-1 hour"}, "ttl must be"),
        ({"as_of": "yesterdayish"}, "as_of must be"),
        ({"invoker": "me"}, "invoker must be"),
        ({"scenario": 7}, "scenario must be text"),
        ({"idempotency_key": ""}, "idempotency_key must be"),
        ({"kind": "suite_finished"}, "build is missing"),
        ({"secret_sha256": "abc"}, "secret_sha256 must be"),
    ],
)
def test_what_cannot_be_a_submission_is_refused_with_the_reason(
    conn: psycopg.Connection[Any], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(AtdmError) as caught:
        queueing.submit(conn, {"idempotency_key": "bad", "scenario": CLEAN, **fields})
    assert caught.value.code == ErrorCode.REQUEST_INVALID
    assert said in caught.value.message
    assert queueing.waiting(conn)["waiting"] == 0


def test_all_that_is_wrong_is_named_at_once(conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(AtdmError) as caught:
        queueing.submit(conn, {"idempotency_key": "bad", "runs": 0, "kind": "x", "color": 1})
    assert len(caught.value.details["refused"]) == 3


def test_a_client_role_may_submit_ask_and_claim_and_read_no_table(
    conn: psycopg.Connection[Any],
) -> None:
    conn.execute("SET ROLE atdm_client")
    submit(conn, "as-client")
    assert standing(conn, "as-client")["status"] == "waiting"
    with pytest.raises(AtdmError):
        leasing.claim(conn, "as-client")
    for statement in ("SELECT FROM atdm.submission", "SELECT atdm.settle('x')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(statement.encode())
    conn.execute("RESET ROLE")


def test_an_unknown_scenario_or_constraint_is_answered_at_once(
    conn: psycopg.Connection[Any],
) -> None:
    unknown = submit(conn, "u", scenario="active_membr_clean")
    assert unknown["status"] == "rejected"
    assert unknown["answer"]["error"]["code"] == "SCENARIO_NOT_FOUND"
    invalid = submit(conn, "i", constraints={"claim_status": "lost"})
    assert "paid, denied, pending" in invalid["answer"]["error"]["message"]
    with pytest.raises(AtdmError) as caught:
        leasing.claim(conn, "u")
    assert caught.value.code == ErrorCode.SCENARIO_NOT_FOUND


def test_a_contradiction_is_answered_by_the_tick_without_a_run(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    submit(conn, "x", scenario="claim_denial_active_member", constraints={"claim_status": "paid"})
    assert tick(world, conn) == []
    answer = standing(conn, "x")
    assert answer["status"] == "rejected"
    assert answer["answer"]["error"]["code"] == "CONSTRAINT_CONTRADICTION"


def test_a_negative_scenario_is_fulfilled_as_rejected(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    submit(conn, "n", scenario="contradictory_eligibility")
    (request,) = tick(world, conn)
    assert execute(world, request).success
    tick(world, conn)
    answer = standing(conn, "n")
    assert answer["status"] == "fulfilled"
    assert (answer["answer"]["status"], answer["answer"]["expected"]) == ("rejected", True)


def test_a_seed_or_clock_of_ones_own_is_a_request_of_its_own(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    for number in range(3):
        submit(conn, f"s{number}", seed=5, as_of="2026-03-01T08:00:00Z")
    requests = tick(world, conn)
    assert len(requests) == 3
    execute(world, requests[0])
    record = world.request(str(requests[0].partition_key))
    assert (record.seed, record.seed_given, record.as_of.isoformat()) == (
        5,
        True,
        "2026-03-01T08:00:00+00:00",
    )


def test_the_highest_priority_goes_first_and_a_tick_launches_few(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    for number in range(12):
        submit(conn, f"p{number}", seed=number, priority=number)
    launched = [len(tick(world, conn)) for _ in range(3)]
    assert launched == [sensor.LAUNCHES_A_TICK, sensor.MOST_AT_ONCE - sensor.LAUNCHES_A_TICK, 0]
    waiting = [n for n in range(12) if standing(conn, f"p{n}")["status"] == "waiting"]
    assert waiting == [0, 1, 2, 3]


def test_two_daemons_at_once_launch_everything_once(world: World) -> None:
    with connect(world.target_url) as conn:
        for number in range(40):
            submit(conn, f"d{number}", constraints={"coverage_type": ("hmo", "ppo")[number % 2]})
    found = from_several_daemons(world, 2, tick)
    config = f"healthcare__{CLEAN}__request"
    assert sum(r.run_config["ops"][config]["config"]["runs"] for r in found) == 40
    assert len({request.run_key for request in found}) == len(found)


def test_a_run_that_failed_before_it_recorded_anything_is_tried_again_then_answered(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    submit(conn, "unlucky")
    for attempt in range(3):
        (request,) = tick(world, conn)
        run = dg.DagsterRun(
            job_name=str(request.job_name), run_id=dg_run_id(attempt), tags=dict(request.tags)
        )
        error = AtdmError(ErrorCode.BUSY, "the domain is being reset", {})
        failure_tick(world.instance, conn, Store(world.store.as_uri()), run, error)
    answer = standing(conn, "unlucky")
    assert answer["status"] == "rejected"
    assert answer["answer"]["error"]["message"] == "the domain is being reset"
    partitions = world.instance.get_dynamic_partitions(f"healthcare/{CLEAN}")
    assert request.partition_key not in partitions


def dg_run_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def test_a_launch_that_got_lost_is_launched_again_under_the_same_key(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    submit(conn, "lost")
    (first,) = tick(world, conn)
    conn.execute(
        "UPDATE atdm.submission SET launched_at = launched_at - make_interval(secs => %s)",
        (ticks.RELAUNCH_SECONDS + 1,),
    )
    (again,) = tick(world, conn)
    assert (again.run_key, again.partition_key) == (first.run_key, first.partition_key)


def test_a_client_submits_and_claims_without_the_command_line(
    world: World, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATDM_OWNER_SECRET", "mine alone")
    with AtdmClient(world.target_url, owner="nightly", source="tests") as client:
        asked = client.submit(CLEAN, {"member_status": "active"}, runs=2, idempotency_key="n-1")
        assert (asked["idempotency_key"], asked["status"]) == ("n-1", "waiting")
        again = client.submit(CLEAN, {"member_status": "active"}, runs=2, idempotency_key="n-1")
        assert (asked["created"], again["created"]) == (True, False)
        for wait in (None, "1s"):
            with pytest.raises(AtdmClientError) as caught:
                client.claim("n-1", wait=wait)
            assert caught.value.code is ErrorCode.NONE_READY
        (request,) = tick(world, conn)
        execute(world, request)
        tick(world, conn)
        assert client.submission("n-1")["status"] == "fulfilled"
        made = client.claim("n-1", wait="10s", ttl="5m")
        assert len(made["runs"]) == 2
        run = made["runs"][0]
        token = run["cleanup"]["cleanup_token"]
        assert token not in repr(made)
        assert client.reset_run(run["test_run_id"], token)["status"] == "cleaned"
        with pytest.raises(AtdmClientError) as caught:
            client.claim("n-1")
        assert caught.value.code is ErrorCode.REQUEST_CONFLICT
        with pytest.raises(AtdmClientError) as caught:
            client.submission("nobody")
        assert caught.value.code is ErrorCode.RUN_NOT_FOUND


# Suites.


def test_a_suite_that_finishes_gives_back_what_its_build_holds(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    made = world.ask(CLEAN, runs=2)
    leasing.lease_request(conn, made.request_id, owner="build-9")
    queueing.submit(conn, {"idempotency_key": "end", "kind": "suite_finished", "build": "build-9"})
    tick(world, conn)
    answer = standing(conn, "end")
    assert answer["status"] == "fulfilled"
    assert len(answer["answer"]["test_run_ids"]) == 2
    assert answer["answer"]["deleted"]["healthcare"]["claim"] == 2
    assert sum(world.rows(made.request_id).values()) == 2, "the two rows of test_run alone"
    assert {
        run["status"]
        for run in pages.read(
            conn, "runs", pages.Filters(request_id=made.request_id), limit=50
        ).rows
    } == {"cleaned"}


def test_a_suite_that_starts_restores_its_baseline_before_anything_is_made(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    queueing.submit(
        conn,
        {"idempotency_key": "go", "kind": "suite_started", "build": "b", "baseline": "golden"},
    )
    submit(conn, "after")

    def restore(event: queueing.SuiteEvent, key: str) -> dg.RunRequest:
        return dg.RunRequest(
            run_key=key, job_name="restore", tags={names.LAUNCH_TAG: key},
            run_config={"baseline": event.payload["baseline"]},
        )  # fmt: skip

    (request,) = tick(world, conn, restore=restore)
    assert request.run_config == {"baseline": "golden"}
    assert tick(world, conn, restore=restore) == []
    assert standing(conn, "after")["status"] == "waiting"
    world.instance.add_run(
        dg.DagsterRun(
            job_name="restore", run_id=dg_run_id(77), tags=dict(request.tags),
            status=dg.DagsterRunStatus.SUCCESS,
        )
    )  # fmt: skip
    assert len(tick(world, conn, restore=restore)) == 1
    assert standing(conn, "go")["status"] == "fulfilled"


def test_a_suite_whose_baseline_cannot_be_restored_is_told(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    queueing.submit(
        conn, {"idempotency_key": "go", "kind": "suite_started", "build": "b", "baseline": "x"}
    )
    tick(world, conn)
    answer = standing(conn, "go")
    assert answer["status"] == "rejected"
    assert "restores" in answer["answer"]["error"]["message"]


def evaluated(world: World, name: str) -> Any:
    """A tick as the daemon has it evaluated in the code location."""
    location = world.defs.get_repository_def()
    with dg.build_sensor_context(
        instance_ref=world.instance.get_ref(),
        repository_def=location,
        resources=dict(world.resources),
    ) as context:
        return location.get_sensor_def(name).evaluate_tick(context)


def test_the_sensor_can_be_called_by_dagster(world: World) -> None:
    with connect(world.target_url) as conn:
        submit(conn, "through the sensor".replace(" ", "-"))
    data = evaluated(world, "queue_sensor")
    (request,) = data.run_requests or ()
    assert request.job_name == f"healthcare__{CLEAN}"
    assert request.tags["dagster/partition"] == request.partition_key
    (added,) = data.dynamic_partitions_requests or ()
    assert added.partition_keys == [request.partition_key]


def test_a_target_that_is_not_set_up_is_a_reason_to_skip(world: World, empty_database: str) -> None:
    bare = World(empty_database, world.store, world.instance, world.registry)
    for name in ("queue_sensor", "pool_sensor", "expiry_sensor", "audit_sensor"):
        assert "atdm init" in str(evaluated(bare, name).skip_message), name
