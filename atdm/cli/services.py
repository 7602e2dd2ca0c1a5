"""``atdm up``, ``down`` and ``status``: what runs on this machine for this home."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atdm_assets.instance.environment import audit_pages, dagster_environment
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.local import dagster_http as web
from atdm_resources.local import postgres_server, processes
from atdm_resources.local.processes import AUDIT, DAEMON, HOST, WEBSERVER
from atdm_resources.settings import Settings
from atdm_services.health import report as health
from atdm_services.target import access

if TYPE_CHECKING:
    from atdm.cli.output import Output

DEFAULT_PORT = 3000
AUDIT_PORT = 3080
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
    environment = {**dagster_environment(settings, output)}
    with access.connected(settings, output) as connection:
        access.initialise(settings, output, connection)

    workspace = home / "run" / "workspace.yaml"
    workspace.parent.mkdir(parents=True, exist_ok=True)
    workspace.write_text(_WORKSPACE, encoding="utf-8")
    with _ports_to_ourselves():
        started = []
        if not processes.running(home, AUDIT):
            _start_audit_pages(home)
            started.append(AUDIT)
        environment |= audit_pages(home)
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
        stopped += [
            name for name in (DAEMON, WEBSERVER, AUDIT) if processes.stop(settings.home, name)
        ]
        if postgres_server.running_url(settings.home):
            postgres_server.stop(settings.home)
            stopped.append("postgresql")
    output.emit(
        {"stopped": stopped},
        lambda: f"stopped {', '.join(stopped)}" if stopped else "nothing was running",
    )
    return 0


def status(output: Output) -> int:
    """Report; exit status 1 with what to do when something that is needed is missing."""
    report = health.report(Settings.from_environment())
    output.emit(report, lambda: _shown_status(report))
    return 0 if report["ok"] else 1


def _shown_status(report: dict[str, Any]) -> list[Any]:
    from atdm.cli.output import table

    database, store = report["database"], report["store"]
    reachable = "reachable" if database["reachable"] else "not reachable"
    lines = [
        ("database", reachable, database.get("url", "embedded")),
        ("catalog", *_shown_catalog(database)),
        ("store", _shown_store(store), store["url"]),
        (WEBSERVER, _shown_process(report[WEBSERVER]), report[WEBSERVER].get("url", "")),
        (DAEMON, _shown_process(report[DAEMON]), _shown_heartbeats(report[DAEMON])),
        (AUDIT, _shown_process(report[AUDIT]), report[AUDIT].get("url", "")),
        *_shown_instigators(report[DAEMON]),
        *_shown_work(database.get("work")),
        *_shown_pools(database),
    ]
    for item in database.get("baselines", []):
        what = f"{item['domain']}/{item['baseline_id']}"
        lines.append(("baseline", f"{health.age(item['age'])} old", f"{what}, {item['kind']}"))
    clones = database.get("clones")
    if clones:
        lines.append(("clones", ", ".join(f"{n} {status}" for status, n in clones.items()), ""))
    parts: list[Any] = [table(None, ("part", "state", "detail"), lines)]
    parts += [f"problem: {problem}" for problem in report["problems"]] or ["all well"]
    return parts


def _shown_store(store: dict[str, Any]) -> str:
    if store.get("usable") is None:
        return str(store.get("note", "no answer")).partition(":")[0]
    return "usable" if store["usable"] else "not usable"


def _shown_catalog(database: dict[str, Any]) -> tuple[str, str]:
    if not database["reachable"]:
        return "-", ""
    if "revision" not in database:
        hidden = "summary" in database.get("unreadable", [])
        return ("not readable", "this role may lease and give back") if hidden else ("missing", "")
    detail = f"{len(database.get('scenarios', []))} scenarios"
    if database.get("unreadable"):
        detail += f"; this role may not read {', '.join(database['unreadable'])}"
    return f"revision {database['revision']}", f"{detail}; {database['version']}"


def _shown_process(shown: dict[str, Any]) -> str:
    if shown["running"]:
        return f"running, pid {shown['pid']}"
    return "running elsewhere" if health.alive(shown) else "not running"


def _shown_heartbeats(daemon: dict[str, Any]) -> str:
    beats = daemon.get("heartbeats")
    if not beats:
        return "no sign of life yet" if daemon["running"] else ""
    return f"last sign of life {health.age(min(beats.values()))} ago"


def _shown_instigators(daemon: dict[str, Any]) -> list[tuple[str, str, str]]:
    """A line for sensors and schedules that tick and are well together, one for each other."""
    lines, well = [], []
    for item in daemon.get("instigators", []):
        ticked = f"last tick {item['tick'] or '-'}"
        if item["tick_age"] is not None:
            ticked += f" {health.age(item['tick_age'])} ago"
        if item["status"] == "running" and item["tick"] != "failure":
            well.append(item)
            continue
        detail = f"{ticked}; {item['error']}" if item["error"] else ticked
        lines.append((f"{item['kind']} {item['name']}", item["status"], detail))
    for kind in ("sensor", "schedule"):
        ages = {item["name"]: item["tick_age"] for item in well if item["kind"] == kind}
        if ages:
            named = ", ".join(
                f"{name} {'not yet' if age is None else health.age(age)}"
                for name, age in ages.items()
            )
            lines.append((f"{kind}s", f"{len(ages)} running", f"last ticks: {named}"))
    return sorted(lines, key=lambda line: line[0])


def _shown_work(work: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    if work is None:
        return []
    age = health.age

    def with_age(count: int, seconds: float | None, what: str) -> str:
        return f"{what} {age(seconds)}" if count else ""

    late = f"; {work['overdue']} past their time" if work["overdue"] else ""
    dead = f"{work['dead']} left by processes that are gone" if work["dead"] else ""
    return [
        (
            "leases",
            f"{work['leased']} out",
            with_age(work["leased"], work["oldest_lease"], "the oldest for") + late,
        ),
        (
            "queue",
            f"{work['waiting']} waiting, {work['launched']} being made",
            with_age(work["waiting"], work["oldest_waiting"], "the oldest for"),
        ),
        ("requests", f"{work['pending']} pending", dead),
        (
            "audit trail",
            f"{health.counted(work['unsealed'])} unsealed",
            with_age(work["unsealed"], work["oldest_unsealed"], "the oldest for"),
        ),
    ]


def _shown_pools(database: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Pools, and the other scenarios that have runs."""
    lines = []
    pools = {(pool["domain"], pool["scenario_id"]): pool for pool in database.get("pools", [])}
    counts = {(row["domain"], row["scenario_id"]): row for row in database.get("scenarios", [])}
    for key, pool in pools.items():
        state = f"{pool['ready']} of {pool['size']} ready"
        notes = ["being filled"] if pool["filling"] else ["below half"] if pool["low"] else []
        if pool["failures"]:
            notes.append(f"{pool['failures']} attempts failed")
        if key in counts and counts[key]["leased"]:
            notes.append(f"{counts[key]['leased']} leased")
        lines.append((f"pool {'/'.join(key)}", state, ", ".join(notes)))
    for key, row in counts.items():
        if key not in pools and (row["ready"] or row["leased"]):
            lines.append(
                ("runs of " + "/".join(key), f"{row['ready']} ready", f"{row['leased']} leased")
            )
    return lines


