"""Baselines as Dagster shows them: asset, partitions, checks, jobs, observations."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from atdm_assets import names
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services.baselines import listing
from tests.support.baseline_zoo import state
from tests.support.dagster_world import World
from tests.support.made_requests import seeded

pytest_plugins = ["tests.support.dagster_fixtures"]

DOMAIN = "healthcare"
KEY = names.baseline_key(DOMAIN)


@pytest.fixture
def asked(world: World) -> dg.Definitions:
    return world.defs


def run(
    world: World, definitions: dg.Definitions, job: str, step: str, config: dict[str, Any]
) -> dg.ExecuteInProcessResult:
    return definitions.resolve_job_def(job).execute_in_process(
        instance=world.instance,
        run_config={"ops": {step: {"config": config}}},
        raise_on_error=False,
    )


def evaluations(world: World, run_id: str) -> dict[str, bool]:
    logs = world.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = {}
    for entry in logs:
        event = entry.get_dagster_event()
        evaluation = event.asset_check_evaluation_data
        found[evaluation.check_name] = evaluation.passed
    return found


def test_a_snapshot_registers_its_partition_and_a_restore_is_an_observation(
    world: World, asked: dg.Definitions
) -> None:
    with connect(world.target_url) as conn:
        seeded(conn, world.store / "made", world.registry, runs=2)
        before = state(conn, DOMAIN)
        result = run(world, asked, "snapshot_baseline", "snapshot", {"baseline_id": "dg-one"})
        assert result.success
        partitions = names.baseline_partitions_name(DOMAIN)
        assert "dg-one" in world.instance.get_dynamic_partitions(partitions)
        event = world.instance.get_latest_materialization_event(KEY)
        assert event is not None
        materialization = event.asset_materialization
        assert materialization is not None
        assert materialization.partition == "dg-one"
        store = Store(world.store.as_uri())
        (listed,) = listing.baselines(store, DOMAIN)
        assert listed.manifest is not None
        version = listed.manifest.content_hash
        assert materialization.tags is not None
        assert materialization.tags["dagster/data_version"] == version
        assert evaluations(world, event.run_id) == {"intact": True}

        seeded(conn, world.store / "more", world.registry, runs=2)
        restored = run(
            world, asked, "restore_baseline", "restore", {"baseline_id": "dg-one", "reason": "so"}
        )
        assert restored.success
        assert state(conn, DOMAIN) == before
        (observed,) = world.instance.fetch_observations(KEY, limit=1).records
        observation = observed.asset_observation
        assert observation is not None
        assert observation.partition == "dg-one"
        assert observation.tags["dagster/data_version"] == version
        assert observation.metadata["rows"].value == listed.manifest.rows


def test_an_id_that_exists_fails_the_run_with_its_code(world: World, asked: dg.Definitions) -> None:
    assert run(world, asked, "snapshot_baseline", "snapshot", {"baseline_id": "dg-two"}).success
    again = run(world, asked, "snapshot_baseline", "snapshot", {"baseline_id": "dg-two"})
    assert not again.success
    (failure,) = [event for event in again.all_events if event.is_step_failure]
    data = failure.step_failure_data.user_failure_data
    assert data is not None
    assert data.metadata["error_code"].value == "BASELINE_EXISTS"
    bad = run(world, asked, "snapshot_baseline", "snapshot", {"baseline_id": "../x"})
    assert not bad.success
    partitions = world.instance.get_dynamic_partitions(names.baseline_partitions_name(DOMAIN))
    assert "../x" not in partitions


def test_the_checks_on_demand_say_whether_it_matches_and_seeds_the_same_twice(
    world: World, asked: dg.Definitions
) -> None:
    assert run(world, asked, "snapshot_baseline", "snapshot", {"baseline_id": "dg-three"}).success

    def judged() -> dict[str, bool]:
        result = dg.materialize(
            [*(asked.assets or ()), *(asked.asset_checks or ())],
            selection=dg.AssetSelection.checks(
                *(
                    dg.AssetCheckKey(KEY, check)
                    for check in ("intact", "matches_live", "idempotent_seed")
                )
            ),
            instance=world.instance,
            resources=dict(asked.resources or {}),
        )
        return evaluations(world, result.run_id)

    assert judged() == {"intact": True, "matches_live": True, "idempotent_seed": True}
    with connect(world.target_url) as conn:
        seeded(conn, world.store / "made", world.registry)
    assert judged() == {"intact": True, "matches_live": False, "idempotent_seed": True}
    for path in (world.store / "baselines" / DOMAIN / "dg-three").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-1])
    assert judged()["intact"] is False
