"""Behaviours of Dagster and SQLAlchemy that the code location relies on, pinned.

Each test says which decision it protects: when it fails after an upgrade, look there.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db
from dagster._core.storage.tags import PARTITION_NAME_TAG

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
pytest_plugins = ["tests.support.dagster_fixtures"]

KEYS = ("left", "right")
PARTITIONS = dg.DynamicPartitionsDefinition(name="upstream")


def tables_asset(skippable: bool, fail: bool) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name="tables",
        specs=[dg.AssetSpec(key, skippable=skippable, partitions_def=PARTITIONS) for key in KEYS],
        check_specs=[dg.AssetCheckSpec("holds", asset=key, blocking=True) for key in KEYS],
    )
    def tables() -> Iterator[dg.AssetCheckResult]:
        for key in KEYS:
            yield dg.AssetCheckResult(asset_key=key, check_name="holds", passed=not fail)
        if fail:
            raise dg.Failure("rejected", metadata={"error_code": "X"}, allow_retries=False)

    return tables


@dg.asset(deps=[dg.AssetKey(key) for key in KEYS], partitions_def=PARTITIONS)
def seeded() -> None:
    """Comes after the tables."""


def run(*assets: dg.AssetsDefinition, key: str = "k") -> dg.ExecuteInProcessResult:
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("upstream", ["k"])
    job = dg.Definitions(
        assets=assets, jobs=[dg.define_asset_job("job", executor_def=dg.in_process_executor)]
    ).resolve_job_def("job")
    return job.execute_in_process(
        instance=instance, partition_key=key, run_config=QUIET, raise_on_error=False
    )


def materialised(result: dg.ExecuteInProcessResult) -> list[str]:
    return [
        event.asset_key.to_user_string()
        for event in result.all_events
        if event.is_step_materialization and event.asset_key
    ]


def test_a_failure_after_the_check_results_records_all_checks_and_no_table() -> None:
    """Protects the gate: every check result first, then a Failure; nothing is published."""
    result = run(tables_asset(skippable=True, fail=True), seeded)
    assert not result.success
    assert len(result.get_asset_check_evaluations()) == 2
    assert materialised(result) == []


def test_skippable_outputs_that_are_not_yielded_skip_what_comes_after_and_the_run_succeeds() -> (
    None
):
    """Protects scenarios that break rules on purpose: rejected as expected, nothing loaded."""
    result = run(tables_asset(skippable=True, fail=False), seeded)
    assert result.success
    assert materialised(result) == []
    assert [event.step_key for event in result.all_events if event.is_step_skipped] == ["seeded"]


def test_outputs_that_are_not_skippable_are_recorded_although_nothing_was_yielded() -> None:
    """Protects ``skippable=True`` on every table: without it Dagster makes materialisations up."""
    assert set(materialised(run(tables_asset(skippable=False, fail=False)))) == set(KEYS)


def test_check_evaluations_carry_no_partition() -> None:
    """Protects request_id in the metadata of every check: nothing else ties it to its request."""
    result = run(tables_asset(skippable=True, fail=False))
    for evaluation in result.get_asset_check_evaluations():
        assert evaluation.partition is None


def test_a_partition_that_is_not_registered_fails() -> None:
    """Protects registering the key before every run."""
    with pytest.raises(dg.DagsterUnknownPartitionError):
        run(tables_asset(skippable=True, fail=False), key="unknown")


def test_a_run_in_process_carries_its_partition_as_a_tag() -> None:
    """Protects finding a request's runs by tag, whatever started them."""
    result = run(tables_asset(skippable=True, fail=False))
    assert result.dagster_run.tags[PARTITION_NAME_TAG] == "k"


