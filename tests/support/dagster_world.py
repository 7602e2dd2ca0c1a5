"""A whole world to ask in: target, store, Dagster instance, definitions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg

from atdm_assets import metadata, names
from atdm_assets.definitions import build_defs
from atdm_assets.requests.job import materialise_request
from atdm_assets.requests.resource import RequestsResource
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError
from atdm_resources.catalog import requests as catalog
from atdm_resources.catalog.requests import RequestRecord
from atdm_resources.catalog.trail import all_events
from atdm_resources.postgres.connection import connect
from atdm_services.requests.request import DataRequest, Outcome

QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


def error_of(result: dg.ExecuteInProcessResult) -> AtdmError:
    """The error with a code that a step of a failed run reported."""
    for event in result.all_events:
        if event.is_step_failure:
            given = event.step_failure_data.user_failure_data
            assert given is not None, event.step_failure_data.error
            values = {name: value.value for name, value in given.metadata.items()}
            error = metadata.error_in(given.description or "", values)
            assert error is not None
            return error
    raise AssertionError("no step failed")


def materialised(result: dg.ExecuteInProcessResult) -> list[str]:
    """The last part of every materialised asset's key, in order."""
    return [
        event.asset_key.path[-1]
        for event in result.all_events
        if event.is_step_materialization and event.asset_key
    ]


def from_several_daemons(
    world: World,
    count: int,
    tick: Callable[[World, psycopg.Connection[Any]], list[dg.RunRequest]],
) -> list[dg.RunRequest]:
    """What ``count`` daemons ask for that all tick at one moment, each on its own connection."""
    barrier = threading.Barrier(count)

    def daemon(_: int) -> list[dg.RunRequest]:
        with connect(world.target_url) as own:
            barrier.wait()
            return tick(world, own)

    with ThreadPoolExecutor(count) as daemons:
        return [request for found in daemons.map(daemon, range(count)) for request in found]


@dataclass
class World:
    """A target, a store, a Dagster instance and the definitions of a registry over them."""

    target_url: str
    store: Path
    instance: dg.DagsterInstance
    registry: Registry

    @cached_property
    def resources(self) -> Mapping[str, Any]:
        target = TargetResource(database_url=self.target_url)
        store = StoreResource(store_url=self.store.as_uri(), endpoint_url=None)
        requests = RequestsResource(target=target, store=store)
        return {"target": target, "store": store, "requests": requests}

    @cached_property
    def defs(self) -> dg.Definitions:
        return build_defs(scenarios=self.registry, resource_overrides=self.resources)

    def ask(self, scenario: str, **asked: Any) -> Outcome:
        return materialise_request(
            DataRequest(scenario, **asked),
            registry=self.registry,
            instance=self.instance,
            resolve_job=self.defs.resolve_job_def,
            requests=self.resources["requests"],
            log_level="CRITICAL",
        )

    def run(
        self, scenario: str, key: str, config: Mapping[str, Any] | None = None, **options: Any
    ) -> dg.ExecuteInProcessResult:
        """The scenario's own job on a partition, as the UI launches it."""
        found = self.registry.scenario(scenario)
        partitions = names.partitions_name(found.domain, found.name)
        if not self.instance.has_dynamic_partition(partitions, key):
            self.instance.add_dynamic_partitions(partitions, [key])
        step = names.step_name(found.domain, found.name, names.REQUEST)
        return self.defs.resolve_job_def(
            names.job_name(found.domain, found.name)
        ).execute_in_process(
            instance=self.instance,
            partition_key=key,
            run_config={
                **({"ops": {step: {"config": config}}} if config is not None else {}),
                "loggers": QUIET,
            },
            raise_on_error=False,
            **options,
        )

    def recorded(self, scenario: str, key: str) -> RequestRecord | None:
        found = self.registry.scenario(scenario)
        with connect(self.target_url) as conn:
            return catalog.request_by_label(conn, found.domain, found.name, key)

    def request(self, request_id: str) -> RequestRecord:
        with connect(self.target_url) as conn:
            return catalog.get_request(conn, request_id)

    def actions(self, request_id: str) -> list[str]:
        """The request's audit trail, in order, by name."""
        with connect(self.target_url) as conn:
            return [event["action"] for event in all_events(conn, request_id)]

    def rows(self, request_id: str, domain: str = "healthcare") -> dict[str, int]:
        """How many rows every table of the domain and the run table have for the request."""
        tables = {f"{domain}.{table}": table for table in self.registry.domains[domain].tables}
        tables["atdm.test_run"] = "test_run"
        with connect(self.target_url) as conn:
            return {name: _count(conn, qualified, request_id) for qualified, name in tables.items()}

    def files(self) -> list[str]:
        """Every file in the store."""
        return sorted(
            str(path.relative_to(self.store)) for path in self.store.rglob("*") if path.is_file()
        )


def _count(conn: psycopg.Connection[Any], table: str, request_id: str) -> int:
    query = f"SELECT count(*) FROM {table} WHERE left(test_run_id, 20) = left(%s, 20)"
    row = conn.execute(query.encode(), (request_id,)).fetchone()
    assert row is not None
    return int(row[0])
