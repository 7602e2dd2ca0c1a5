"""Making a request in this process, in the instance that Dagster's web page shows.

Importing this loads Dagster and pandas: only what makes data does.
"""

from __future__ import annotations

import gc
import os
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from atdm_assets.instance.environment import audit_pages, with_target
from atdm_engine.errors import AtdmError
from atdm_services.extras import server_part
from atdm_services.target import access

with server_part("making a test run"):
    from dagster import DagsterExecutionInterruptedError

    from atdm_assets.definitions import build_defs
    from atdm_assets.instance.local_instance import instance
    from atdm_assets.requests.job import materialise_request
    from atdm_assets.requests.resource import RequestsResource
    from atdm_assets.resources import StoreResource, TargetResource
    from atdm_resources.store.bundle import load_registry

# The command line switches it off for its imports; from here on there is garbage.
gc.enable()

if TYPE_CHECKING:
    import psycopg

    from atdm_resources.settings import Settings
    from atdm_services.progress import Reporter
    from atdm_services.requests.request import LeaseRequest, Outcome


def materialise(
    settings: Settings,
    reporter: Reporter,
    connection: psycopg.Connection[Any],
    request: LeaseRequest,
) -> Outcome:
    """Make the runs of a request on the caller's connection to the target.

    The outcome's status is ready, or rejected as the scenario declares. An embedded server that is
    empty is initialised first.

    Raises:
        AtdmError: what the request was refused or failed for.
    """
    resolved = with_target(settings, reporter)
    runs = "a test run" if request.runs == 1 else f"{request.runs:,} test runs"
    with reporter.working(f"making {runs} of {request.scenario}") as step:

        def make() -> Outcome:
            os.environ.update(audit_pages(resolved.home))
            registry = load_registry(resolved)
            target = TargetResource(database_url=resolved.database_url)
            store = StoreResource(
                store_url=resolved.store_url, endpoint_url=resolved.s3.endpoint_url
            )
            requests = RequestsResource(target=target, store=store)
            defs = build_defs(
                scenarios=registry,
                resource_overrides={"target": target, "store": store, "requests": requests},
            )
            with warnings.catch_warnings(), instance(resolved) as opened:
                # What Dagster says about its own insides is not for the caller's test suite.
                warnings.simplefilter("ignore", DeprecationWarning)
                return materialise_request(
                    request,
                    registry=registry,
                    instance=opened,
                    resolve_job=defs.resolve_job_def,
                    requests=requests,
                    log_level="DEBUG" if reporter.debug else "CRITICAL",
                    connection=connection,
                    progress=step,
                )

        try:
            try:
                outcome = make()
            except AtdmError as error:
                if not access.initialised_on_first_use(settings, reporter, connection, error):
                    raise
                outcome = make()
        except DagsterExecutionInterruptedError as error:
            raise KeyboardInterrupt from error
    if outcome.error is not None:
        raise_failure(outcome.error)
    return outcome


def raise_failure(error: AtdmError) -> NoReturn:
    """Raise the error of a failed run. Dagster records Ctrl-C as one: KeyboardInterrupt again."""
    if DagsterExecutionInterruptedError.__name__ in error.message:
        raise KeyboardInterrupt from error
    raise error
