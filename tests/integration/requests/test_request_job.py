"""Job ``request_data`` and the function behind it: every way in ends in the same state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from atdm_assets.requests.failures import report_dead_requests
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.random import run_ids
from atdm_resources.postgres.connection import connect
from tests.support.dagster_world import QUIET, World, error_of

pytest_plugins = ["tests.support.dagster_fixtures"]

CLEAN = "active_member_clean"
PARTITIONS = f"healthcare/{CLEAN}"


def execute(world: World, config: dict[str, Any], **tags: str) -> dg.ExecuteInProcessResult:
    return world.defs.resolve_job_def("request_data").execute_in_process(
        instance=world.instance,
        run_config={"ops": {"request": {"config": config}}, "loggers": QUIET},
        tags=tags,
        raise_on_error=False,
    )


def request_of(world: World, result: dg.ExecuteInProcessResult) -> str:
    run = world.instance.get_run_by_id(result.run_id)
    assert run is not None
    return run.tags["atdm/request_id"]


def test_a_bare_name_is_enough(world: World) -> None:
    result = execute(world, {"scenario": CLEAN})
    assert result.success
    request_id = request_of(world, result)
    assert run_ids.is_request_id(request_id)
    record = world.request(request_id)
    assert (record.status, record.label, record.runs) == ("ready", request_id, 1)
    assert world.instance.has_dynamic_partition(PARTITIONS, request_id)
    made = world.instance.get_run_by_id(record.dagster_run_id or "")
    assert made is not None
    assert made.job_name == "healthcare__active_member_clean"
    assert made.tags["dagster/partition"] == request_id


def test_everything_that_is_asked_for_is_recorded(world: World) -> None:
    result = execute(
        world,
        {
            "scenario": f"healthcare/{CLEAN}",
            "constraints": {"coverage_type": "ppo"},
            "runs": 2,
            "seed": 99,
            "as_of": "2026-03-01T09:00:00+01:00",
            "label": "whole-form",
            "invoker": "agent:planner",
            "reason": "all fields",
        },
        **{"atdm/source": "launchpad"},
    )
    assert result.success
    record = world.request(request_of(world, result))
    assert record.label == "whole-form"
    assert record.given == {"coverage_type": "ppo"}
    assert (record.runs, record.seed, record.seed_given) == (2, 99, True)
    assert record.as_of.isoformat() == "2026-03-01T08:00:00+00:00"
    assert record.as_of_given
    assert not record.pooled, "a seed of one's own never goes into a pool"
    assert (record.invoker, record.source) == ("agent:planner", "launchpad")
    assert record.reason == "all fields"
    made = world.instance.get_run_by_id(record.dagster_run_id or "")
    assert made is not None
    assert made.tags["atdm/invoker"] == "agent:planner"


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        ({"scenario": "active_membr_clean"}, ErrorCode.SCENARIO_NOT_FOUND, CLEAN),
        (
            {"scenario": CLEAN, "constraints": {"claim_state": "paid"}},
            ErrorCode.CONSTRAINT_INVALID,
            "claim_status",
        ),
        (
            {"scenario": CLEAN, "constraints": {"claim_status": "lost"}},
            ErrorCode.CONSTRAINT_INVALID,
            "paid, denied, pending",
        ),
        ({"scenario": CLEAN, "label": "../../etc/x"}, ErrorCode.REQUEST_INVALID, "name a request"),
        ({"scenario": CLEAN, "runs": 0}, ErrorCode.REQUEST_INVALID, "runs is 0"),
        ({"scenario": CLEAN, "as_of": "yesterday"}, ErrorCode.REQUEST_INVALID, "as_of"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_registered(
    world: World, config: dict[str, Any], code: ErrorCode, said: str
) -> None:
    before = world.instance.get_dynamic_partitions(PARTITIONS)
    error = error_of(execute(world, config))
    assert error.code == code
    assert said in error.message
    assert world.instance.get_dynamic_partitions(PARTITIONS) == before


def test_a_label_that_is_taken_replays_or_is_refused(world: World) -> None:
    first = world.ask(CLEAN, label="taken", runs=2)
    again = world.ask(CLEAN, label="taken")
    assert (again.request_id, again.status, again.error) == (first.request_id, "ready", None)
    other = world.ask(CLEAN, label="taken", runs=3)
    assert other.error is not None
    assert other.error.code == ErrorCode.REQUEST_CONFLICT
    assert world.rows(first.request_id)["claim"] == 2


def test_a_scenario_that_declares_what_it_breaks_succeeds_as_rejected(world: World) -> None:
    outcome = world.ask("contradictory_eligibility")
    assert (outcome.status, outcome.error) == ("rejected", None)


def test_a_target_without_a_catalog_is_reported_and_leaves_no_partition(
    world: World, empty_database: str
) -> None:
    bare = World(empty_database, world.store, world.instance, world.registry)
    before = world.instance.get_dynamic_partitions(PARTITIONS)
    with pytest.raises(AtdmError) as caught:
        bare.ask(CLEAN)
    assert caught.value.code == ErrorCode.TARGET_NOT_INITIALISED
    assert "atdm init" in caught.value.message
    assert world.instance.get_dynamic_partitions(PARTITIONS) == before


def test_a_target_that_does_not_answer_is_reported(world: World) -> None:
    away = World(
        "postgresql://nobody:secret@127.0.0.1:9/none", world.store, world.instance, world.registry
    )
    with pytest.raises(AtdmError) as caught:
        away.ask(CLEAN)
    assert caught.value.code == ErrorCode.TARGET_UNREACHABLE
    assert "secret" not in str(caught.value.envelope())


def test_progress_is_reported_run_by_run_and_row_by_row(world: World) -> None:
    from atdm_assets.requests.job import materialise_request
    from atdm_services.requests.request import DataRequest

    said: list[tuple[str, int, int]] = []
    materialise_request(
        DataRequest(CLEAN, runs=3),
        registry=world.registry,
        instance=world.instance,
        resolve_job=world.defs.resolve_job_def,
        requests=world.resources["requests"],
        progress=lambda what, done, total: said.append((what, done, total)),
        log_level="CRITICAL",
    )
    assert ("made and checked", 3, 3) in said
    assert any(what == "loaded claim" for what, _, _ in said)


SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import dagster as dg
from atdm_services.requests import load
from atdm_resources.store.bundle import read_bundle, shipped_root
from atdm_engine.bundle.registry import Registry
from tests.support.dagster_world import World

target, store, home = sys.argv[1:]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

load._record = die  # the end of the loading transaction
with dg.DagsterInstance.from_config(home) as instance:
    registry = Registry.build(read_bundle([shipped_root()]))
    world = World(target, Path(store), instance, registry)
    config = {"scenario": "active_member_clean", "label": "killed", "runs": 500}
    world.defs.resolve_job_def("request_data").execute_in_process(
        instance=instance, run_config={"ops": {"request": {"config": config}}}
    )
"""


