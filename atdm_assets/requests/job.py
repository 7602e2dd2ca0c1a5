"""Job ``request_data``: data by a scenario's bare name."""

# No postponed annotations here: Dagster compares those of steps as classes, not as text.

import uuid
from collections.abc import Callable
from typing import Any

import dagster as dg

from atdm_assets import metadata, names
from atdm_assets.requests.failures import first_error, report_dead_requests
from atdm_assets.requests.resource import RequestsResource
from atdm_assets.requests.run_config import request_in, request_schema, scenario_run_config
from atdm_engine.bundle.registry import Registry
from atdm_engine.random.run_ids import check_label
from atdm_resources.catalog.requests import require_published
from atdm_services.requests.request import DataRequest, Outcome, mint_request_id

ResolveJob = Callable[[str], dg.JobDefinition]


def materialise_request(
    request: DataRequest,
    *,
    registry: Registry,
    instance: dg.DagsterInstance,
    resolve_job: ResolveJob,
    requests: RequestsResource,
    parent_run_id: str | None = None,
    log_level: str = "WARNING",
    **shared: Any,
) -> Outcome:
    """Make the data of a request by one run of the scenario's job in this process.

    What can be known to be wrong beforehand (an unknown scenario, a constraint's value) is refused
    before anything is registered. Requests whose process is gone are rolled back first.
    ``parent_run_id`` is the run that calls this. ``shared`` is what the steps share with the
    caller: ``connection`` and ``progress`` of ``RequestExecution``.

    Raises:
        AtdmError: SCENARIO_NOT_FOUND, CONSTRAINT_INVALID, REQUEST_INVALID, TARGET_UNREACHABLE...:
            nothing was registered. What goes wrong later is in the outcome.
    """
    request_id = mint_request_id()
    key = request_id if request.label is None else check_label(request.label)
    spec = request.resolve(registry, request_id)
    scenario = spec.scenario
    run_id = str(uuid.uuid4())
    partitions = names.partitions_name(scenario.domain, scenario.name)
    with requests.begun(
        registry, scenario, key, dagster_run_id=run_id, spec=spec, **shared
    ) as execution:
        report_dead_requests(instance, execution.connection, execution.store)
        known = request.label is not None and instance.has_dynamic_partition(partitions, key)
        if not known:
            require_published(execution.connection, scenario)
            instance.add_dynamic_partitions(partitions, [key])
        result = resolve_job(names.job_name(scenario.domain, scenario.name)).execute_in_process(
            instance=instance,
            run_id=run_id,
            partition_key=key,
            run_config=scenario_run_config(spec, request, log_level),
            tags=names.caller_tags(request.invoker, request.source, parent_run_id),
            raise_on_error=False,
        )
        execution.end()
        recorded = execution.recorded()
    if recorded is None and not known:
        instance.delete_dynamic_partition(partitions, key)
    return Outcome(
        request_id=recorded.request_id if recorded else request_id,
        partition_key=key,
        scenario=scenario,
        status=recorded.status if recorded else "rolled_back",
        dagster_run_id=result.run_id,
        error=None if result.success else first_error(result),
    )


def request_job(registry: Registry, resolve_job: ResolveJob) -> dg.JobDefinition:
    """The job ``request_data``.

    Args:
        resolve_job: finds a scenario's job by name. A step run in process has no repository to ask.
    """
    every = [
        scenario for domain in registry.domains.values() for scenario in domain.scenarios.values()
    ]
    accepted = [scenario.name for scenario in every if not scenario.spec.violates]
    example = min(accepted or [scenario.name for scenario in every], default="")

    @dg.op(
        name=names.REQUEST_STEP,
        description="Mint a request, register its partition, run its scenario's job in process.",
        config_schema=request_schema([scenario.key for scenario in every]),
        out=dg.Out(dg.Nothing),
    )
    def request_data(context: dg.OpExecutionContext, requests: RequestsResource) -> None:
        config = context.op_config
        with metadata.reported_failures():
            outcome = materialise_request(
                request_in(config, context.run.tags, config["scenario"]),
                registry=registry,
                instance=context.instance,
                resolve_job=resolve_job,
                requests=requests,
                parent_run_id=context.run_id,
            )
            context.instance.add_run_tags(
                context.run_id, {names.REQUEST_ID_TAG: outcome.request_id}
            )
            if outcome.error is not None:
                raise outcome.error
        context.log.info(
            f"Request {outcome.request_id} of {outcome.scenario.key} is {outcome.status}; "
            f"made by run {outcome.dagster_run_id}."
        )

    @dg.job(
        name=names.REQUEST_JOB,
        description="Ask for test data by a scenario's name: one request, one new partition.",
        executor_def=dg.in_process_executor,
        config={
            "ops": {
                names.REQUEST_STEP: {"config": {"scenario": example, "constraints": {}, "runs": 1}}
            }
        },
    )
    def job() -> None:
        request_data()

    return job
