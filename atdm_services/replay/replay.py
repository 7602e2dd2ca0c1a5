"""Making a test run again under its old id: here, in another database, or from a file.

Light: what makes data is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres import target
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.locks import RequestLock
from atdm_services.extras import load_registry, server_part
from atdm_services.leases import answer as response
from atdm_services.requests.request import rejected_as_expected
from atdm_services.target import access

if TYPE_CHECKING:
    import psycopg

    from atdm_engine.generation.request import RequestSpec
    from atdm_engine.replay.regeneration import Judgement, RegeneratedRun
    from atdm_engine.replay.spec import ReplaySpec
    from atdm_resources.settings import Settings
    from atdm_services.progress import Reporter, Step

PROVED_RUNS = 100_000
"""Requests of at most so many runs are made again as a whole, to compare their hash."""

_MOST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """Which run is wanted again.

    ``run`` is its id (or the request of a single run), ``spec`` a file that ``--print-spec`` wrote,
    instead of it or with it. ``into`` is the URL of another database. ``prove`` None makes the
    whole request again where it is small.
    """

    run: str | None = None
    spec: Path | None = None
    into: str | None = None
    prove: bool | None = None
    owner: str | None = None
    owner_secret: str | None = field(default=None, repr=False)
    ttl: timedelta | None = None
    reason: str = ""
    source: str = "cli"


def replay_spec(connection: psycopg.Connection[Any], run: str) -> ReplaySpec:
    """What a run can be made again from. Raises AtdmError as ``atdm_services.replay.load``'s."""
    with server_part("making a test run again"):
        from atdm_services.replay import load
    return load.recorded(connection, run)


def replay(settings: Settings, reporter: Reporter, wish: ReplayRequest) -> dict[str, Any]:
    """Make a run again; the answer to a request, and ``replay``, which says what was compared.

    A scenario that is made to be rejected answers as it did: rejected, and no rows.

    Raises AtdmError: RUN_NOT_FOUND; REQUEST_CONFLICT while the run's rows are there, and naming
    what changed since; VALIDATOR_REJECTED; TARGET_NOT_DISPOSABLE, TARGET_NOT_INITIALISED,
    TARGET_DRIFT, TARGET_UNREACHABLE for the database that it goes into; SEED_FAILED; BUSY.
    """
    with server_part("making a test run again"):
        from atdm_engine.replay import regeneration
        from atdm_services.replay import load

    original, origin = _original(settings, reporter, wish)
    registry = load_registry(settings)
    request = regeneration.recorded_request(registry, original)
    with reporter.working(f"making {original.test_run_id} again") as step:
        if original.rejected:
            return _rejected_again(original, request, regeneration.judge_request(request, step))
        url = wish.into or access.database_url(settings, reporter)
        into = replace(settings, database_url=url)
        with closing(_opened(into, reporter, given=wish.into is not None)) as connection:
            load.refuse_while_there(connection, original.test_run_id)
            proved = _proved(original, request, wish.prove, step)
            made = regeneration.regenerate_run(request, original.run_number)
            _refuse_rejected(made, regeneration.judge_run(made))
            with RequestLock(url, original.domain, original.request_id):
                done = load.replay(
                    connection,
                    original,
                    made,
                    load.Replay(
                        owner=wish.owner or settings.invoker,
                        invoker=settings.invoker,
                        source=wish.source,
                        origin=origin,
                        proved=proved,
                        ttl=wish.ttl,
                        owner_secret=wish.owner_secret,
                        reason=wish.reason,
                    ),
                )
            database = str(connection.info.dbname)
    answer = response.leased(done.lease)
    answer["replay"] = {
        "database": database,
        "from": origin,
        "run_number": original.run_number,
        "content_hash": done.content_hash,
        "request_content_hash": original.content_hash,
        "request_proved": proved,
        "rows": done.rows,
    }
    return answer


def _original(
    settings: Settings, reporter: Reporter, wish: ReplayRequest
) -> tuple[ReplaySpec, str]:
    """The specification, and where it was found."""
    from atdm_engine.replay.spec import read_replay_spec

    if wish.spec is not None:
        original = read_replay_spec(_text(wish.spec), str(wish.spec))
        if wish.run is not None and wish.run != original.test_run_id:
            raise AtdmError(
                ErrorCode.REQUEST_INVALID,
                f"{wish.spec} is about test run {original.test_run_id}, not {wish.run}",
                {"file": str(wish.spec), "test_run_id": original.test_run_id},
            )
        return original, f"file {wish.spec.name}"
    with access.connected(settings, reporter) as connection:
        return replay_spec(connection, str(wish.run)), f"database {connection.info.dbname}"


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_MOST_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{path} cannot be read: {error}",
            {"file": str(path), "hint": "`atdm replay RUN --print-spec > FILE` writes one."},
        ) from error
    if len(text) > _MOST_BYTES:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{path} is no replay specification: it has more than {_MOST_BYTES:,} characters",
            {"file": str(path)},
        )
    return text


def _opened(settings: Settings, reporter: Reporter, *, given: bool) -> psycopg.Connection[Any]:
    """The database that the run goes into; set up first where it is empty."""
    connection = connect(str(settings.database_url), application_name="atdm replay")
    try:
        try:
            target.ensure_disposable(connection)
        except AtdmError as error:
            if error.code is not ErrorCode.TARGET_NOT_INITIALISED:
                raise
            reporter.note(f"database {connection.info.dbname} is not set up yet: doing that first")
            access.initialise(settings, reporter, connection)
    except AtdmError as error:
        connection.close()
        if given and error.code is ErrorCode.TARGET_NOT_DISPOSABLE:
            error.details["hint"] = (
                "`atdm init --disposable DBNAME` with that database as ATDM_DATABASE_URL marks it."
            )
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _proved(original: ReplaySpec, spec: RequestSpec, prove: bool | None, step: Step) -> bool:
    from atdm_engine.replay import regeneration

    wanted = original.runs <= PROVED_RUNS if prove is None else prove
    if wanted:
        regeneration.prove(original, spec, step)
    return wanted


def _refuse_rejected(made: RegeneratedRun, judged: Judgement) -> None:
    if not judged.verdict.accepted:
        raise _rejection(made.test_run_id, judged)


def _rejection(test_run_id: str, judged: Judgement) -> AtdmError:
    from atdm_engine.checks.results import failed_checks

    return AtdmError(
        ErrorCode.VALIDATOR_REJECTED,
        f"test run {test_run_id} is rejected: {', '.join(judged.verdict.failed)}",
        {"test_run_id": test_run_id, "failed": failed_checks(judged.outcomes)},
    )


def _rejected_again(original: ReplaySpec, spec: RequestSpec, judged: Judgement) -> dict[str, Any]:
    """The answer of a request that was rejected: it is rejected again, or that is said."""
    if judged.verdict.expected_violation:
        answer: Mapping[str, Any] = rejected_as_expected(
            original.request_id,
            original.domain,
            original.scenario_id,
            spec.scenario.spec.violates,
        )
        return {**answer, "replay": {"failed": list(judged.verdict.failed)}}
    if judged.verdict.failed:
        raise _rejection(original.test_run_id, judged)
    raise AtdmError(
        ErrorCode.REQUEST_CONFLICT,
        f"request {original.request_id} was rejected, and its rows pass every check of now: the"
        " rules have changed since; there never was a test run of it",
        {"request_id": original.request_id},
    )
