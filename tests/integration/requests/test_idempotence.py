"""The check that materialising a request twice leaves the same rows."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from atdm_assets import names
from atdm_assets.requests.idempotence import CHECK, RUNS
from atdm_resources.catalog import leases
from atdm_resources.postgres.connection import connect
from atdm_services.requests.execution import RequestExecution
from tests.support.dagster_world import QUIET, World

pytest_plugins = ["tests.support.dagster_fixtures"]

CLEAN = "active_member_clean"


def judged(world: World, **config: Any) -> tuple[bool, dict[str, Any]]:
    key = names.test_runs_key("healthcare")
    step = f"{key.to_python_identifier()}_{CHECK}"
    result = dg.materialize(
        [*(world.defs.assets or ()), *(world.defs.asset_checks or ())],
        selection=dg.AssetSelection.checks(dg.AssetCheckKey(key, CHECK)),
        instance=world.instance,
        resources=dict(world.defs.resources or {}),
        run_config={"ops": {step: {"config": config}}, "loggers": QUIET},
    )
    (found,) = result.get_asset_check_evaluations()
    return found.passed, {name: value.value for name, value in found.metadata.items()}


def test_a_request_materialised_twice_leaves_the_same_rows(world: World) -> None:
    passed, shown = judged(world)
    assert passed, shown
    assert shown["first"] == shown["second"] == shown["recorded"][0]
    assert shown["rows"] >= RUNS
    rows = world.rows(shown["request_id"])
    assert {table: count for table, count in rows.items() if table != "test_run"} == dict.fromkeys(
        (table for table in rows if table != "test_run"), 0
    )
    actions = world.actions(shown["request_id"])
    assert actions.count("seed_completed") == 2
    assert actions.count("reset_completed") == RUNS


def test_a_ready_request_that_is_named_stays_and_a_leased_one_is_refused(world: World) -> None:
    made = world.ask(CLEAN, runs=2)
    before = world.rows(made.request_id)
    passed, shown = judged(world, request_id=made.request_id)
    assert (passed, shown["request_id"]) == (True, made.request_id)
    assert world.rows(made.request_id) == before
    with connect(world.target_url) as conn:
        leases.lease_request(conn, made.request_id, owner="me", count=1)
        passed, shown = judged(world, request_id=made.request_id)
    assert (passed, shown["error_code"]) == (False, "REQUEST_CONFLICT")
    assert not judged(world, request_id="0" * 26)[0]


def test_rows_that_change_between_the_times_fail_the_check(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world.ask(CLEAN)
    load = RequestExecution.load

    def load_and_spoil(execution: RequestExecution) -> Any:
        done = load(execution)
        with connect(world.target_url) as conn:
            conn.execute(
                "UPDATE healthcare.member SET address_zip = '00000' WHERE test_run_id > %s",
                (made.request_id,),
            )
        return done

    monkeypatch.setattr(RequestExecution, "load", load_and_spoil)
    passed, shown = judged(world, request_id=made.request_id)
    assert not passed
    assert shown["first"] != shown["second"]
