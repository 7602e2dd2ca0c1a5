"""Making what a session lacks, in a process of its own: ``python -m atdm.pytest.maker``.

A process of its own, so that no test runs in one that has loaded Dagster; it ends when it is done,
so that nothing stays.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from atdm.cli.arguments import moment_of
from atdm_engine.errors import AtdmError
from atdm_resources.catalog import leases
from atdm_resources.settings import Settings
from atdm_services.clones import lease, scenario_copies
from atdm_services.extras import load_registry
from atdm_services.progress import Silent
from atdm_services.requests.request import LeaseRequest
from atdm_services.target import access

TEMPLATE_TTL = timedelta(hours=12)


def main() -> int:
    """Make what stdin asks for, in order; a failure of one does not stop the others."""
    answers = sys.stdout
    # Whatever else is printed in this process is no answer.
    sys.stdout = sys.stderr

    def tell(said: Mapping[str, Any]) -> None:
        print(json.dumps(said, default=str), file=answers, flush=True)

    settings = Settings.from_environment()
    for number, asked in enumerate(json.load(sys.stdin)):
        tell({"number": number, "started": True})
        begun = time.perf_counter()
        try:
            made = _made(settings, asked)
        except AtdmError as error:
            made = error.envelope()
        except Exception as error:  # tell it, and go on with the next one
            made = {"error": {"code": "UNEXPECTED", "message": f"{type(error).__name__}: {error}"}}
        tell({"number": number, **made, "seconds": time.perf_counter() - begun})
    return 0


def _made(settings: Settings, asked: Mapping[str, Any]) -> dict[str, Any]:
    # Known from the files alone: a misspelt name need not wait for Dagster to load.
    scenario = load_registry(settings).scenario(asked["scenario"])
    wish = LeaseRequest(
        scenario=scenario.key,
        constraints=asked["constraints"],
        runs=asked["runs"],
        seed=asked["seed"],
        as_of=None if asked["as_of"] is None else moment_of(asked["as_of"]),
        label=asked["label"],
        # Pinned data is for the test that pinned it; anybody may lease the rest.
        lease=asked["reserved"],
        reason=asked["reason"],
        source="pytest",
    )
    if asked["database"]:
        return _template(settings, wish, scenario.domain, asked)
    with access.connected(settings, Silent()) as conn:
        return _told(_materialised(settings, conn, wish))


def _template(
    settings: Settings, wish: LeaseRequest, domain: str, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """A database that holds one leased run, closed so that it can be copied."""
    url = access.database_url(settings, Silent())
    with access.connected(settings, Silent()) as conn:
        clone = lease.lease_clone(
            conn, url, domain=domain, baseline=asked["baseline"] or lease.EMPTY,
            database=asked["database"], owner=asked["owner"], ttl=TEMPLATE_TTL, source="pytest",
            settings=settings,
        )  # fmt: skip
        within = replace(settings, database_url=clone.url)
        with access.connected(within, Silent()) as inside:
            outcome = _materialised(within, inside, replace(wish, lease=True, label=None))
            told = _told(outcome)
            if told["status"] == "ready":
                leased = leases.lease_request(
                    inside, outcome.request_id, owner=asked["owner"], ttl=TEMPLATE_TTL, count=1
                )
                told["lease"] = leased[0]
        scenario_copies.close_to_others(conn, clone.database)
    return told


def _materialised(settings: Settings, conn: Any, wish: LeaseRequest) -> Any:
    from atdm_assets.requests import in_process

    return in_process.materialise(settings, Silent(), conn, wish)


def _told(outcome: Any) -> dict[str, Any]:
    return {"status": outcome.status, "request_id": outcome.request_id}


if __name__ == "__main__":
    sys.exit(main())
