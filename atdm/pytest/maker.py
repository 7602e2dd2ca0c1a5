"""The process that makes the runs a session lacks: ``python -m atdm.pytest.maker``.

A separate process, so that no test runs in a process that has loaded Dagster.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from atdm_engine.errors import AtdmError
from atdm_resources.catalog import leases
from atdm_resources.catalog.clones import EMPTY
from atdm_resources.postgres import databases
from atdm_resources.settings import Settings
from atdm_services.arguments import parse_time
from atdm_services.clones.lease import lease_clone
from atdm_services.extras import load_registry
from atdm_services.progress import Silent
from atdm_services.requests.request import LeaseRequest
from atdm_services.target import access

TEMPLATE_TTL = timedelta(hours=12)


def main() -> int:
    """Make the runs that stdin orders, in order. A failed order does not stop the others."""
    answers = sys.stdout
    # Everything else that this process prints goes to stderr.
    sys.stdout = sys.stderr

    def tell(answer: Mapping[str, Any]) -> None:
        print(json.dumps(answer, default=str), file=answers, flush=True)

    settings = Settings.from_environment()
    for number, order in enumerate(json.load(sys.stdin)):
        tell({"number": number, "started": True})
        begun = time.perf_counter()
        try:
            made = _made(settings, order)
        except AtdmError as error:
            made = error.envelope()
        except Exception as error:  # reported; the next order is made
            made = {"error": {"code": "UNEXPECTED", "message": f"{type(error).__name__}: {error}"}}
        tell({"number": number, **made, "seconds": time.perf_counter() - begun})
    return 0


def _made(settings: Settings, order: Mapping[str, Any]) -> dict[str, Any]:
    # A misspelt name is found in the files, before Dagster is loaded.
    scenario = load_registry(settings).scenario(order["scenario"])
    request = LeaseRequest(
        scenario=scenario.key,
        constraints=order["constraints"],
        runs=order["runs"],
        seed=order["seed"],
        as_of=None if order["as_of"] is None else parse_time(order["as_of"]),
        label=order["label"],
        # Pinned data is for the test that pinned it; the rest goes into the pool.
        pooled=not order["reserved"],
        invoker=settings.invoker,
        reason=order["reason"],
        source="pytest",
    )
    if order["database"]:
        return _template(settings, request, scenario.domain, order)
    with access.connected(settings, Silent()) as conn:
        return _answer(_materialised(settings, conn, request))


def _template(
    settings: Settings, request: LeaseRequest, domain: str, order: Mapping[str, Any]
) -> dict[str, Any]:
    """A template database with one leased run, closed to connections so that it can be copied."""
    url = access.database_url(settings, Silent())
    with access.connected(settings, Silent()) as conn:
        clone = lease_clone(
            conn, url, domain=domain, baseline=order["baseline"] or EMPTY,
            database=order["database"], owner=order["owner"], ttl=TEMPLATE_TTL, source="pytest",
            settings=settings,
        )  # fmt: skip
        within = replace(settings, database_url=clone.url)
        with access.connected(within, Silent()) as inside:
            outcome = _materialised(within, inside, replace(request, pooled=False, label=None))
            answer = _answer(outcome)
            if answer["status"] == "ready":
                leased = leases.lease_request(
                    inside, outcome.request_id, owner=order["owner"], ttl=TEMPLATE_TTL, count=1
                )
                answer["lease"] = leased[0]
        databases.close(conn, clone.database)
    return answer


def _materialised(settings: Settings, conn: Any, request: LeaseRequest) -> Any:
    from atdm_assets.in_process import requests

    return requests.materialise(settings, Silent(), conn, request)


def _answer(outcome: Any) -> dict[str, Any]:
    return {"status": outcome.status, "request_id": outcome.request_id}


if __name__ == "__main__":
    sys.exit(main())
