"""Making a test run again under its old id: here, in another database, or from a file.

Light: the modules that generate data are imported when it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres import target
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.locks import RequestLock
from atdm_services.extras import load_registry, server_part
from atdm_services.leases.answer import leased
from atdm_services.replay.request import ReplayRequest
from atdm_services.requests.request import rejected_as_expected
from atdm_services.target import access

if TYPE_CHECKING:
    import psycopg

    from atdm_engine.generation.request import RequestSpec
    from atdm_engine.replay.regeneration import Judgement
    from atdm_engine.replay.spec import ReplaySpec
    from atdm_resources.settings import Settings
    from atdm_services.progress import Reporter

PROVED_RUNS = 100_000
"""Requests of at most so many runs are made again as a whole to compare their hash, by default."""

_MOST_BYTES = 1_000_000


def replay_spec(connection: psycopg.Connection[Any], run: str) -> ReplaySpec:
    """The recorded specification of a run. Raises AtdmError as ``load.recorded`` does."""
    with server_part("making a test run again"):
        from atdm_services.replay import load
    return load.recorded(connection, run)


def replay(settings: Settings, reporter: Reporter, request: ReplayRequest) -> dict[str, Any]:
    """Make a run again; returns the answer to a request, with what was compared in ``replay``.

    The answer for a run of a rejected request is rejected again, without rows.

    Raises:
        AtdmError: RUN_NOT_FOUND; REQUEST_CONFLICT while the run's rows are there, and naming what
            changed since; VALIDATOR_REJECTED; TARGET_NOT_DISPOSABLE, TARGET_NOT_INITIALISED,
            TARGET_DRIFT, TARGET_UNREACHABLE for the database that it goes into; SEED_FAILED; BUSY.
    """
    with server_part("making a test run again"):
        from atdm_engine.replay import regeneration
        from atdm_services.replay import load

    original, origin = _original(settings, reporter, request)
    spec = regeneration.recorded_request(load_registry(settings), original)
    with reporter.working(f"making {original.test_run_id} again") as step:
        if original.rejected:
            return _rejected_again(original, spec, regeneration.judge_request(spec, step))
        url = request.into or access.database_url(settings, reporter)
        with closing(_opened(url, settings, reporter, given=bool(request.into))) as connection:
            load.refuse_while_there(connection, original.test_run_id)
            proved = request.prove
            if proved is None:
                proved = original.runs <= PROVED_RUNS
            if proved:
                regeneration.prove(original, spec, step)
            made = regeneration.regenerate_run(spec, original.run_number)
            judged = regeneration.judge_run(made)
            if not judged.verdict.accepted:
                raise _rejection(original, judged)
            with RequestLock(url, original.domain, original.request_id):
                done = load.load_run(
                    connection,
                    original,
                    made,
                    request,
                    invoker=settings.invoker,
                    origin=origin,
                    proved=proved,
                )
            database = str(connection.info.dbname)
    answer = leased(done.lease)
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
    settings: Settings, reporter: Reporter, request: ReplayRequest
) -> tuple[ReplaySpec, str]:
    """The specification, and where it was found."""
    from atdm_engine.replay.spec import read_replay_spec

    file, run = request.spec, request.run
    if file is None:
        with access.connected(settings, reporter) as connection:
            return replay_spec(connection, str(run)), f"database {connection.info.dbname}"
    original = read_replay_spec(_text(file), str(file))
    if run is not None and run != original.test_run_id:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"{file} is about test run {original.test_run_id}, not {run}",
            {"file": str(file), "test_run_id": original.test_run_id},
        )
    return original, f"file {file.name}"


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


def _opened(
    url: str, settings: Settings, reporter: Reporter, *, given: bool
) -> psycopg.Connection[Any]:
    """The database that the run goes into; an empty one is set up first."""
    connection = connect(url, application_name="atdm replay")
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


def _rejection(original: ReplaySpec, judged: Judgement) -> AtdmError:
    from atdm_engine.checks.results import failed_checks

    return AtdmError(
        ErrorCode.VALIDATOR_REJECTED,
        f"test run {original.test_run_id} is rejected: {', '.join(judged.verdict.failed)}",
        {"test_run_id": original.test_run_id, "failed": failed_checks(judged.outcomes)},
    )


def _rejected_again(original: ReplaySpec, spec: RequestSpec, judged: Judgement) -> dict[str, Any]:
    """The answer for a rejected request, which has to be rejected again."""
    if judged.verdict.expected_violation:
        answer: Mapping[str, Any] = rejected_as_expected(
            original.request_id,
            original.domain,
            original.scenario_id,
            spec.scenario.spec.violates,
        )
        return {**answer, "replay": {"failed": list(judged.verdict.failed)}}
    if judged.verdict.failed:
        raise _rejection(original, judged)
    raise AtdmError(
        ErrorCode.REQUEST_CONFLICT,
        f"request {original.request_id} was rejected, and its rows pass every check of now: the"
        " rules have changed since; there never was a test run of it",
        {"request_id": original.request_id},
    )
