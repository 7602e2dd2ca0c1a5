"""The check ``idempotent_seed`` of a domain's test runs: materialising a request twice."""

# No postponed annotations here: Dagster reads those of configs and resources as classes.

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import dagster as dg
import psycopg
from pydantic import Field

from atdm_assets import names
from atdm_assets.requests.resource import RequestsResource
from atdm_assets.resources import TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import ContentHash, combined
from atdm_engine.model import Scenario
from atdm_engine.random.run_ids import run_id
from atdm_resources.catalog import reclaim
from atdm_resources.catalog import requests as catalog
from atdm_resources.postgres import run_rows
from atdm_resources.settings import Settings
from atdm_services.requests.request import DataRequest, mint_request_id

CHECK = "idempotent_seed"
SOURCE = "check"
REASON = f"check {CHECK}"
RUNS = 2


class TwiceConfig(dg.Config):
    """The request that is materialised twice."""

    request_id: str | None = Field(
        None,
        description="A ready request without leased runs. Default: a new one of two runs, which "
        "are reset afterwards.",
    )
    scenario: str | None = Field(
        None, description="Scenario of the new request; default: the domain's first one."
    )


@dataclass(frozen=True)
class Twice:
    """Content hashes of a request's rows after the first and the second materialisation.

    ``in_target`` is computed from the rows in the database, ``recorded`` is in the catalog.
    """

    request_id: str
    scenario: str
    rows: int
    in_target: tuple[str, str]
    recorded: tuple[str, str]

    @property
    def same(self) -> bool:
        return len({*self.in_target, *self.recorded}) == 1


def idempotent_seed_check(registry: Registry, domain: str) -> dg.AssetChecksDefinition:
    """The check, run on demand: makes a request, or takes a ready one, and makes it again."""

    @dg.asset_check(
        asset=names.test_runs_key(domain),
        name=CHECK,
        description="Materialising a request a second time leaves the same rows in the target. "
        "Makes a request of its own and resets it, unless one is named.",
        blocking=False,
    )
    def idempotent_seed(
        context: dg.AssetCheckExecutionContext,
        config: TwiceConfig,
        target: TargetResource,
        requests: RequestsResource,
    ) -> dg.AssetCheckResult:
        try:
            with target.connection() as conn:
                found = materialised_twice(
                    conn,
                    requests,
                    registry,
                    domain,
                    scenario=config.scenario,
                    request_id=config.request_id,
                )
        except Exception as error:
            # A check never raises: any error is a failed result.
            code = str(error.code) if isinstance(error, AtdmError) else type(error).__name__
            return dg.AssetCheckResult(
                passed=False, metadata={"error": str(error), "error_code": code}
            )
        return dg.AssetCheckResult(
            passed=found.same,
            metadata={
                "request_id": found.request_id,
                "scenario": found.scenario,
                "rows": found.rows,
                "first": found.in_target[0],
                "second": found.in_target[1],
                "recorded": dg.MetadataValue.json(list(found.recorded)),
            },
        )

    return idempotent_seed


def materialised_twice(
    conn: psycopg.Connection[Any],
    requests: RequestsResource,
    registry: Registry,
    domain: str,
    *,
    scenario: str | None = None,
    request_id: str | None = None,
) -> Twice:
    """Materialise a recorded request again and compare; a new one where none is named.

    Raises:
        AtdmError: RUN_NOT_FOUND, SCENARIO_NOT_FOUND; REQUEST_INVALID for a request of another
            domain or one that is not ready; REQUEST_CONFLICT when runs of it are leased; those of
            the steps of a request.
    """
    if request_id is None:
        chosen = registry.scenario(scenario) if scenario else _first_of(registry, domain)
        request_id = mint_request_id()
        new = DataRequest(chosen.key, runs=RUNS, pooled=False, source=SOURCE, reason=REASON)
        try:
            _materialise(conn, requests, registry, request_id, new)
            return _again(conn, requests, registry, chosen, request_id)
        finally:
            reclaim.reclaim_runs(
                conn,
                [run_id(request_id, number) for number in range(1, RUNS + 1)],
                strategy=CHECK,
                invoker=Settings.from_environment().invoker,
                source=SOURCE,
            )
    record = catalog.get_request(conn, request_id)
    if record.domain != domain or record.status != "ready":
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"request {request_id} of {record.domain} is {record.status}; a ready one of {domain} "
            "can be materialised again",
            {"request_id": request_id, "status": record.status, "domain": record.domain},
        )
    chosen = registry.scenario(f"{record.domain}/{record.scenario_id}")
    return _again(conn, requests, registry, chosen, request_id)


def _again(
    conn: psycopg.Connection[Any],
    requests: RequestsResource,
    registry: Registry,
    scenario: Scenario,
    request_id: str,
) -> Twice:
    before = _state(conn, registry, scenario, request_id)
    replay = DataRequest(scenario.key, source=SOURCE, reason=REASON)
    _materialise(conn, requests, registry, request_id, replay)
    after = _state(conn, registry, scenario, request_id)
    return Twice(
        request_id,
        scenario.key,
        after[2],
        in_target=(before[0], after[0]),
        recorded=(before[1], after[1]),
    )


def _materialise(
    conn: psycopg.Connection[Any],
    requests: RequestsResource,
    registry: Registry,
    request_id: str,
    request: DataRequest,
) -> None:
    """Take the steps of a request, as its graph does; a recorded request is replayed."""
    scenario = registry.scenario(request.scenario)
    with closing(
        requests.new_execution(registry, scenario, request_id, connection=conn)
    ) as execution:
        execution.plan(request)
        checked = execution.generate()
        if not checked.verdict.accepted:
            raise checked.rejection()
        execution.load()


def _state(
    conn: psycopg.Connection[Any], registry: Registry, scenario: Scenario, request_id: str
) -> tuple[str, str, int]:
    """The hash of a request's rows in the target, the recorded hash, and the number of rows."""
    record = catalog.get_request(conn, request_id)
    domain = registry.domains[scenario.domain]
    hashes = {}
    count = 0
    for table in scenario.tables:
        digest = ContentHash(domain, table, request_id, record.number_base)
        for rows in run_rows.rows_of_request(
            conn, domain.name, table, domain.tables[table], request_id
        ):
            digest.add(rows)
            count += len(rows)
        hashes[table] = digest.hexdigest()
    return combined(hashes), str(record.content_hash), count


def _first_of(registry: Registry, domain: str) -> Scenario:
    """The first scenario of a domain whose data can be loaded."""
    for _, scenario in sorted(registry.domains[domain].scenarios.items()):
        if not scenario.spec.violates:
            return scenario
    raise AtdmError(
        ErrorCode.REQUEST_INVALID,
        f"domain {domain} has no scenario whose data can be loaded",
        {"domain": domain},
    )
