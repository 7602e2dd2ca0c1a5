"""The health of an installation: what is there, what is wrong, and what to do about it.

A part that cannot be read reports its error; the other parts are still reported.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.local import dagster_http as web
from atdm_resources.local import postgres_server, processes
from atdm_resources.local.processes import AUDIT, DAEMON, HOST, WEBSERVER
from atdm_resources.postgres.connection import connect
from atdm_resources.telemetry.redaction import known_secrets, redact_text, redact_url

if TYPE_CHECKING:
    import psycopg

    from atdm_resources.catalog.health import DagsterState, PoolState, Work
    from atdm_resources.settings import Settings

Read = tuple[dict[str, Any], list[str]]
"""The state of a part, and its problems."""

PART_SECONDS: Final = 10
"""Seconds to wait for a part."""
CONNECT_SECONDS: Final = 3
STATEMENT_MILLISECONDS: Final = 5_000
STALE_SECONDS: Final = 180
"""A daemon writes a heartbeat every 30 seconds, unless an iteration takes longer."""
STARTING_SECONDS: Final = 90
WAITING_SECONDS: Final = 300
OVERDUE_SECONDS: Final = 300
UNSEALED_SECONDS: Final = 900
"""Seconds that the daemon may be late with its work before it is a problem."""
FAILING_SECONDS: Final = {"sensor": 600, "schedule": 90_000}
"""Seconds that a failed tick counts: a failing sensor goes on ticking, a removed one does not."""

_CHECK_STORE: Final = "check ATDM_STORE_URL, its permissions and the space left"
_UNREAD: Final = {
    "unreadable": ("InsufficientPrivilege",),
    "outdated": ("UndefinedTable", "UndefinedColumn", "UndefinedFunction"),
    "slow": ("QueryCanceled",),
}
"""Why a part of the catalog could not be read, by the error of the database."""


def report(settings: Settings) -> dict[str, Any]:
    """The report of ``atdm status``: parts by name, ``problems`` (texts), ``ok``.

    Never raises for a missing or broken part.
    """
    problems: list[str] = []
    secrets = known_secrets()
    found: dict[str, Any] = {"home": str(settings.home)}
    # The parts wait for different things: a database, a disk or an object store, two servers.
    parts = [
        _Part("database", lambda: _database(settings), {"reachable": False}),
        _Part("store", lambda: _store(settings), {"url": redact_url(settings.store_url)}),
        _Part(WEBSERVER, lambda: _webserver(settings), {"running": True}),
        _Part(DAEMON, lambda: _dagster(settings), {"running": True}),
    ]
    deadline = time.monotonic() + PART_SECONDS
    for part in parts:
        found[part.name], said = part.result(deadline)
        problems += said
    found[AUDIT] = _audit_pages(settings)
    expected = {name: found[name]["running"] for name in (WEBSERVER, DAEMON, AUDIT)}
    if any(expected.values()):
        missing = [name for name, running in expected.items() if not running]
        problems += [f"the {name} does not run: `atdm up`" for name in missing]
    problems += _late(found)
    found["problems"] = [redact_text(problem, secrets) for problem in problems]
    found["ok"] = not problems
    return found


class _Part(threading.Thread):
    """A part of the report, read in a thread, with a deadline."""

    def __init__(self, name: str, read: Callable[[], Read], otherwise: dict[str, Any]) -> None:
        super().__init__(name=name, daemon=True)
        self._read = read
        self._otherwise = otherwise
        self._found: Read | None = None
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._found = self._read()
        except Exception as error:
            self._error = error  # raised by result()

    def result(self, deadline: float) -> Read:
        self.join(max(0.0, deadline - time.monotonic()))
        if self._error is not None:
            raise self._error
        if self._found is None:
            late = f"the {self.name} did not answer within {PART_SECONDS} s"
            return {**self._otherwise, "error": "TIMEOUT"}, [late]
        return self._found


def alive(daemon: dict[str, Any]) -> bool:
    """Whether a daemon, on any machine, has written a heartbeat recently."""
    beats = daemon.get("heartbeats", {})
    return bool(beats) and min(beats.values()) < STALE_SECONDS


# --- the database ------------------------------------------------------------------------------


def _database(settings: Settings) -> Read:
    import psycopg

    url = settings.database_url or postgres_server.running_url(settings.home)
    shown: dict[str, Any] = {"reachable": False, "embedded": not settings.database_url}
    if url is None:
        return shown, ["PostgreSQL does not run: `atdm init` (or `atdm up`) starts it"]
    shown["url"] = redact_url(url)
    problems: list[str] = []
    try:
        with connect(url, connect_timeout=CONNECT_SECONDS) as connection:
            shown["reachable"] = True
            _read_catalog(connection, shown, problems)
    except AtdmError as error:
        from atdm_services.advice import ADVICE

        problems.append(f"{error.message} {ADVICE.get(error.code, '')}".strip())
        shown["error"] = str(error.code)
    except psycopg.Error as error:
        problems.append(f"the database was lost while it was read: {str(error).strip()}")
        shown |= {"reachable": False, "error": str(ErrorCode.TARGET_UNREACHABLE)}
    return shown, problems


def _read_catalog(
    connection: psycopg.Connection[Any], shown: dict[str, Any], problems: list[str]
) -> None:
    """The parts of the catalog, read one by one: an old catalog lacks some, a role may read few."""
    import psycopg

    from atdm_resources.catalog import health, runs

    def part(name: str, read: Callable[[], Any]) -> Any:
        try:
            with connection.transaction():
                health.limit_statements(connection, STATEMENT_MILLISECONDS)
                value = read()
        except (AtdmError, psycopg.Error) as error:
            met = error.__cause__ if isinstance(error, AtdmError) else error
            why = next((why for why, kinds in _UNREAD.items() if type(met).__name__ in kinds), None)
            if why is None or (name == "summary" and why == "outdated"):
                raise  # there is no catalog, or the connection is lost
            shown.setdefault(why, []).append(name)
            return None
        shown[name] = value
        return value

    head = part("summary", lambda: runs.summary(connection))
    shown.pop("summary", None)
    shown |= head or {}
    part("scenarios", lambda: runs.runs_by_scenario(connection))
    work: Work | None = part("work", lambda: health.work(connection))
    pools: list[PoolState] | None = part("pools", lambda: health.pool_states(connection))
    part("baselines", lambda: health.baselines(connection))
    clones = part("clones", lambda: health.clones(connection))
    if work is not None:
        shown["work"] = dataclasses.asdict(work)
        problems += _left_behind(work)
    if pools is not None:
        shown["pools"] = [{**dataclasses.asdict(pool), "low": pool.low} for pool in pools]
        problems += [_not_filled(pool) for pool in pools if pool.low and pool.failures]
    if clones and clones.get("expired"):
        problems.append(
            f"{clones['expired']} clones are past their time: `atdm baseline-clone --list` "
            "drops them"
        )
    if "outdated" in shown:
        problems.append(
            f"the catalog is at revision {shown.get('revision', '-')}, which lacks "
            f"{', '.join(shown['outdated'])}: `atdm init` brings it up to date"
        )
    if "slow" in shown:
        problems.append(
            f"the database took more than {STATEMENT_MILLISECONDS / 1000:.0f} s to count "
            f"{', '.join(shown['slow'])}: is it busy, or does it lack a VACUUM ANALYZE?"
        )
    if shown.get("disposable") is False:
        problems.append(
            f"database {shown.get('database')} is not marked disposable: "
            "`atdm init --disposable DBNAME`"
        )


def _left_behind(work: Work) -> list[str]:
    """Problems that dead processes have left."""
    problems = []
    if work.dead:
        problems.append(
            f"{work.dead} pending requests were left by dead processes: the daemon or the next "
            "`atdm request` that makes runs rolls them back"
        )
    if work.stuck:
        problems.append(
            f"{work.stuck} test runs are overdue and could not be reset: `atdm catalog runs` lists "
            "them, `atdm audit RUN` names the reason"
        )
    return problems


def _not_filled(pool: PoolState) -> str:
    wait = f", the next attempt in {age(pool.retry_in)}" if (pool.retry_in or 0) > 0 else ""
    why = f": {pool.error.splitlines()[0]}" if pool.error else ""
    return (
        f"the pool of {pool.domain}/{pool.scenario_id} has {pool.ready} of {pool.size} runs and "
        f"could not be filled, {pool.failures} times in a row{wait}{why}; "
        f"`atdm request {pool.domain}/{pool.scenario_id} --no-lease` shows the error"
    )


def _late(found: dict[str, Any]) -> list[str]:
    """Work of the daemon that is late."""
    work = found["database"].get("work")
    if work is None:
        return []
    running = alive(found[DAEMON]) or found[DAEMON]["running"]
    look = f"see {found['home']}/log/{DAEMON}.log" if running else "`atdm up` starts the daemon"
    problems = []
    if (work["oldest_waiting"] or 0) > WAITING_SECONDS:
        problems.append(
            f"{work['waiting']} submissions wait, the oldest for {age(work['oldest_waiting'])}: "
            f"{look}"
        )
    if (work["most_overdue"] or 0) > OVERDUE_SECONDS and work["overdue"] > work["stuck"]:
        problems.append(
            f"{work['overdue']} test runs are past their time, the longest by "
            f"{age(work['most_overdue'])}, and nobody has taken them back: the next lease does, "
            f"or the daemon; {look}"
        )
    if running and (work["oldest_unsealed"] or 0) > UNSEALED_SECONDS:
        problems.append(
            f"{counted(work['unsealed'])} audit events are not sealed, the oldest for "
            f"{age(work['oldest_unsealed'])}: a transaction holds them back, or audit_sensor "
            f"does not run; `atdm audit-seal` seals what can be"
        )
    return problems


# --- the store ---------------------------------------------------------------------------------


def _store(settings: Settings) -> Read:
    shown: dict[str, Any] = {"url": redact_url(settings.store_url), "usable": None}
    folder = settings.store_url.removeprefix("file://")
    if folder != settings.store_url and not os.path.exists(folder):
        # The first file makes the folder; looking at a store does not.
        above = folder
        while not os.path.exists(above):
            above = os.path.dirname(above)
        if os.path.isdir(above) and os.access(above, os.W_OK):
            return shown | {"note": "not there yet: the first file makes it"}, []
        shown |= {"usable": False, "error": str(ErrorCode.STORE_FAILED)}
        return shown, [f"the store cannot be made in {above}: {_CHECK_STORE}"]
    started = time.perf_counter()
    try:
        from atdm_resources.catalog import health
        from atdm_resources.store.files import Store

        # A short limit: this file is only a probe.
        impatient = dataclasses.replace(settings.s3, read_seconds=CONNECT_SECONDS, attempts=1)
        health.probe_store(Store(settings.store_url, s3=impatient))
    except ModuleNotFoundError as error:
        shown["note"] = f"not looked at: the server part is not installed ({error.name})"
        return shown, []
    except AtdmError as error:
        shown |= {"usable": False, "error": str(error.code)}
        return shown, [f"the store cannot be used: {error.message}; {_CHECK_STORE}"]
    shown |= {"usable": True, "seconds": round(time.perf_counter() - started, 3)}
    return shown, []


# --- the webserver -----------------------------------------------------------------------------


def _webserver(settings: Settings) -> Read:
    process = processes.running(settings.home, WEBSERVER)
    shown: dict[str, Any] = {"running": process is not None}
    if process is None:
        return shown, []
    problems = []
    shown |= {"pid": process.pid, "url": f"http://{HOST}:{process.port}"}
    shown["answers"] = web.answers(shown["url"])
    if not shown["answers"]:
        problems.append(
            f"the web page does not answer: see {settings.home}/log/{WEBSERVER}.log, "
            "then `atdm down` and `atdm up`"
        )
    elif errors := web.load_errors(shown["url"]):
        problems.append(not_loaded(errors))
    return shown, problems


def _audit_pages(settings: Settings) -> dict[str, Any]:
    process = processes.running(settings.home, AUDIT)
    if process is None:
        return {"running": False}
    return {"running": True, "pid": process.pid, "url": f"http://{HOST}:{process.port}"}


def not_loaded(errors: dict[str, str]) -> str:
    """Why Dagster has no definitions, by code location."""
    listed = "; ".join(f"{name}: {message}" for name, message in errors.items())
    return f"Dagster could not load the definitions: {listed}"


# --- the daemon --------------------------------------------------------------------------------


def _dagster(settings: Settings) -> Read:
    import psycopg

    from atdm_resources.catalog import health

    process = processes.running(settings.home, DAEMON)
    shown: dict[str, Any] = {"running": process is not None}
    if process is not None:
        shown["pid"] = process.pid
    given = settings.dagster_database_url
    url = given or postgres_server.running_url(settings.home, postgres_server.DAGSTER_DATABASE)
    if url is None:
        return shown, []
    shown["url"] = redact_url(url)
    try:
        with connect(url, connect_timeout=CONNECT_SECONDS) as connection, connection.transaction():
            health.limit_statements(connection, STATEMENT_MILLISECONDS)
            state = health.dagster_state(connection)
    except AtdmError as error:
        if not given:
            # The embedded server's database for Dagster is made when Dagster first runs.
            return shown, []
        said = error.message.replace("ATDM_DATABASE_URL", "ATDM_DAGSTER_DATABASE_URL")
        return shown | {"error": str(error.code)}, [f"Dagster's database: {said}"]
    except (psycopg.Error, ValueError, KeyError, TypeError) as error:
        # The tables are Dagster's: another version may have others.
        said = f"Dagster's tables cannot be read: {type(error).__name__}: {error}".strip()
        return shown | {"error": "UNREADABLE"}, [said]
    if state is None:
        return shown, []
    shown["heartbeats"] = {kind: round(seconds, 1) for kind, seconds in state.heartbeats.items()}
    shown["instigators"] = [dataclasses.asdict(item) for item in state.instigators]
    return shown, _of_the_daemon(settings, process is not None, state)


def _of_the_daemon(settings: Settings, local: bool, state: DagsterState) -> list[str]:
    problems = []
    stale = {kind: beat for kind, beat in state.heartbeats.items() if beat > STALE_SECONDS}
    expected = local or settings.dagster_database_url is not None
    log = f"see {settings.home}/log/{DAEMON}.log, then `atdm down` and `atdm up`"
    if expected and stale and not _starting(settings, local):
        if len(stale) == len(state.heartbeats):
            where = log if local else "start `dagster-daemon run` again"
            problems.append(
                f"the daemon has given no sign of life for {age(min(stale.values()))}: {where}"
            )
        else:
            named = ", ".join(f"{kind} for {age(beat)}" for kind, beat in stale.items())
            problems.append(f"parts of the daemon have given no sign of life: {named}; {log}")
    for kind, error in state.heartbeat_errors.items():
        if kind not in stale:
            problems.append(f"the daemon's {kind} reports: {error}")
    if len(stale) == len(state.heartbeats):
        return problems
    for item in state.instigators:
        recent = item.tick_age is not None and item.tick_age < FAILING_SECONDS[item.kind]
        if item.tick == "failure" and item.status == "running" and recent:
            problems.append(
                f"{item.kind} {item.name} fails: {item.error or 'without saying why'} "
                f"({age(item.tick_age)} ago; the web page shows the whole error)"
            )
    return problems


def _starting(settings: Settings, local: bool) -> bool:
    """Whether the daemon was started too recently to have written a heartbeat."""
    if not local:
        return False
    try:
        record = settings.home / "run" / f"{DAEMON}.json"
        return time.time() - record.stat().st_mtime < STARTING_SECONDS
    except FileNotFoundError:
        return False


# --- words -------------------------------------------------------------------------------------


def age(seconds: float | None) -> str:
    """A length of time as text, in one unit."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def counted(events: int) -> str:
    """A number of unsealed events as text; counting ends at a limit."""
    from atdm_resources.catalog.health import COUNTED_UP_TO

    return f"{events:,}" + (" or more" if events >= COUNTED_UP_TO else "")