def test_a_killed_request_is_rolled_back_and_its_run_reported_by_the_next(
    world: World, tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(SCRIPT, encoding="utf-8")
    root = Path(__file__).resolve().parents[3]
    ended = subprocess.run(
        [sys.executable, str(script), world.target_url, str(world.store),
         world.instance.root_directory],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
        text=True,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = world.recorded(CLEAN, "killed")
    assert left is not None
    assert left.status == "pending"
    assert sum(world.rows(left.request_id).values()) == 0
    assert world.files() != []

    with connect(world.target_url) as conn:
        reported = report_dead_requests(world.instance, conn, world.resources["store"].store())
    runs = [world.instance.get_run_by_id(run_id) for run_id in reported]
    assert [(run.job_name, run.status) for run in runs if run is not None] == [
        ("healthcare__active_member_clean", dg.DagsterRunStatus.FAILURE),
        ("request_data", dg.DagsterRunStatus.FAILURE),
    ]
    assert reported[0] == left.dagster_run_id
    assert world.request(left.request_id).status == "rolled_back"
    assert world.actions(left.request_id)[-1] == "seed_failed"
    assert world.files() == []

    again = world.ask(CLEAN, label="killed")
    assert (again.request_id, again.status) == (left.request_id, "ready")
    assert world.rows(left.request_id)["test_run"] == 500


def test_no_token_ever_enters_dagster(world: World) -> None:
    from atdm_resources.catalog import leases

    outcome = world.ask(CLEAN, pooled=False)
    with connect(world.target_url) as conn:
        (lease,) = leases.lease_request(conn, outcome.request_id, owner="a test")
    world.run(CLEAN, outcome.partition_key)
    everything = json.dumps(
        [
            [str(record) for record in world.instance.all_logs(run.run_id)] + [str(run)]
            for run in world.instance.get_runs()
        ]
    )
    assert outcome.request_id in everything
    assert lease["token"] not in everything
