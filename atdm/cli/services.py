"""``atdm up``, ``down`` and ``status``: what runs on this machine for this home.

Belongs here: starting and stopping the web page and the daemon, and the health report. Does not
belong here: pid records (``atdm.processes``) or the embedded PostgreSQL.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atdm import processes, target_access
from atdm import webserver as web
from atdm.environment import dagster_environment
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources import embedded
from atdm_resources.settings import Settings

if TYPE_CHECKING:
    from atdm.output import Output

HOST = "127.0.0.1"
DEFAULT_PORT = 3000
WEBSERVER = "webserver"
DAEMON = "daemon"
_ANSWER_SECONDS = 90.0
_WORKSPACE = """\
load_from:
  - python_module:
      module_name: atdm_assets.definitions
      location_name: atdm
"""
"""As the project's workspace.yaml, which an installed package does not have. The location's name is
part of how Dagster remembers sensors and schedules."""


def up(output: Output, *, port: int | None) -> int:
    """Start what does not run yet; says where the web page is. Calling it again changes nothing."""
    settings = Settings.from_environment()
    home = settings.home
    environment = dagster_environment(settings, output)
    with target_access.connected(settings, output) as connection:
        target_access.initialise(settings, output, connection)

    workspace = home / "run" / "workspace.yaml"
    workspace.parent.mkdir(parents=True, exist_ok=True)
    workspace.write_text(_WORKSPACE, encoding="utf-8")
    started = []
    webserver = processes.running(home, WEBSERVER)
    if webserver is None:
        chosen = _free_port(port)
        webserver = processes.start(
            home,
            WEBSERVER,
            [_tool("dagster-webserver"), "-h", HOST, "-p", str(chosen), "-w", str(workspace)],
            environment=environment,
            port=chosen,
        )
        started.append(WEBSERVER)
    elif port is not None and port != webserver.port:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"the web page already runs on port {webserver.port}: `atdm down` first",
            {"port": webserver.port},
        )
    daemon = processes.running(home, DAEMON)
    if daemon is None:
        daemon = processes.start(
            home,
            DAEMON,
            [_tool("dagster-daemon"), "run", "-w", str(workspace)],
            environment=environment,
        )
        started.append(DAEMON)

    url = f"http://{HOST}:{webserver.port}"
    with output.working(f"waiting for {url}"):
        _wait_for_answer(home, url)
    if processes.running(home, DAEMON) is None:
        raise _died(home, DAEMON)
    output.emit(
        {"url": url, "started": started, "webserver": webserver.pid, "daemon": daemon.pid},
        lambda: f"{'up' if started else 'already up'}: {url}",
    )
    return 0


def down(output: Output) -> int:
    """Stop the processes of this home, and its PostgreSQL."""
    settings = Settings.from_environment()
    stopped = []
    with output.working("stopping"):
        stopped += [name for name in (DAEMON, WEBSERVER) if processes.stop(settings.home, name)]
        if embedded.running_url(settings.home):
            embedded.stop(settings.home)
            stopped.append("postgresql")
    output.emit(
        {"stopped": stopped},
        lambda: f"stopped {', '.join(stopped)}" if stopped else "nothing was running",
    )
    return 0


def status(output: Output) -> int:
    """Report; exit status 1 with what to do when something that is needed is missing."""
    settings = Settings.from_environment()
    problems: list[str] = []
    report: dict[str, Any] = {"home": str(settings.home)}
    report["database"] = _database(settings, problems)
    for name in (WEBSERVER, DAEMON):
        process = processes.running(settings.home, name)
        shown: dict[str, Any] = {"running": process is not None}
        if process is not None:
            shown["pid"] = process.pid
            if process.port is not None:
                shown["url"] = f"http://{HOST}:{process.port}"
                shown["answers"] = web.answers(shown["url"])
                errors = web.load_errors(shown["url"])
                if errors:
                    problems.append(_not_loaded(errors))
                if not shown["answers"]:
                    problems.append(
                        f"the web page does not answer: see {settings.home}/log/{name}.log, "
                        "then `atdm down` and `atdm up`"
                    )
        report[name] = shown
    if report[WEBSERVER]["running"] != report[DAEMON]["running"]:
        missing = DAEMON if report[WEBSERVER]["running"] else WEBSERVER
        problems.append(f"the {missing} does not run: `atdm up`")
    report["problems"] = problems
    report["ok"] = not problems
    output.emit(report, lambda: _shown_status(report))
    return 1 if problems else 0


def _database(settings: Settings, problems: list[str]) -> dict[str, Any]:
    from atdm_resources import reports
    from atdm_resources.connection import connect, masked

    url = settings.database_url or embedded.running_url(settings.home)
    if url is None:
        problems.append("PostgreSQL does not run: `atdm init` (or `atdm up`) starts it")
        return {"reachable": False, "embedded": True}
    shown: dict[str, Any] = {"reachable": False, "embedded": not settings.database_url}
    shown["url"] = masked(url)
    try:
        with connect(url) as connection:
            shown["reachable"] = True
            shown |= reports.summary(connection)
            shown["scenarios"] = reports.runs_by_scenario(connection)
    except AtdmError as error:
        from atdm.output import ADVICE

        problems.append(f"{error.message} {ADVICE.get(error.code, '')}".strip())
        shown["error"] = str(error.code)
    return shown


def _shown_status(report: dict[str, Any]) -> list[Any]:
    from atdm.output import table

    database = report["database"]
    where = database.get("url", "embedded")
    lines = [
        ("database", "reachable" if database["reachable"] else "not reachable", where),
        ("catalog", f"revision {database.get('revision', '-')}", database.get("version", "")),
    ]
    for name in (WEBSERVER, DAEMON):
        shown = report[name]
        state = f"running, pid {shown['pid']}" if shown["running"] else "not running"
        lines.append((name, state, shown.get("url", "")))
    parts: list[Any] = [table(None, ("part", "state", "where"), lines)]
    counts = database.get("scenarios", [])
    if counts:
        parts.append(
            table(
                None,
                ("scenario", "ready", "leased"),
                [(f"{c['domain']}/{c['scenario_id']}", c["ready"], c["leased"]) for c in counts],
            )
        )
    parts += [f"problem: {problem}" for problem in report["problems"]] or ["all well"]
    return parts


def _tool(name: str) -> str:
    """The console script beside this interpreter, whatever PATH says."""
    script = Path(sys.executable).with_name(name)
    if not script.exists():
        raise AtdmError(
            ErrorCode.MISSING_EXTRA,
            f"{name} is not installed: pip install 'atdm[server]'",
            {"extra": "server"},
        )
    return str(script)


def _free_port(wanted: int | None) -> int:
    """The port asked for, which must be free; else the default, else any free one."""
    for port in [wanted] if wanted is not None else [DEFAULT_PORT, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AtdmError(
        ErrorCode.REQUEST_INVALID, f"port {wanted} is taken: choose another", {"port": wanted}
    )


def _wait_for_answer(home: Path, url: str) -> None:
    deadline = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < deadline:
        errors = web.load_errors(url)
        if errors:
            raise AtdmError(ErrorCode.SPEC_INVALID, _not_loaded(errors), {"locations": errors})
        if errors is not None:
            return
        if processes.running(home, WEBSERVER) is None:
            raise _died(home, WEBSERVER)
        time.sleep(0.25)
    raise AtdmError(
        ErrorCode.TARGET_UNREACHABLE,
        f"the web page does not answer at {url} after {_ANSWER_SECONDS:.0f} s",
        {"url": url, "log": processes.log_tail(home, WEBSERVER)},
    )


def _not_loaded(errors: dict[str, str]) -> str:
    listed = "; ".join(f"{name}: {message}" for name, message in errors.items())
    return f"Dagster could not load the definitions: {listed}"


def _died(home: Path, name: str) -> AtdmError:
    return AtdmError(
        ErrorCode.TARGET_UNREACHABLE,
        f"the {name} ended while starting; its log is {home}/log/{name}.log",
        {"log": processes.log_tail(home, name)},
    )
