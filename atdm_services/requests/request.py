"""Requests: what a caller wants, and the answer: leased test runs, made where none are ready."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.random.run_ids import ENTROPY_BYTES, new_request_id, run_id
from atdm_engine.values.scalars import json_value
from atdm_resources.catalog import leases
from atdm_services.extras import load_registry
from atdm_services.leases import answer
from atdm_services.leases.fixtures import write_fixtures
from atdm_services.target import access

if TYPE_CHECKING:
    import psycopg

    from atdm_engine.bundle.registry import Registry
    from atdm_engine.generation.request import RequestSpec
    from atdm_engine.model import Scenario
    from atdm_resources.settings import Settings
    from atdm_services.progress import Reporter

MADE_WHEN = frozenset({ErrorCode.NONE_READY, ErrorCode.SCENARIO_NOT_FOUND})
"""Refusals of a lease after which making may succeed: a scenario file can be newer than what is
published."""


def mint_request_id() -> str:
    """A new request id: the time of now and fresh random bytes."""
    return new_request_id(datetime.now(UTC), secrets.token_bytes(ENTROPY_BYTES))


@dataclass(frozen=True, slots=True)
class DataRequest:
    """Test data that a caller wants.

    ``constraints`` may be texts: the scenario types them. ``pooled`` runs may be leased by anybody,
    others by the request's id only. None: the recorded value when the label exists already, else
    1 run, pooled, seed and clock of the request's id.
    """

    scenario: str
    _: KW_ONLY
    constraints: Mapping[str, Any] = field(default_factory=dict)
    runs: int | None = None
    seed: int | None = None
    as_of: datetime | None = None
    label: str | None = None
    pooled: bool | None = None
    invoker: str | None = None
    source: str = "dagster"
    reason: str | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether the data has a seed or a clock of its own."""
        return self.seed is not None or self.as_of is not None

    def resolve(self, registry: Registry, request_id: str) -> RequestSpec:
        """The new request with this id, resolved against the specification files.

        Raises:
            AtdmError: SCENARIO_NOT_FOUND, CONSTRAINT_INVALID, CONSTRAINT_CONTRADICTION,
                REQUEST_INVALID.
        """
        # A lease needs no generation plan, nor what it loads.
        from atdm_engine.generation.request import resolve

        return resolve(
            *registry.find(self.scenario),
            self.constraints,
            runs=1 if self.runs is None else self.runs,
            seed=self.seed,
            as_of=self.as_of,
            request_id=request_id,
        )

    def config(self) -> dict[str, Any]:
        """The config of Dagster's job ``request_data`` for it; what is None is left out."""
        values = {
            "scenario": self.scenario,
            "constraints": {name: json_value(value) for name, value in self.constraints.items()},
            "runs": self.runs,
            "seed": self.seed,
            "as_of": self.as_of.isoformat() if self.as_of else None,
            "label": self.label,
            "pooled": self.pooled,
            "reason": self.reason,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class LeaseRequest(DataRequest):
    """Test data that a caller wants to lease; ``pooled`` runs are left ready for others instead.

    ``owner`` None means the invoker, ``ttl`` None the scenario's own.
    """

    _: KW_ONLY
    invoker: str
    runs: int = 1
    pooled: bool = False
    ttl: timedelta | None = None
    owner: str | None = None
    owner_secret: str | None = field(default=None, repr=False)

    @property
    def may_come_from_a_pool(self) -> bool:
        """Whether runs that were made for another request would do."""
        return not (self.pooled or self.is_pinned or self.label is not None)

    def lease_options(self) -> dict[str, Any]:
        """The keyword arguments of ``leases.lease`` and ``leases.lease_request``."""
        return {
            "owner": self.owner or self.invoker,
            "ttl": self.ttl,
            "owner_secret": self.owner_secret,
            "invoker": self.invoker,
            "source": self.source,
        }


@dataclass(frozen=True)
class Outcome:
    """How making a request ended.

    ``status`` is ``ready``, ``rejected`` (as its scenario declares) or the status of a request that
    failed, with ``error``.
    """

    request_id: str
    partition_key: str
    scenario: Scenario
    status: str
    dagster_run_id: str
    error: AtdmError | None = None

    @property
    def succeeded(self) -> bool:
        return self.error is None


Make: TypeAlias = "Callable[[Settings, Reporter, psycopg.Connection[Any], LeaseRequest], Outcome]"
"""Makes the runs of a request. Raises AtdmError, MISSING_EXTRA where only a client is installed."""


def request_data(
    settings: Settings,
    reporter: Reporter,
    connection: psycopg.Connection[Any],
    request: LeaseRequest,
    make: Make,
) -> dict[str, Any]:
    """The answer to a request, in the shape of the contract: leased, else made and leased.

    Raises:
        AtdmError: LLM_MODE_NOT_ENABLED, SCENARIO_NOT_FOUND, CONSTRAINT_INVALID,
            CONSTRAINT_CONTRADICTION, VALIDATOR_REJECTED, SEED_FAILED, BUSY, MISSING_EXTRA, ...
    """
    refuse_language_model(settings)
    refused: AtdmError | None = None
    if request.may_come_from_a_pool:
        try:
            return from_pool(connection, request)
        except AtdmError as error:
            if error.code not in MADE_WHEN and not access.initialised_on_first_use(
                settings, reporter, connection, error
            ):
                raise
            refused = error
    try:
        if refused is not None and refused.code is ErrorCode.SCENARIO_NOT_FOUND:
            # A name that is in no file either is refused before Dagster loads.
            load_registry(settings).scenario(request.scenario)
        outcome = make(settings, reporter, connection, request)
    except AtdmError as error:
        if refused is not None and error.code is ErrorCode.MISSING_EXTRA:
            # A client alone cannot make anything: the target's refusal is the better answer.
            refused.details["hint"] = error.message
            raise refused from error
        raise
    domain, scenario = outcome.scenario.domain, outcome.scenario.name
    if outcome.status == "rejected":
        violates = outcome.scenario.spec.violates
        return rejected_as_expected(outcome.request_id, domain, scenario, violates)
    if request.pooled:
        return left_ready(outcome.request_id, domain, scenario, request.runs)
    return of_request(connection, outcome.request_id, request)


def from_pool(connection: psycopg.Connection[Any], request: LeaseRequest) -> dict[str, Any]:
    """As many ready runs as are wanted, leased; all of them or none and NONE_READY."""
    arguments, options = pool_call(request)
    with connection.transaction():
        return answer_to(
            request,
            [leases.lease(connection, *arguments, **options) for _ in range(request.runs)],
        )


def pool_call(request: LeaseRequest) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of ``leases.lease`` for one of the runs."""
    domain, _, name = request.scenario.rpartition("/")
    return (domain or None, name, request.constraints), request.lease_options()


def of_request(
    connection: psycopg.Connection[Any], request_id: str, request: LeaseRequest
) -> dict[str, Any]:
    """The runs that were made for the request, leased."""
    options = request.lease_options()
    made = leases.lease_request(connection, request_id, count=request.runs, **options)
    return answer_to(request, made)


def answer_to(request: LeaseRequest, leased: list[leases.Lease]) -> dict[str, Any]:
    """The leased runs, in the shape of the contract."""
    runs = [answer.leased(lease) for lease in leased]
    return runs[0] if request.runs == 1 else answer.several(runs)


def refuse_language_model(settings: Settings) -> None:
    """Raise LLM_MODE_NOT_ENABLED for ATDM_PLANNER=llm, before any look-up (A-PLN-02)."""
    if settings.planner == "llm":
        raise AtdmError(
            ErrorCode.LLM_MODE_NOT_ENABLED,
            "ATDM_PLANNER=llm: planning by a language model is not enabled",
            {"planner": "llm"},
        )


def rejected_as_expected(
    request_id: str, domain: str, scenario: str, violates: Sequence[str]
) -> dict[str, Any]:
    """The answer to a scenario that declares which rules it breaks, and broke exactly those."""
    return {
        "request_id": request_id,
        "test_run_id": None,
        "scenario_id": scenario,
        "domain": domain,
        "status": "rejected",
        "expected": True,
        "violates": list(violates),
        "data": {},
        "fixtures": {"playwright": None, "pytest": None},
        "cleanup": None,
    }


def left_ready(request_id: str, domain: str, scenario: str, runs: int) -> dict[str, Any]:
    """The answer when runs were made for others to lease."""
    return {
        "request_id": request_id,
        "scenario_id": scenario,
        "domain": domain,
        "status": "ready",
        "leased": False,
        "ready_runs": runs,
        "first_test_run_id": run_id(request_id, 1),
        "last_test_run_id": run_id(request_id, runs),
    }


def emit_fixtures(
    settings: Settings,
    connection: psycopg.Connection[Any],
    answered: dict[str, Any],
    *,
    playwright: bool,
    pytest: bool,
    source: str,
) -> None:
    """Write the fixture files of every leased run in ``answered``, name them there, record them.

    When a file cannot be written the runs are reset before the error is raised: their tokens would
    be lost.
    """
    runs = [run for run in answered.get("runs", [answered]) if run["cleanup"] is not None]
    who = {"invoker": settings.invoker, "source": source}
    try:
        for run in runs:
            run["fixtures"] = write_fixtures(
                run, settings.fixture_dir, playwright=playwright, pytest=pytest
            )
            token = run["cleanup"]["cleanup_token"]
            leases.record_fixtures(connection, run["test_run_id"], token, run["fixtures"], **who)
    except BaseException:
        for run in runs:
            token = run["cleanup"]["cleanup_token"]
            leases.reset_run(connection, run["test_run_id"], token, **who)
        raise
