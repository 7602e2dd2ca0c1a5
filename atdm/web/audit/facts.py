"""The facts of the audit page, read at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from atdm.in_dagster import read_run
from atdm_services.audit.report import dagster_record

if TYPE_CHECKING:
    import psycopg

    from atdm_resources.settings import Settings

MOST_EVENTS = 40
MOST_RUNS = 24
MOST_KEYS = 24
MOST_OTHERS = 12
MOST_TESTS = 30
_LIVING = ("pending", "ready", "retired")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """The facts about a request, or about one run of it.

    ``request`` is its row of the catalog, ``run`` the run's (None: the page is about the request).
    ``making`` are the request's own events, ``first`` and ``last`` the ends of the whole trail,
    ``totals`` its counts by action. ``in_target`` has the numbers of rows by table at ``read_at``.
    Lists are bounded; counts are complete.
    """

    request: Row
    run: Row | None
    scenario: Row | None
    making: Sequence[Row]
    first: Sequence[Row]
    last: Sequence[Row]
    totals: Sequence[Row]
    run_counts: Mapping[str, int]
    runs: Sequence[Row]
    resets: Sequence[Row]
    fixtures: Sequence[Row]
    domain_events: Sequence[Row]
    queued: Row
    in_target: Mapping[str, Row]
    seal: Row
    dagster: Row
    database: str
    version: str
    read_at: datetime
    outcomes: Sequence[Row] = field(default_factory=tuple)
    outcome_counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The id that the page is about."""
        return str(self.run["test_run_id"] if self.run else self.request["request_id"])


def gather(settings: Settings, connection: psycopg.Connection[Any], name: str) -> Facts:
    """Read the facts about a run id, a request id or a label, from one state of the catalog.

    Raises:
        AtdmError: RUN_NOT_FOUND with similar names.
    """
    from dataclasses import asdict

    from atdm_resources.catalog import requests, trail
    from atdm_resources.catalog import runs as reports
    from atdm_resources.catalog.rows import one_state

    with connection.transaction():
        one_state(connection)
        request_id, test_run_id = reports.find(connection, name)
        request = asdict(requests.get_request(connection, request_id))
        subject = trail.Subject(request_id, test_run_id)
        first, last = trail.events(connection, subject, MOST_EVENTS)
        state = trail.run_state(connection, subject)
        making = trail.making_events(connection, subject)
        tested, tests = trail.outcomes(connection, subject, MOST_TESTS)
        facts = Facts(
            request=request,
            run=None if test_run_id is None else reports.run(connection, test_run_id),
            scenario=trail.published(
                connection,
                request["domain"],
                request["scenario_id"],
                request["scenario_version"],
            ),
            making=making,
            first=first,
            last=last,
            totals=trail.totals(connection, subject),
            run_counts=state["counts"],
            runs=trail.runs(connection, subject, MOST_RUNS),
            resets=trail.resets(connection, subject, MOST_OTHERS),
            fixtures=trail.fixtures(connection, subject, MOST_OTHERS),
            domain_events=trail.domain_events(
                connection,
                request["domain"],
                request["created_at"],
                state["ended_at"] or _end(request),
                MOST_OTHERS + 1,
            ),
            queued=trail.queued_at(connection, request_id),
            in_target=trail.rows_in_target(
                connection, subject, request["domain"], _tables(request, making), MOST_KEYS
            ),
            seal=trail.seal_state(connection, subject),
            dagster={},
            database=connection.info.dbname,
            version=version("atdm"),
            read_at=datetime.now(UTC),
            outcomes=tested,
            outcome_counts=tests,
        )
    # Dagster's storage is another database: no transaction of the catalog stays open meanwhile.
    return _with(facts, dagster=dagster_record(settings, request, read_run))


def _tables(request: Row, making: Sequence[Row]) -> list[str]:
    """The loaded tables; if none was loaded, those of the plan."""
    planned = [
        str(step.get("generator"))
        for event in making
        if event["action"] == "plan_resolved"
        for step in event["outputs"].get("steps", ())
    ]
    return list(dict.fromkeys([*planned, *request["tables"]]))


def _end(request: Row) -> datetime | None:
    """When a request without runs ended; None while it is in progress."""
    ended: datetime | None = request["finished_at"]
    return None if request["status"] in _LIVING else ended


def _with(facts: Facts, **changed: Any) -> Facts:
    from dataclasses import replace

    return replace(facts, **changed)
