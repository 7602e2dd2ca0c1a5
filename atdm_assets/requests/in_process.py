"""Making requests and versions of datasets in this process, in the instance that Dagster's web page
shows.

Importing this costs what Dagster and pandas cost: faces import it when data has to be made.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from atdm_assets.instance.environment import audit_pages, with_target
from atdm_engine.errors import AtdmError
from atdm_services.extras import server_part
from atdm_services.target import access

with server_part("making data"):
    from dagster import DagsterExecutionInterruptedError

    from atdm_assets.datasets.job import AskedVersion, VersionOutcome, materialise_version
    from atdm_assets.definitions import build_defs
    from atdm_assets.instance import run_liveness
    from atdm_assets.instance.local_instance import instance
    from atdm_assets.requests.job import RequestedData, materialise_request
    from atdm_assets.requests.resource import RequestsResource
    from atdm_assets.resources import StoreResource, TargetResource
    from atdm_resources.store.bundle import load_registry
    from atdm_services.baselines.manifest import read_manifest

# The command line switches the collector off for its imports; making data leaves garbage.
gc.enable()

if TYPE_CHECKING:
    import psycopg

    from atdm_resources.settings import Settings
    from atdm_services.baselines.manifest import Manifest
    from atdm_services.progress import Reporter, Step
    from atdm_services.requests.request import LeaseRequest, Outcome


def materialise(
    settings: Settings, reporter: Reporter, connection: psycopg.Connection[Any], wish: LeaseRequest
) -> Outcome:
    """Make the runs of a wish. The outcome's status is ready, or rejected as its scenario says.

    Raises AtdmError: what the request was refused or failed for.
    """
    resolved = with_target(settings, reporter)
    log_level = _log_level(reporter)
    runs = "a test run" if wish.runs == 1 else f"{wish.runs:,} test runs"
    with reporter.working(f"making {runs} of {wish.scenario}") as step:
        try:
            outcome = _made(resolved, wish, step, log_level)
        except AtdmError as error:
            if not access.initialised_on_first_use(settings, reporter, connection, error):
                raise
            outcome = _made(resolved, wish, step, log_level)
    _raise(outcome.error)
    return outcome


def build_version(
    settings: Settings, reporter: Reporter, version: AskedVersion
) -> tuple[VersionOutcome, Manifest]:
    """Build and publish a version of a dataset. What an earlier, killed build has finished is kept.

    Raises AtdmError: what the version was refused or failed for.
    """
    resolved = with_target(settings, reporter)
    registry = load_registry(resolved)
    registry.dataset(version.dataset)  # a wrong name is refused before anything is started
    target = TargetResource(database_url=resolved.database_url)
    store = StoreResource(store_url=resolved.store_url, endpoint_url=resolved.s3_endpoint_url)
    defs = build_defs(scenarios=registry, resource_overrides={"target": target, "store": store})
    try:
        with (
            reporter.working(f"building dataset {version.dataset}") as step,
            instance(resolved) as opened,
        ):
            with run_liveness.usable(target) as connection:
                if connection is not None:
                    run_liveness.report_dead(opened, connection)
            outcome = materialise_version(
                version,
                registry=registry,
                instance=opened,
                resolve_job=defs.resolve_job_def,
                store=store,
                target=target,
                progress=step,
                log_level=_log_level(reporter),
            )
    except DagsterExecutionInterruptedError as error:
        raise KeyboardInterrupt from error
    _raise(outcome.error)
    return outcome, read_manifest(store.store(), outcome.dataset.domain, outcome.version)


def _log_level(reporter: Reporter) -> str:
    return "DEBUG" if reporter.debug else "CRITICAL"


def _raise(error: AtdmError | None) -> None:
    """Raise the error of a failed run. Dagster turns Ctrl-C into one: KeyboardInterrupt again."""
    if error is None:
        return
    if DagsterExecutionInterruptedError.__name__ in error.message:
        raise KeyboardInterrupt from error
    raise error


def _made(settings: Settings, wish: LeaseRequest, step: Step, log_level: str) -> Outcome:
    os.environ.update(audit_pages(settings.home))
    registry = load_registry(settings)
    target = TargetResource(database_url=settings.database_url)
    store = StoreResource(store_url=settings.store_url, endpoint_url=settings.s3_endpoint_url)
    requests = RequestsResource(target=target, store=store)
    defs = build_defs(
        scenarios=registry,
        resource_overrides={"target": target, "store": store, "requests": requests},
    )
    try:
        with _without_deprecations(), instance(settings) as opened:
            return materialise_request(
                RequestedData(
                    scenario=wish.scenario,
                    constraints=wish.constraints,
                    runs=wish.runs,
                    seed=wish.seed,
                    as_of=wish.as_of,
                    label=wish.label,
                    # Whoever asks for a run gets the run that was made for it.
                    pooled=not wish.lease,
                    invoker=settings.invoker,
                    source=wish.source,
                    reason=wish.reason,
                ),
                registry=registry,
                instance=opened,
                resolve_job=defs.resolve_job_def,
                requests=requests,
                progress=step,
                log_level=log_level,
            )
    except DagsterExecutionInterruptedError as error:
        raise KeyboardInterrupt from error


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Keep what Dagster says of its own insides out of the test suite that asks for data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
