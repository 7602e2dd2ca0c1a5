"""Having a request made in this process, in the instance that Dagster's web page shows.

Importing this costs what Dagster and pandas cost: only ``atdm_services.requests.request`` does,
when nothing is ready.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from atdm_assets.instance.environment import audit_pages, with_target
from atdm_engine.errors import AtdmError
from atdm_services.extras import server_part
from atdm_services.target import access

with server_part("making a test run"):
    from dagster import DagsterExecutionInterruptedError

    from atdm_assets.definitions import build_defs
    from atdm_assets.instance.local_instance import instance
    from atdm_assets.requests.job import RequestedData, materialise_request
    from atdm_assets.requests.resource import RequestsResource
    from atdm_assets.resources import StoreResource, TargetResource
    from atdm_resources.store.bundle import load_registry

# The command line switches it off for its imports; from here on there is garbage.
gc.enable()

if TYPE_CHECKING:
    import psycopg

    from atdm_resources.settings import Settings
    from atdm_services.progress import Reporter, Step
    from atdm_services.requests.request import LeaseRequest, Outcome


def materialise(
    settings: Settings, reporter: Reporter, connection: psycopg.Connection[Any], wish: LeaseRequest
) -> Outcome:
    """Make the runs of a wish. The outcome's status is ready, or rejected as its scenario says.

    Raises AtdmError: what the request was refused or failed for.
    """
    resolved = with_target(settings, reporter)
    log_level = "DEBUG" if reporter.debug else "CRITICAL"
    runs = "a test run" if wish.runs == 1 else f"{wish.runs:,} test runs"
    with reporter.working(f"making {runs} of {wish.scenario}") as step:
        try:
            outcome = _made(resolved, wish, step, log_level)
        except AtdmError as error:
            if not access.initialised_on_first_use(settings, reporter, connection, error):
                raise
            outcome = _made(resolved, wish, step, log_level)
    if outcome.error is not None:
        raise_failure(outcome.error)
    return outcome


def raise_failure(error: AtdmError) -> NoReturn:
    """Raise the error of a failed run. Dagster records Ctrl-C as one: KeyboardInterrupt again."""
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
