"""What happens to a submission, step by step: asked for, ticked, executed, looked up."""

from __future__ import annotations

from typing import Any

import dagster as dg
import psycopg

from atdm_assets.queue import sensor
from atdm_resources.catalog import queue as queueing
from atdm_resources.store.files import Store
from tests.support.dagster_world import QUIET, World

CLEAN = "active_member_clean"


def submit(conn: psycopg.Connection[Any], key: str, **fields: Any) -> dict[str, Any]:
    return queueing.submit(conn, {"idempotency_key": key, "scenario": CLEAN, **fields})


def tick(world: World, conn: psycopg.Connection[Any], **options: Any) -> list[dg.RunRequest]:
    """The runs that a tick launches; their partition keys are registered as Dagster would."""
    store = Store(world.store.as_uri())
    result = sensor.tick(world.instance, conn, lambda: store, world.registry, **options)
    if isinstance(result, dg.SkipReason):
        return []
    for request in result.dynamic_partitions_requests or ():
        world.instance.add_dynamic_partitions(
            request.partitions_def_name, list(request.partition_keys)
        )
    return list(result.run_requests or ())


def execute(world: World, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """A launched run, as the run launcher would execute it."""
    assert request.job_name is not None
    return world.defs.resolve_job_def(request.job_name).execute_in_process(
        instance=world.instance,
        partition_key=request.partition_key,
        run_config={**request.run_config, "loggers": QUIET},
        tags=dict(request.tags),
        raise_on_error=False,
    )


def standing(conn: psycopg.Connection[Any], key: str) -> dict[str, Any]:
    return queueing.submission_status(conn, key)