def _start_audit_pages(home: Path) -> None:
    """On its own port where that is free, so that links last; else on any."""
    port = _free_port(None, AUDIT_PORT)
    command = [_tool("atdm"), "audit-serve", "--port", str(port)]
    environment = {**os.environ, "ATDM_HOME": str(home)}
    processes.start(home, AUDIT, command, environment=environment, port=port)
    deadline = time.monotonic() + _ANSWER_SECONDS
    while processes.running(home, AUDIT) and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise _died(home, AUDIT)


@contextmanager
def _ports_to_ourselves() -> Iterator[None]:
    """Nobody else's `atdm up` takes a port between our finding it free and our listening there."""
    path = Path(tempfile.gettempdir()) / f"atdm-ports-{os.getuid()}.lock"
    with path.open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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


def _free_port(wanted: int | None, otherwise: int = DEFAULT_PORT) -> int:
    """The port asked for, which must be free; else the default, else any free one."""
    for port in [wanted] if wanted is not None else [otherwise, 0]:
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
            raise AtdmError(
                ErrorCode.SPEC_INVALID, health.not_loaded(errors), {"locations": errors}
            )
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


def _died(home: Path, name: str) -> AtdmError:
    return AtdmError(
        ErrorCode.TARGET_UNREACHABLE,
        f"the {name} ended while starting; its log is {home}/log/{name}.log",
        {"log": processes.log_tail(home, name)},
    )
