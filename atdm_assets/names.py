"""Names in Dagster: asset keys, jobs, steps, groups, tags, partitions."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

import dagster as dg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.model import Scenario

REQUEST: Final = "request"
SEEDED: Final = "seeded"
REFERENCE: Final = "reference"
TEST_RUNS: Final = "test_runs"
RESET_RUN_JOB: Final = "reset_run"
RESET_ALL_JOB: Final = "reset_all"
RETENTION_JOB: Final = "retention"
REQUEST_JOB: Final = "request_data"
REQUEST_STEP: Final = "request"
"""The one step of ``request_data``: a step and a job cannot share a name."""

BASELINE: Final = "baseline"
SNAPSHOT_JOB: Final = "snapshot_baseline"
RESTORE_JOB: Final = "restore_baseline"
SNAPSHOT_STEP: Final = "snapshot"
RESTORE_STEP: Final = "restore"
FILL_CLONES_JOB: Final = "fill_clone_pool"
FILL_CLONES_STEP: Final = "fill"
DATASET: Final = "dataset"
DATASET_JOB: Final = "refresh_dataset"
DATASET_STEP: Final = "refresh"
"""The one step of ``refresh_dataset``: a step and a job cannot share a name."""

REQUEST_ID_TAG: Final = "atdm/request_id"
INVOKER_TAG: Final = "atdm/invoker"
DATA_VERSION_TAG: Final = "dagster/data_version"
SOURCE_TAG: Final = "atdm/source"
USER_TAG: Final = "user"
"""Dagster's own tag: the user who launched the run, as its pages show it."""

VERSION_TAG: Final = "atdm/dataset_version"
LAUNCH_TAG: Final = "atdm/launch"
"""On a run that a sensor launched: the id of the request that it was launched for."""

VOUCHED_TAG: Final = "atdm/vouched_by"
"""On a run that a process executes itself: the target in which it holds the run's lock."""

PARENT_TAG: Final = "atdm/parent_run"
"""On a scenario's run: the run of ``request_data`` that started it in its own process."""

_TAG_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


def request_key(domain: str, scenario: str) -> dg.AssetKey:
    return dg.AssetKey([domain, scenario, REQUEST])


def table_key(domain: str, scenario: str, table: str) -> dg.AssetKey:
    return dg.AssetKey([domain, scenario, table])


def seeded_key(domain: str, scenario: str) -> dg.AssetKey:
    return dg.AssetKey([domain, scenario, SEEDED])


def reference_key(domain: str, table: str) -> dg.AssetKey:
    return dg.AssetKey([domain, REFERENCE, table])


def test_runs_key(domain: str) -> dg.AssetKey:
    """The asset of a domain that stands for the rows of test runs in the target now."""
    return dg.AssetKey([domain, TEST_RUNS])


def step_name(domain: str, scenario: str, part: str) -> str:
    """The op of a scenario's part; also the key of its config in a run's ``ops``."""
    return f"{domain}__{scenario}__{part}"


def job_name(domain: str, scenario: str) -> str:
    return f"{domain}__{scenario}"


def group_name(domain: str, scenario: str, default_domain: str) -> str:
    """The group of a scenario's assets: in the default domain the bare name.

    Dagster's pages cut long names in the middle.
    """
    return scenario if domain == default_domain else f"{domain}__{scenario}"


def partitions_name(domain: str, scenario: str) -> str:
    """The dynamic partitions definition of a scenario; its keys are requests (or their labels)."""
    return f"{domain}/{scenario}"


def partitions(domain: str, scenario: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=partitions_name(domain, scenario))


def dataset_key(domain: str, dataset: str, table: str) -> dg.AssetKey:
    return dg.AssetKey([domain, DATASET, dataset, table])


def dataset_job_name(domain: str, dataset: str) -> str:
    """The job that makes all tables of a version."""
    return f"{domain}__{DATASET}__{dataset}"


def dataset_step_name(domain: str, dataset: str) -> str:
    """The op that makes all tables; also the key of its config in a run's ``ops``."""
    return f"{dataset_job_name(domain, dataset)}__tables"


def dataset_schedule_name(domain: str, dataset: str) -> str:
    return f"{dataset_job_name(domain, dataset)}__refresh"


def dataset_partitions_name(domain: str, dataset: str) -> str:
    """The dynamic partitions definition of a dataset; its keys are ids of versions."""
    return f"{domain}/{DATASET}/{dataset}"


def dataset_partitions(domain: str, dataset: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=dataset_partitions_name(domain, dataset))


def baseline_key(domain: str) -> dg.AssetKey:
    return dg.AssetKey([domain, BASELINE])


def baseline_job_name(domain: str) -> str:
    """The job that captures a baseline of a domain; its step has the asset's name."""
    return f"{domain}__{BASELINE}__capture"


def baseline_partitions_name(domain: str) -> str:
    """The dynamic partitions definition of a domain's baselines; its keys are their ids."""
    return f"{domain}/{BASELINE}"


def baseline_partitions(domain: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=baseline_partitions_name(domain))


def require_free(scenarios: Collection[Scenario]) -> None:
    """Refuse scenarios and tables whose assets would get the keys of other assets.

    Raises:
        AtdmError: SPEC_INVALID, naming them.
    """
    taken = [scenario.key for scenario in scenarios if scenario.name in (REFERENCE, BASELINE)]
    taken += [
        f"table {table} of {scenario.key}"
        for scenario in scenarios
        for table in scenario.tables
        if table in (REQUEST, SEEDED)
    ]
    if taken:
        raise AtdmError(
            ErrorCode.SPEC_INVALID,
            f"names that assets of every scenario have already: {', '.join(taken)}; "
            f"no scenario may be called {REFERENCE} or {BASELINE}, no table {REQUEST} or {SEEDED}",
            {"taken": taken},
        )


def caller_tags(
    invoker: str | None, source: str, parent_run_id: str | None = None
) -> dict[str, str]:
    """The tags of a run that name its invoker, its source and the run that started it."""
    tags = {SOURCE_TAG: source}
    if invoker:
        tags |= {INVOKER_TAG: invoker, USER_TAG: invoker}
    if parent_run_id:
        tags[PARENT_TAG] = parent_run_id
    return tags


def safe_tag(text: str) -> str:
    """``text`` as Dagster allows it in a tag: at most 63 letters, digits, ``_``, ``.``, ``-``."""
    return _TAG_UNSAFE.sub("_", text)[:63]