def test_one_resource_serves_every_step_and_is_torn_down_when_a_step_fails() -> None:
    """Protects the request's lock: one holder for the whole run, let go whatever happens."""
    life: list[str] = []

    class Held(dg.ConfigurableResource):  # type: ignore[type-arg]
        def setup_for_execution(self, context: dg.InitResourceContext) -> None:
            life.append("setup")

        def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
            life.append("teardown")

    @dg.op(out=dg.Out(dg.Nothing))
    def one(held: Held) -> None:
        life.append("one")

    @dg.op(ins={"after": dg.In(dg.Nothing)})
    def two(held: Held) -> None:
        life.append("two")
        raise dg.Failure("on purpose", allow_retries=False)

    @dg.job(resource_defs={"held": Held()}, executor_def=dg.in_process_executor)
    def job() -> None:
        two(one())

    assert not job.execute_in_process(run_config=QUIET, raise_on_error=False).success
    assert life == ["setup", "one", "two", "teardown"]


def test_a_step_in_process_sees_the_callers_context_variables() -> None:
    """Protects progress: the command line's bar is reached through a context variable."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen: list[str] = []

    @dg.op
    def look() -> None:
        seen.append(variable.get())

    @dg.job
    def job() -> None:
        look()

    token = variable.set("set")
    try:
        job.execute_in_process(run_config=QUIET)
    finally:
        variable.reset(token)
    assert seen == ["set"]


def test_a_job_runs_inside_a_step_of_another_on_the_same_instance() -> None:
    """Protects ``request_data``: its one step runs the scenario's job."""

    @dg.op
    def inner_step() -> int:
        return 7

    @dg.job
    def inner() -> None:
        inner_step()

    @dg.op
    def outer_step(context: dg.OpExecutionContext) -> str:
        return inner.execute_in_process(instance=context.instance, run_config=QUIET).run_id

    @dg.job
    def outer() -> None:
        outer_step()

    instance = dg.DagsterInstance.ephemeral()
    result = outer.execute_in_process(instance=instance, run_config=QUIET)
    inside = instance.get_run_by_id(result.output_for_node("outer_step"))
    assert inside is not None
    assert inside.status == dg.DagsterRunStatus.SUCCESS


def test_an_optional_choice_left_out_is_not_in_the_config_and_null_is() -> None:
    """Protects the typed forms: left out means the recorded value, null the column's generator."""
    seen: list[dict[str, Any]] = []
    choice = dg.Noneable(dg.Enum("Choice", [dg.EnumValue("in-network"), dg.EnumValue("b")]))

    @dg.op(config_schema={"choice": dg.Field(choice, is_required=False)})
    def look(context: dg.OpExecutionContext) -> None:
        seen.append(dict(context.op_config))

    @dg.job
    def job() -> None:
        look()

    for config in ({}, {"choice": None}, {"choice": "in-network"}):
        job.execute_in_process(run_config={**QUIET, "ops": {"look": {"config": config}}})
    assert seen == [{}, {"choice": None}, {"choice": "in-network"}]


def test_a_killed_process_leaves_its_run_started(
    dagster_instance: dg.DagsterInstance, tmp_path: Any
) -> None:
    """Protects the roll-back of orphaned requests: no other code reports their runs as failed."""
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, sys, dagster as dg\n"
        "@dg.op\n"
        "def die():\n"
        "    os.kill(os.getpid(), 9)\n"
        "@dg.job\n"
        "def job():\n"
        "    die()\n"
        "with dg.DagsterInstance.from_config(sys.argv[1]) as instance:\n"
        "    job.execute_in_process(instance=instance)\n",
        encoding="utf-8",
    )
    ended = subprocess.run(
        [sys.executable, str(script), dagster_instance.root_directory], capture_output=True
    )
    assert ended.returncode == -9
    (left,) = dagster_instance.get_runs()
    assert left.status == dg.DagsterRunStatus.STARTED
    dagster_instance.report_run_failed(left, "reported")
    found = dagster_instance.get_run_by_id(left.run_id)
    assert found is not None
    assert found.status == dg.DagsterRunStatus.FAILURE


def test_a_bare_postgresql_url_means_psycopg_3() -> None:
    """Protects ``psycopg2_url``: with psycopg 3 the event log's NOTIFY fails."""
    assert db.create_engine("postgresql://localhost/d").driver == "psycopg"
