"""Getting test runs: lease ready ones, else have them made and lease those."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases as leasing
from atdm_services.extras import load_registry
from atdm_services.leases import answer as response
from atdm_services.leases.fixtures import write_fixtures
from atdm_services.target import access

if TYPE_CHECKING:
    import psycopg

    from atdm_engine.model import Scenario
    from atdm_resources.settings import Settings
    from atdm_services.progress import Reporter

MADE_WHEN = frozenset({ErrorCode.NONE_READY, ErrorCode.SCENARIO_NOT_FOUND})
"""What a lease may answer and making may still succeed: a scenario file can be newer than what is
published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """What somebody asks for. ``constraints`` may be text: the scenario types them.

    ``lease`` False makes the runs and leaves them ready for others. ``owner`` None means the
    invoker, ``ttl`` None the scenario's own.
    """

    scenario: str
    constraints: Mapping[str, Any] = field(default_factory=dict)
    runs: int = 1
    seed: int | None = None
    as_of: datetime | None = None
    label: str | None = None
    lease: bool = True
    ttl: timedelta | None = None
    owner: str | None = None
    owner_secret: str | None = field(default=None, repr=False)
    reason: str | None = None
    source: str = "cli"

    @property
    def may_come_from_a_pool(self) -> bool:
        """Whether runs that somebody made earlier would do."""
        return self.lease and self.seed is None and self.as_of is None and self.label is None


@dataclass(frozen=True)
class Outcome:
    """How a request ended. ``status`` is ``ready``, ``rejected`` (as its scenario declares) or the
    status of a request that failed, with ``error``.
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


def request(
    settings: Settings,
    reporter: Reporter,
    connection: psycopg.Connection[Any],
    wish: LeaseRequest,
    make: Make,
) -> dict[str, Any]:
    """The answer to a request, in the shape of the contract: leased, else made and leased.

    Raises AtdmError: LLM_MODE_NOT_ENABLED, SCENARIO_NOT_FOUND, CONSTRAINT_INVALID,
    CONSTRAINT_CONTRADICTION, VALIDATOR_REJECTED, SEED_FAILED, BUSY, MISSING_EXTRA, ...
    """
    refuse_language_model(settings)
    if wish.may_come_from_a_pool:
        try:
            return from_pool(settings, connection, wish)
        except AtdmError as error:
            if error.code not in MADE_WHEN and not access.initialised_on_first_use(
                settings, reporter, connection, error
            ):
                raise
            refused = error
        try:
            _ensure_known(settings, wish, refused)
            outcome = make(settings, reporter, connection, wish)
        except AtdmError as error:
            if error.code is ErrorCode.MISSING_EXTRA:
                # A client alone cannot make anything: what the target said is the better answer.
                refused.details["hint"] = error.message
                raise refused from error
            raise
    else:
        outcome = make(settings, reporter, connection, wish)
    if outcome.status == "rejected":
        return rejected_as_expected(
            outcome.request_id,
            outcome.scenario.domain,
            outcome.scenario.name,
            outcome.scenario.spec.violates,
        )
    if not wish.lease:
        return left_ready(
            outcome.request_id, outcome.scenario.domain, outcome.scenario.name, wish.runs
        )
    return of_request(settings, connection, outcome.request_id, wish)


def from_pool(
    settings: Settings, connection: psycopg.Connection[Any], wish: LeaseRequest
) -> dict[str, Any]:
    """As many ready runs as were asked for, or none of them and NONE_READY."""
    names, options = pool_call(settings, wish)
    # One lease commits by itself; several are leased together or not at all.
    with nullcontext() if wish.runs == 1 else connection.transaction():
        leases = [leasing.lease(connection, *names, **options) for _ in range(wish.runs)]
    return answer_to(wish, leases)


def pool_call(settings: Settings, wish: LeaseRequest) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``lease`` is called with for one of the runs."""
    domain, _, name = wish.scenario.rpartition("/")
    return (domain or None, name, wish.constraints), _lease_options(settings, wish)


def of_request(
    settings: Settings, connection: psycopg.Connection[Any], request_id: str, wish: LeaseRequest
) -> dict[str, Any]:
    """The runs that a request made for this wish, leased."""
    options = _lease_options(settings, wish)
    return answer_to(
        wish, leasing.lease_request(connection, request_id, count=wish.runs, **options)
    )


def _lease_options(settings: Settings, wish: LeaseRequest) -> dict[str, Any]:
    return {
        "owner": wish.owner or settings.invoker,
        "ttl": wish.ttl,
        "owner_secret": wish.owner_secret,
        "invoker": settings.invoker,
        "source": wish.source,
    }


def answer_to(wish: LeaseRequest, leases: list[leasing.Lease]) -> dict[str, Any]:
    """What was leased, in the shape of the contract."""
    runs = [response.leased(lease) for lease in leases]
    return runs[0] if wish.runs == 1 else response.several(runs)


def _ensure_known(settings: Settings, wish: LeaseRequest, refused: AtdmError) -> None:
    """Look a scenario that is not published up in the files, before Dagster is loaded for it."""
    if refused.code is ErrorCode.SCENARIO_NOT_FOUND:
        load_registry(settings).scenario(wish.scenario)


def refuse_language_model(settings: Settings) -> None:
    """ATDM_PLANNER=llm is refused before anything is looked up (requirement A-PLN-02)."""
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


def emit_fixtures(
    settings: Settings,
    connection: psycopg.Connection[Any],
    answer: dict[str, Any],
    *,
    playwright: bool,
    pytest: bool,
    source: str,
) -> None:
    """Write the fixture files of every leased run in ``answer``, name them there, record them.

    When a file cannot be written the runs are given back before the error is raised: nobody would
    have their tokens.
    """
    runs = [run for run in answer.get("runs", [answer]) if run["cleanup"] is not None]
    who = {"invoker": settings.invoker, "source": source}
    try:
        for run in runs:
            run["fixtures"] = write_fixtures(
                run, settings.fixture_dir, playwright=playwright, pytest=pytest
            )
            token = run["cleanup"]["cleanup_token"]
            leasing.record_fixtures(connection, run["test_run_id"], token, run["fixtures"], **who)
    except BaseException:
        for run in runs:
            leasing.reset_run(
                connection, run["test_run_id"], run["cleanup"]["cleanup_token"], **who
            )
        raise


def left_ready(request_id: str, domain: str, scenario: str, runs: int) -> dict[str, Any]:
    """The answer when runs were made for others to lease."""
    from atdm_engine.random.run_ids import run_id

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
