"""Jobs, sensors and schedules of the lifecycle, called directly against a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest

from atdm_assets.audit import sensor as audit_trail
from atdm_assets.leases import expiry, pools, retention
from atdm_assets.leases.resets import zero_residue_check
from atdm_assets.leases.retention import forget_events
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases as leasing
from atdm_resources.catalog import pools as pool_rows
from atdm_resources.catalog import seal
from atdm_resources.catalog.trail import all_events
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services import retention as kept
from tests.support.dagster_world import QUIET, World, error_of, from_several_daemons
from tests.support.made_requests import recorded
from tests.support.waiting import until

pytest_plugins = ["tests.support.dagster_fixtures"]

CLEAN = "active_member_clean"
SEEDED = f"healthcare/{CLEAN}/seeded"


@pytest.fixture
def conn(world: World) -> Any:
    with connect(world.target_url) as connection:
        yield connection


@pytest.fixture
def store(world: World) -> Store:
    return Store(world.store.as_uri())


def job(world: World, name: str, config: dict[str, Any]) -> dg.ExecuteInProcessResult:
    step = f"{name}_deletes" if name == "retention" else f"{name}_rows"
    return world.defs.resolve_job_def(name).execute_in_process(
        instance=world.instance,
        run_config={"ops": {step: {"config": config}}, "loggers": QUIET},
        raise_on_error=False,
    )


def evaluations(result: dg.ExecuteInProcessResult) -> list[dg.AssetCheckEvaluation]:
    return [
        event.asset_check_evaluation_data
        for event in result.all_events
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]


def observations(result: dg.ExecuteInProcessResult) -> list[dg.AssetObservation]:
    return [
        event.asset_observation_data.asset_observation
        for event in result.all_events
        if event.event_type is dg.DagsterEventType.ASSET_OBSERVATION
    ]


def values(event: Any) -> dict[str, Any]:
    return {name: value.value for name, value in event.metadata.items()}


# Resets.


def test_reset_run_shows_what_went_and_that_nothing_is_left(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    made = world.ask(CLEAN, runs=2)
    (lease, _) = leasing.lease_request(conn, made.request_id, owner="stuck")
    result = job(
        world,
        "reset_run",
        {"run_id": lease["test_run_id"], "reason": "stuck", "confirm": "yes"},
    )
    assert result.success
    (seen,) = observations(result)
    assert (seen.asset_key.to_user_string(), seen.partition) == (SEEDED, made.partition_key)
    shown = values(seen)
    assert (shown["deleted/claim"], shown["deleted/member"], shown["rows"]) == (1, 1, 5)
    (check,) = evaluations(result)
    assert (check.check_name, check.passed) == ("zero_residue", True)
    assert check.asset_key.to_user_string() == "healthcare/test_runs"
    assert world.rows(made.request_id)["claim"] == 1
    again = job(
        world,
        "reset_run",
        {"run_id": lease["test_run_id"], "reason": "once more", "confirm": "yes"},
    )
    assert again.success
    assert values(observations(again)[0])["status"] == "already_cleaned"


@pytest.mark.parametrize(
    "config",
    [
        {"run_id": "x", "reason": "r"},
        {"run_id": "x", "reason": "r", "confirm": "no"},
        {"run_id": "x", "confirm": "yes"},
        {"run_id": "x", "reason": "r", "confirm": "yes", "token": "atdm_x"},
    ],
)
def test_reset_run_needs_confirmation_and_reason_and_takes_no_token(
    world: World, config: dict[str, Any]
) -> None:
    with pytest.raises((dg.DagsterInvalidConfigError, AssertionError)):
        error_of(job(world, "reset_run", config))


def test_reset_run_of_an_unknown_run_is_refused(world: World) -> None:
    config = {"run_id": "01K7ZQ0000ABCDEFGHJK000001", "reason": "r", "confirm": "yes"}
    assert error_of(job(world, "reset_run", config)).code == ErrorCode.RUN_NOT_FOUND


def test_a_row_that_is_left_fails_the_reset_and_the_check(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    made = world.ask(CLEAN)
    (lease,) = leasing.lease_request(conn, made.request_id)
    # A trigger of the application puts the row back.
    conn.execute(
        "CREATE FUNCTION public.put_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO healthcare.plan SELECT OLD.*; RETURN NULL; END $$"
    )
    conn.execute(
        "CREATE TRIGGER put_back AFTER DELETE ON healthcare.plan FOR EACH ROW"
        " EXECUTE FUNCTION public.put_back()"
    )
    config = {"run_id": lease["test_run_id"], "reason": "r", "confirm": "yes"}
    error = error_of(job(world, "reset_run", config))
    assert error.code == ErrorCode.RESET_FAILED
    assert "still there" in error.message


def test_reset_all_refuses_while_runs_are_leased_unless_told(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    made = world.ask(CLEAN, runs=3)
    leasing.lease_request(conn, made.request_id, owner="carol", count=1)
    config = {"domain": "healthcare", "reason": "release", "confirm": "yes"}
    error = error_of(job(world, "reset_all", config))
    assert error.code == ErrorCode.BUSY
    assert "carol" in error.message
    result = job(world, "reset_all", {**config, "revoke_leases": True})
    assert result.success
    (seen,) = observations(result)
    shown = values(seen)
    assert (shown["test_runs"], shown["deleted/claim"]) == (3, 3)
    assert [check.passed for check in evaluations(result)] == [True]
    actions = [
        action
        for (action,) in conn.execute(
            "SELECT action FROM atdm.audit_event WHERE domain = 'healthcare'"
            " AND request_id IS NULL ORDER BY event_id"
        )
    ]
    assert actions == ["reset_requested", "reset_failed", "reset_requested", "reset_completed"]
    unknown = job(world, "reset_all", {**config, "domain": "healtcare"})
    assert "healthcare" in error_of(unknown).message


def test_zero_residue_on_demand_reads_the_whole_domain(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    made = world.ask(CLEAN)
    definition = zero_residue_check("healthcare")
    found = definition(world.resources["target"])
    assert isinstance(found, dg.AssetCheckResult)
    assert found.passed
    conn.execute("UPDATE atdm.test_run SET status = 'cleaned'")
    left = definition(world.resources["target"])
    assert isinstance(left, dg.AssetCheckResult)
    assert not left.passed
    assert made.request_id


# Pools.


def filled(world: World, conn: psycopg.Connection[Any]) -> list[dg.RunRequest]:
    result = pools.tick(world.instance, conn, world.registry)
    if isinstance(result, dg.SkipReason):
        return []
    for request in result.dynamic_partitions_requests or ():
        world.instance.add_dynamic_partitions(
            request.partitions_def_name, list(request.partition_keys)
        )
    return list(result.run_requests or ())


def only_clean_has_a_pool(conn: psycopg.Connection[Any], ready: int = 10) -> None:
    conn.execute(
        "UPDATE atdm.scenario SET pool_ready = CASE WHEN scenario_id = %s THEN %s ELSE 0 END",
        (CLEAN, ready),
    )


def execute(world: World, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    assert request.job_name is not None
    return world.defs.resolve_job_def(request.job_name).execute_in_process(
        instance=world.instance,
        partition_key=request.partition_key,
        run_config={**request.run_config, "loggers": QUIET},
        tags=dict(request.tags),
        raise_on_error=False,
    )


def fresh(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute(
        "SELECT count(*) FROM atdm.test_run AS r JOIN atdm.scenario AS s"
        " ON s.default_pool_key = r.pool_key WHERE r.status = 'ready' AND s.current"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_pool_is_filled_by_one_request_and_again_below_half(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    only_clean_has_a_pool(conn)
    (request,) = filled(world, conn)
    assert filled(world, conn) == [], "somebody fills it"
    assert execute(world, request).success
    assert fresh(conn) == 10
    assert filled(world, conn) == []
    for _ in range(5):
        leasing.lease(conn, None, CLEAN)
    assert filled(world, conn) == [], "half full is enough"
    leasing.lease(conn, None, CLEAN)
    (again,) = filled(world, conn)
    execute(world, again)
    assert fresh(conn) == 10
    record = world.request(str(again.partition_key))
    assert (record.pooled, record.runs, record.source) == (True, 6, "pool")
    assert record.invoker == "agent:atdm-pool"


def test_two_daemons_at_once_fill_a_pool_once(world: World, conn: psycopg.Connection[Any]) -> None:
    only_clean_has_a_pool(conn)
    found = from_several_daemons(world, 4, filled)
    assert len(found) == 1


def test_runs_of_an_old_version_or_past_their_age_are_drained(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    only_clean_has_a_pool(conn)
    made = world.ask(CLEAN, runs=3)
    old = world.ask(CLEAN, runs=2)
    reserved = world.ask(CLEAN, runs=1, pooled=False)
    conn.execute(
        "UPDATE atdm.request SET as_of = now() - interval '2 days' WHERE request_id = %s",
        (old.request_id,),
    )
    filled(world, conn)
    assert world.rows(old.request_id)["claim"] == 0
    assert world.rows(made.request_id)["claim"] == 3
    conn.execute(
        "INSERT INTO atdm.scenario SELECT domain, scenario_id, 'next', false, description, tags,"
        " linked_requirement_ids, parameters, defaults, gen_random_uuid(), exposes, violates,"
        " pool_ready, max_age, lease_ttl, now() FROM atdm.scenario WHERE scenario_id = %s",
        (CLEAN,),
    )
    conn.execute("UPDATE atdm.scenario SET current = false WHERE scenario_id = %s", (CLEAN,))
    conn.execute("UPDATE atdm.scenario SET current = true WHERE version = 'next'")
    filled(world, conn)
    assert world.rows(made.request_id)["claim"] == 0
    assert world.rows(reserved.request_id)["claim"] == 1, "not of a pool"
    reset = [event for event in all_events(conn, made.request_id) if event["test_run_id"]]
    assert {event["inputs"].get("strategy", "pool_drain") for event in reset} == {"pool_drain"}


def test_a_pool_that_cannot_be_filled_waits_longer_each_time(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    only_clean_has_a_pool(conn)
    (pool,) = pool_rows.pools(conn)
    waits = []
    for number in range(3):
        request_id = f"request-{number}"
        assert pool_rows.claim(conn, pool, request_id)
        assert not pool_rows.claim(conn, pool, "another")
        assert pool_rows.release(conn, request_id)
        assert not pool_rows.claim(conn, pool, "too soon")
        row = conn.execute("SELECT retry_at - now(), failures FROM atdm.top_up").fetchone()
        assert row is not None
        waits.append(round(row[0].total_seconds() / 60))
        conn.execute("UPDATE atdm.top_up SET retry_at = now()")
    assert waits == [1, 2, 4]


def test_a_top_up_that_got_lost_is_launched_again_and_a_failed_one_given_up(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    only_clean_has_a_pool(conn)
    (first,) = filled(world, conn)
    late = "UPDATE atdm.top_up SET claimed_at = claimed_at - interval '5 minutes'"
    conn.execute(late.encode())
    (again,) = filled(world, conn)
    assert again.run_key == first.run_key
    world.instance.add_run(
        dg.DagsterRun(
            job_name=str(first.job_name),
            run_id="00000000-0000-4000-8000-000000000123",
            tags=dict(first.tags),
            status=dg.DagsterRunStatus.FAILURE,
        )
    )
    assert filled(world, conn) == []
    assert pool_rows.unrecorded(conn) == []
    assert not world.instance.has_dynamic_partition(f"healthcare/{CLEAN}", str(first.partition_key))


# Expiry.


def test_a_thorough_tick_leaves_only_history(
    world: World, conn: psycopg.Connection[Any], store: Store
) -> None:
    made = world.ask(CLEAN, runs=2)
    (lease, _) = leasing.lease_request(conn, made.request_id)
    rejected = world.ask("contradictory_eligibility")
    conn.execute("UPDATE atdm.test_run SET expires_at = now() - interval '1 s'")
    at_once = kept.Retention(retired=timedelta(0), failed=timedelta(0))
    said = expiry.tick(world.instance, conn, store, at_once, thorough=True)
    assert "2 leases expired" in said
    assert "1 requests retired" in said
    assert "2 partition keys removed" in said
    for outcome in (made, rejected):
        scenario = outcome.scenario
        assert not world.instance.has_dynamic_partition(
            f"healthcare/{scenario.name}", outcome.partition_key
        )
    assert world.request(made.request_id).status == "retired"
    assert [name for name in world.files() if name.startswith("requests/")] == []
    assert expiry.tick(world.instance, conn, store, at_once, True) == "nothing is overdue"
    assert sum(world.rows(made.request_id).values()) == 2, "the rows of test_run alone"
    assert lease["test_run_id"]


def test_a_dead_request_is_rolled_back_by_the_tick(
    world: World, conn: psycopg.Connection[Any], store: Store
) -> None:
    _, record = recorded(conn, world.registry)
    said = expiry.tick(world.instance, conn, store, kept.Retention(), thorough=False)
    assert said == "1 dead requests rolled back"
    assert world.request(record.request_id).status == "rolled_back"


# Failures.


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_the_request_of_a_run_that_ended_badly_is_rolled_back_with_the_reason(
    world: World, conn: psycopg.Connection[Any], status: str
) -> None:
    run_id = f"00000000-0000-4000-8000-{len(status):012d}"
    _, record = recorded(conn, world.registry, dagster_run_id=run_id)
    _, other = recorded(conn, world.registry, dagster_run_id="another")
    run = dg.DagsterRun(
        job_name=f"healthcare__{CLEAN}", run_id=run_id, status=dg.DagsterRunStatus.STARTED
    )
    world.instance.add_run(run)
    if status == "failed":
        event = world.instance.report_run_failed(run, "out of memory")
    else:
        event = world.instance.report_run_canceled(run)
    ended = world.instance.get_run_by_id(run_id)
    assert ended is not None
    sensor = world.defs.get_repository_def().get_sensor_def(f"request_{status}_sensor")
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name,
        dagster_instance=world.instance,
        dagster_run=ended,
        dagster_event=event,
        resources={
            "target": world.resources["target"],
            "store": world.resources["store"],
        },
    )
    sensor(context.for_run_failure() if status == "failed" else context)
    rolled = world.request(record.request_id)
    assert rolled.status == "rolled_back"
    said = "out of memory" if status == "failed" else "cancelled"
    assert said in str(rolled.error)
    assert world.request(other.request_id).status == "pending", "another run's"
    assert sum(world.rows(record.request_id).values()) == 0


# The trail.


def test_leases_and_resets_become_observations_once(
    world: World, conn: psycopg.Connection[Any], store: Store
) -> None:
    made = world.ask(CLEAN, runs=3)
    leases = leasing.lease_request(conn, made.request_id, owner="ci")
    leasing.reset_run(conn, leases[0]["test_run_id"], leases[0]["token"])

    def sealed() -> bool:
        audit_trail.tick(conn, store, world.registry, None)
        return seal.unsealed(conn) == 0

    until(sealed)
    result = audit_trail.tick(conn, store, world.registry, None)
    assert isinstance(result, dg.SensorResult)
    (seen,) = result.asset_events or ()
    assert isinstance(seen, dg.AssetObservation)
    assert (seen.asset_key.to_user_string(), seen.partition) == (SEEDED, made.partition_key)
    assert values(seen)["counts"] == {"leased": 3, "reset_completed": 1}
    assert leases[1]["token"] not in str(values(seen))
    cursor = result.cursor
    assert isinstance(audit_trail.tick(conn, store, world.registry, cursor), dg.SkipReason)


# Retention.


def test_retention_deletes_what_is_old_and_never_a_run_or_an_audit_event(
    world: World, conn: psycopg.Connection[Any], store: Store
) -> None:
    made = world.ask(CLEAN, runs=2)
    for lease in leasing.lease_request(conn, made.request_id):
        leasing.reset_run(conn, lease["test_run_id"], lease["token"])
    conn.execute(
        "UPDATE atdm.request SET status = 'retired', finished_at = now() - '1 y'::interval"
    )
    conn.execute("UPDATE atdm.test_run SET ended_at = now() - '1 y'::interval")
    events = len(all_events(conn, made.request_id))
    today = datetime.now(UTC).date()
    store.write_bytes("audit/dt=2020-01-01/events-1-2.parquet", b"x")
    store.write_bytes(f"audit/dt={today}/events-3-4.parquet", b"x")
    store.write_bytes("inbox/rejected/dt=2020-01-01/a.json", b"x")
    store.write_bytes("quarantine/healthcare/s/01BX5ZZKBKACTAV9WEVG000000/claim.parquet", b"x")
    store.write_bytes(f"quarantine/healthcare/s/{made.request_id}/claim.parquet", b"x")
    result = job(world, "retention", {})
    assert result.success
    assert world.rows(made.request_id)["test_run"] == 0
    assert world.request(made.request_id).status == "retired"
    assert len(all_events(conn, made.request_id)) == events
    left = [name for name in world.files() if not name.startswith("requests/")]
    assert left == [
        f"audit/dt={today}/events-3-4.parquet",
        f"quarantine/healthcare/s/{made.request_id}/claim.parquet",
    ]


def test_dagsters_events_that_the_trail_refers_to_stay(world: World) -> None:
    made = world.ask(CLEAN)

    def kinds() -> set[str]:
        return {
            entry.dagster_event.event_type_value
            for entry in world.instance.all_logs(made.dagster_run_id)
            if entry.dagster_event is not None
        }

    before = kinds()
    assert forget_events(world.instance, datetime.now(UTC) - timedelta(days=1)) == 0
    assert forget_events(world.instance, datetime.now(UTC) + timedelta(days=1)) > 0
    after = kinds()
    assert before - after <= set(retention.UNNEEDED)
    assert {"ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION", "PIPELINE_SUCCESS"} <= after
    assert world.instance.get_run_by_id(made.dagster_run_id) is not None


@pytest.mark.parametrize("text", ["ready=soon", "redy=7d", "ready", "ready=-1d"])
def test_a_retention_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(AtdmError) as caught:
        kept.Retention.from_environment({"ATDM_RETENTION": text})
    assert "ready" in caught.value.message
    read = kept.Retention.from_environment({"ATDM_RETENTION": "ready=3d, exports=12h"})
    assert (read.ready, read.exports) == (timedelta(days=3), timedelta(hours=12))


def test_the_schedule_and_the_sensors_run_by_themselves(world: World) -> None:
    location = world.defs.get_repository_def()
    schedule = location.get_schedule_def("retention_schedule")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    tick = dg.build_schedule_context(instance=world.instance, repository_def=location)
    assert len(schedule.evaluate_tick(tick).run_requests or ()) == 1
    for sensor in location.sensor_defs:
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING, sensor.name
        assert (sensor.minimum_interval_seconds or 0) >= 10, sensor.name
