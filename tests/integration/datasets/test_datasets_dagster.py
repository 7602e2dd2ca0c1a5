"""Datasets in Dagster: a version is made, checked, published, kept, restored."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from atdm_assets import names
from atdm_assets.datasets.assets import clock_of
from atdm_assets.datasets.job import VersionOutcome, VersionRequest, materialise_version
from atdm_assets.instance import run_liveness
from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.datasets import version_id
from atdm_resources.postgres.connection import connect
from atdm_resources.store.bundle import read_bundle, shipped_root
from atdm_resources.store.files import Store
from atdm_services.baselines.manifest import read_manifest
from atdm_services.datasets.versions import versions
from tests.support.dagster_world import World, error_of

pytest_plugins = ["tests.support.dagster_fixtures"]

CLOCK = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
TINY = """
description: A handful of test runs.
seed: 7
cron: 30 1 * * 1-5
runs_per_shard: 30
retention: 2
restore: {restore}
mix:
  - {{scenario: active_member_clean, runs: 30}}
  - scenario: claim_denial_active_member
    runs: 20
    constraints: {{provider_network: {{choice: {{in_network: 1, out_of_network: 3}}}}}}
"""


def with_dataset(restore: bool, extra: tuple[SpecFile, ...] = ()) -> Registry:
    text = TINY.format(restore=str(restore).lower())
    file = SpecFile("tiny.yaml", "healthcare/datasets/tiny.yaml", text)
    return Registry.build([*read_bundle([shipped_root()]), file, *extra])


@pytest.fixture
def tiny(world: World) -> World:
    world.registry = with_dataset(restore=True)
    return world


def make(world: World, as_of: datetime = CLOCK, **asked: Any) -> VersionOutcome:
    return materialise_version(
        VersionRequest("tiny", as_of=as_of, processes=1, **asked),
        registry=world.registry,
        instance=world.instance,
        resolve_job=world.defs.resolve_job_def,
        store=world.resources["store"],
        target=world.resources["target"],
        log_level="CRITICAL",
    )


def checks_of(world: World, run_id: str) -> dict[tuple[str, str], bool]:
    records = world.instance.all_logs(run_id)
    found = {}
    for record in records:
        event = record.dagster_event
        if event is not None and event.event_type_value == "ASSET_CHECK_EVALUATION":
            data: Any = event.event_specific_data
            found[data.asset_key.path[-1], data.check_name] = data.passed
    return found


def test_a_version_is_an_asset_a_table_with_its_checks(tiny: World) -> None:
    outcome = make(tiny)
    assert outcome.error is None
    dataset = tiny.registry.dataset("tiny")
    assert outcome.version == version_id(dataset, CLOCK)
    partitions = names.dataset_partitions_name("healthcare", "tiny")
    assert outcome.version in tiny.instance.get_dynamic_partitions(partitions)
    manifest = read_manifest(Store(tiny.store.as_uri()), "healthcare", outcome.version)
    for table in tiny.registry.domains["healthcare"].tables:
        key = names.dataset_key("healthcare", "tiny", table)
        event = tiny.instance.get_latest_materialization_event(key)
        assert event is not None
        assert event.asset_materialization is not None
        shown = event.asset_materialization
        (found,) = [one for one in manifest.tables if one.name == table]
        assert shown.partition == outcome.version
        assert shown.metadata["dagster/row_count"].value == found.rows
        assert (shown.tags or {})["dagster/data_version"] == found.content_hash
    checks = checks_of(tiny, outcome.dagster_run_id)
    assert all(checks.values())
    assert {("claim", "whole_references"), ("claim", "references"), ("plan", "whole_keys")} <= set(
        checks
    )
    graph = tiny.defs.get_repository_def().asset_graph
    declared = graph.get(names.dataset_key("healthcare", "tiny", "claim")).check_keys
    assert {key.name for key in declared} == {name for table, name in checks if table == "claim"}


def test_a_run_whose_process_is_gone_is_reported_and_a_living_one_is_not(tiny: World) -> None:
    job = tiny.defs.resolve_job_def(names.dataset_job_name("healthcare", "tiny"))

    def started(run_id: str, tags: dict[str, str]) -> dg.DagsterRun:
        return tiny.instance.create_run_for_job(
            job, run_id=run_id, status=dg.DagsterRunStatus.STARTED, tags=tags
        )

    dead, living, elsewhere = (str(uuid.uuid4()) for _ in range(3))
    with run_liveness.hold_run_lock(tiny.resources["target"], dead) as tags:
        started(dead, tags)
        started(elsewhere, {names.VOUCHED_TAG: "another@1"})
        with connect(tiny.target_url) as conn:
            assert run_liveness.report_dead_runs(tiny.instance, conn) == []
    with run_liveness.hold_run_lock(tiny.resources["target"], living) as tags:
        started(living, tags)
        with connect(tiny.target_url) as conn:
            assert run_liveness.report_dead_runs(tiny.instance, conn) == [dead]
            assert run_liveness.report_dead_runs(tiny.instance, conn) == []
    ended = tiny.instance.get_run_by_id(dead)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    with run_liveness.hold_run_lock(None, living) as tags:
        assert tags == {}


def test_made_again_it_is_the_version_that_is_there(tiny: World) -> None:
    first, second = make(tiny), make(tiny)
    assert first.version == second.version
    assert second.error is None
    events = tiny.instance.all_logs(second.dagster_run_id)
    assert any("0 shards made" in event.user_message for event in events)
    assert all(checks_of(tiny, second.dagster_run_id).values())


def test_old_versions_go_and_so_do_their_partitions(tiny: World) -> None:
    made = [make(tiny, CLOCK + timedelta(days=day)) for day in range(4)]
    assert [one.expired for one in made] == [(), (), (made[0].version,), (made[1].version,)]
    store = Store(tiny.store.as_uri())
    kept = [one.version for one in versions(store, tiny.registry.dataset("tiny"))]
    assert kept == [made[3].version, made[2].version]
    partitions = names.dataset_partitions_name("healthcare", "tiny")
    assert set(kept) == set(tiny.instance.get_dynamic_partitions(partitions)) & {
        one.version for one in made
    }
    assert not store.exists(f"baselines/healthcare/{made[0].version}")
    assert make(tiny, CLOCK + timedelta(days=3)).version == made[3].version
    with connect(tiny.target_url) as conn:
        told = conn.execute(
            "SELECT action, inputs->>'baseline_id' FROM atdm.audit_event"
            " WHERE action IN ('dataset_published', 'baseline_deleted') ORDER BY event_id"
        ).fetchall()
        known = dict(conn.execute("SELECT baseline_id, status FROM atdm.baseline").fetchall())
    first, second, third, fourth = (one.version for one in made)
    assert told == [
        ("dataset_published", first),
        ("dataset_published", second),
        ("dataset_published", third),
        ("baseline_deleted", first),
        ("dataset_published", fourth),
        ("baseline_deleted", second),
    ]
    assert known == {first: "deleted", second: "deleted", third: "complete", fourth: "complete"}


def test_data_that_breaks_a_rule_is_not_published(world: World) -> None:
    rule = "-- Nobody is called so.\nSELECT member_id, status <> 'active' AS holds FROM member\n"
    file = SpecFile("never.sql", "healthcare/rules/domain.nobody.sql", rule)
    world.registry = with_dataset(restore=False, extra=(file,))
    outcome = make(world)
    assert outcome.error is not None
    assert outcome.error.code == ErrorCode.VALIDATOR_REJECTED
    assert outcome.error.details["failed"][0]["validator"] == "domain.nobody"
    assert any(path.startswith("quarantine/healthcare/datasets/") for path in world.files())
    assert not any(path.startswith(("baselines/", "datasets/")) for path in world.files())
    checks = checks_of(world, outcome.dagster_run_id)
    assert not checks["member", "domain__nobody"]
    assert checks["claim", "references"]
    materialised = [
        record
        for record in world.instance.all_logs(outcome.dagster_run_id)
        if record.dagster_event is not None and record.dagster_event.is_step_materialization
    ]
    assert materialised == []


def refresh(world: World, config: dict[str, Any]) -> dg.ExecuteInProcessResult:
    return world.defs.resolve_job_def(names.DATASET_JOB).execute_in_process(
        instance=world.instance,
        run_config={
            "ops": {names.DATASET_STEP: {"config": {"dataset": "tiny", "processes": 1, **config}}},
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        raise_on_error=False,
    )


def test_the_job_publishes_and_restores(tiny: World) -> None:
    result = refresh(tiny, {"as_of": CLOCK.isoformat()})
    assert result.success
    with connect(tiny.target_url) as conn:
        counts = conn.execute(
            "SELECT (SELECT count(*) FROM healthcare.claim),"
            " (SELECT count(*) FROM healthcare.claim WHERE test_run_id IS NULL),"
            " (SELECT count(*) FROM healthcare.provider WHERE network_status = 'in_network'),"
            " (SELECT count(*) FROM healthcare.procedure_code)"
        ).fetchone()
    assert counts == (50, 50, 35, 4)
    # Requests go on in a target that holds a dataset, and their resets leave it alone.
    made = tiny.ask("active_member_clean")
    assert made.succeeded
    assert tiny.rows(made.request_id)["claim"] == 1


def test_the_job_leaves_the_target_alone_when_told(tiny: World) -> None:
    assert refresh(tiny, {"as_of": CLOCK.isoformat(), "restore": False}).success
    with connect(tiny.target_url) as conn:
        row = conn.execute("SELECT count(*) FROM healthcare.claim").fetchone()
    assert row == (0,)


def test_an_unknown_dataset_is_named(tiny: World) -> None:
    error = error_of(refresh(tiny, {"dataset": "tinny"}))
    assert error.code == ErrorCode.DATASET_NOT_FOUND
    assert error.details["nearest"] == "healthcare/tiny"


def test_the_tick_s_scheduled_time_is_the_clock(tiny: World) -> None:
    schedule = tiny.defs.get_repository_def().get_schedule_def(
        names.dataset_schedule_name("healthcare", "tiny")
    )
    assert schedule.cron_schedule == "30 1 * * 1-5"
    assert schedule.execution_timezone == "UTC"
    late = datetime(2026, 3, 2, 1, 30, tzinfo=UTC)
    with dg.build_schedule_context(
        instance=tiny.instance, scheduled_execution_time=late
    ) as context:
        data = schedule.evaluate_tick(context)
        again = schedule.evaluate_tick(context)
    assert data.run_requests is not None
    (request,) = data.run_requests
    config = request.run_config["ops"][names.DATASET_STEP]["config"]
    assert config == {"dataset": "healthcare/tiny", "as_of": late.isoformat()}
    assert [one.run_key for one in again.run_requests or []] == [request.run_key]


def test_the_clock_is_in_the_version_s_id(registry: Registry) -> None:
    dataset = registry.dataset("smoke")
    assert clock_of(dataset, version_id(dataset, CLOCK)) == CLOCK
    for wrong in ("nonsense", "smoke-20260301-020000-000000", "smoke-20269999-020000-000000"):
        with pytest.raises(AtdmError) as caught:
            clock_of(dataset, wrong)
        assert caught.value.code == ErrorCode.REQUEST_INVALID
