"""Job ``request_data``: data by a scenario's bare name."""

# No postponed annotations here: Dagster compares those of steps as classes, not as text.

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import dagster as dg

from atdm_assets import metadata, names
from atdm_assets.requests.resource import RequestsResource
from atdm_assets.requests.run_config import as_of, request_schema
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.request import resolve
from atdm_engine.model import Scenario
from atdm_engine.progress import Progress
from atdm_engine.random.run_ids import check_label
from atdm_engine.values.scalars import TypedScalar, scalar_json
from atdm_services.requests.orphans import Reconciled
from atdm_services.requests.plan import mint_request_id, reporting
from atdm_services.requests.request import Outcome

ResolveJob = Callable[[str], dg.JobDefinition]


@dataclass(frozen=True)
class RequestedData:
    """What somebody asks for; what is None is decided by the scenario or by the request's id."""

    scenario: str
    constraints: Mapping[str, TypedScalar] = field(default_factory=dict)
    runs: int | None = None
    seed: int | None = None
    as_of: datetime | None = None
    label: str | None = None
    pooled: bool | None = None
    invoker: str | None = None
    source: str = "dagster"
    reason: str | None = None
    parent_run_id: str | None = None


def materialise_request(
    asked: RequestedData,
    *,
    registry: Registry,
    instance: dg.DagsterInstance,
    resolve_job: ResolveJob,
    requests: RequestsResource,
    progress: Progress | None = None,
    log_level: str = "WARNING",
) -> Outcome:
    """Make the data that somebody asks for, by one run of the scenario's job in this process.

    What can be known to be wrong beforehand (an unknown scenario, a constraint's value) is refused
    before anything is registered. Requests that a killed process left behind are rolled back first.

    Raises:
        AtdmError: SCENARIO_NOT_FOUND, CONSTRAINT_INVALID, REQUEST_INVALID, TARGET_UNREACHABLE...:
            nothing was registered. What goes wrong later is in the outcome.
    """
    scenario = registry.scenario(asked.scenario)
    request_id = mint_request_id()
    if asked.label is not None:
        check_label(asked.label)
    resolve(
        registry.domains[scenario.domain],
        scenario,
        asked.constraints,
        runs=1 if asked.runs is None else asked.runs,
        seed=asked.seed,
        as_of=asked.as_of,
        request_id=request_id,
    )
    report_dead_requests(instance, requests)
    partitions = names.partitions_name(scenario.domain, scenario.name)
    key = asked.label or request_id
    known = asked.label is not None and instance.has_dynamic_partition(partitions, key)
    if not known:
        requests.require_published(scenario)
        instance.add_dynamic_partitions(partitions, [key])
    with reporting(progress):
        result = resolve_job(names.job_name(scenario.domain, scenario.name)).execute_in_process(
            instance=instance,
            partition_key=key,
            run_config=scenario_run_config(scenario, asked, log_level),
            tags=request_tags(asked),
            raise_on_error=False,
        )
    recorded = requests.recorded(registry, scenario, key)
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


def report_dead_requests(instance: dg.DagsterInstance, requests: RequestsResource) -> list[str]:
    """Roll back requests whose process is gone and report their Dagster runs as failed.

    Returns:
        The ids of the Dagster runs that were reported.
    """
    return report_failed(instance, requests.reconcile())


def report_failed(instance: dg.DagsterInstance, rolled_back: Iterable[Reconciled]) -> list[str]:
    """Report the Dagster runs of requests that were rolled back as failed, where they go on.

    Returns:
        The ids of the Dagster runs that were reported.
    """
    reported = []
    for dead in rolled_back:
        run = instance.get_run_by_id(dead.dagster_run_id) if dead.dagster_run_id else None
        if run is None:
            continue
        # A run of request_data shares its process with the run that it started.
        parent = run.tags.get(names.PARENT_TAG)
        for gone in (run, instance.get_run_by_id(parent) if parent else None):
            if gone is not None and not gone.is_finished:
                instance.report_run_failed(
                    gone, "The process that executed this run is gone; its request was rolled back."
                )
                reported.append(gone.run_id)
    return reported


def scenario_run_config(
    scenario: Scenario, asked: RequestedData, log_level: str = "INFO"
) -> dict[str, Any]:
    """The run config of a scenario's own job for what somebody asks."""
    config: dict[str, Any] = {
        "constraints": {
            name: scalar_json(scenario.constraints[name].parse(value))
            for name, value in asked.constraints.items()
        },
        "runs": asked.runs,
        "seed": asked.seed,
        "as_of": asked.as_of.isoformat() if asked.as_of else None,
        "pooled": asked.pooled,
        "reason": asked.reason,
    }
    step = names.step_name(scenario.domain, scenario.name, names.REQUEST)
    return {
        "ops": {step: {"config": {k: v for k, v in config.items() if v is not None}}},
        "loggers": {"console": {"config": {"log_level": log_level}}},
    }


def request_tags(asked: RequestedData) -> dict[str, str]:
    """The tags of a scenario's run that say who asked, and through what."""
    return names.asked_by(asked.invoker, asked.source, asked.parent_run_id)


def first_error(
    result: dg.ExecuteInProcessResult, otherwise: ErrorCode = ErrorCode.SEED_FAILED
) -> AtdmError:
    """Why a run in this process failed."""
    return error_in_events(result.all_events, result.run_id, otherwise)


def error_in_events(
    events: Iterable[dg.DagsterEvent], run_id: str, otherwise: ErrorCode = ErrorCode.SEED_FAILED
) -> AtdmError:
    """Why a run failed: the error with a code that a step reported, else the exception it met."""
    message = "the run failed without saying why"
    for event in events:
        if event.is_step_failure:
            data = event.step_failure_data
            given = data.user_failure_data
            if given is not None:
                values = {name: value.value for name, value in given.metadata.items()}
                error = metadata.error_in(given.description or "", values)
                if error is not None:
                    return error
            if data.error is not None:
                message = data.error.message.strip()
        elif event.is_job_failure:
            # A run that was reported as failed has a message and no exception.
            raised = getattr(event.event_specific_data, "error", None)
            message = (raised.message if raised else event.message or message).strip()
    return AtdmError(otherwise, message, {"dagster_run_id": run_id})


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
                _requested(config, context.run),
                registry=registry,
                instance=context.instance,
                resolve_job=resolve_job,
                requests=requests,
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


def _requested(config: Mapping[str, Any], run: dg.DagsterRun) -> RequestedData:
    return RequestedData(
        scenario=config["scenario"],
        constraints=dict(config.get("constraints") or {}),
        runs=config.get("runs"),
        seed=config.get("seed"),
        as_of=as_of(config),
        label=config.get("label"),
        pooled=config.get("pooled"),
        invoker=config.get("invoker") or run.tags.get(names.INVOKER_TAG),
        source=run.tags.get(names.SOURCE_TAG, "dagster"),
        reason=config.get("reason"),
        parent_run_id=run.run_id,
    )
