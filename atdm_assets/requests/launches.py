"""Launching a scenario's job from a sensor, for the queue and the pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import dagster as dg

from atdm_assets import names
from atdm_assets.requests.run_config import scenario_run_config
from atdm_engine.bundle.registry import Registry
from atdm_services.requests.request import DataRequest


@dataclass
class Launches:
    """The runs that a tick launches, and the partition keys that they need."""

    runs: list[dg.RunRequest] = field(default_factory=list)
    keys: list[dg.AddDynamicPartitionsRequest] = field(default_factory=list)

    def add(self, registry: Registry, request: DataRequest, request_id: str) -> None:
        """Launch the making of a request: once, even when the tick is repeated.

        Raises:
            AtdmError: SCENARIO_NOT_FOUND, CONSTRAINT_INVALID, CONSTRAINT_CONTRADICTION,
                REQUEST_INVALID: its run could only fail; nothing is launched.
        """
        spec = request.resolve(registry, request_id)
        scenario = spec.scenario
        partitions = names.partitions(scenario.domain, scenario.name)
        self.keys.append(partitions.build_add_request([request_id]))
        self.runs.append(
            dg.RunRequest(
                run_key=request_id,
                job_name=names.job_name(scenario.domain, scenario.name),
                partition_key=request_id,
                run_config=scenario_run_config(spec, request),
                tags={
                    **names.caller_tags(request.invoker, request.source),
                    names.LAUNCH_TAG: request_id,
                    names.REQUEST_ID_TAG: request_id,
                },
            )
        )

    def result(self, *others: dg.RunRequest) -> dg.SensorResult:
        """The result of the tick: Dagster registers the keys before it launches the runs."""
        return dg.SensorResult(
            run_requests=[*self.runs, *others], dynamic_partitions_requests=self.keys
        )


def forget_key(
    instance: dg.DagsterInstance, domain: str, scenario: str, keys: Sequence[str]
) -> None:
    """Remove partition keys that no request will ever have, where they are registered."""
    partitions = names.partitions_name(domain, scenario)
    for key in keys:
        if instance.has_dynamic_partition(partitions, key):
            instance.delete_dynamic_partition(partitions, key)
