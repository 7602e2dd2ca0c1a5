"""``atdm up``, ``down`` and ``env``: what runs on this machine for this home."""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from atdm.cli.output import Output
from atdm.cli.target import connected
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.local import processes
from atdm_resources.local.processes import AUDIT, DAEMON, HOST, WEBSERVER
from atdm_resources.settings import Settings

DEFAULT_PORT = 3000
AUDIT_PORT = 3080
_ANSWER_SECONDS = 90.0
_WORKSPACE = """\
load_from:
  - python_module:
      module_name: atdm_assets.definitions
      location_name: atdm
"""
"""The project's workspace.yaml, which an installed package does not have. Dagster remembers sensors
and schedules by the name of their location."""


def up(
    output: Output,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Of the web page; default 3000 or a free one."),
    ] = None,
) -> None:
    """Start PostgreSQL, the Dagster web page and the daemon, on this machine alone.

    Example: atdm up --port 3000
    """
    from atdm_assets.instance.environment import audit_pages, dagster_environment
    from atdm_services.target import access

    settings = Settings.from_environment()
    home = settings.home
    environment = {**dagster_environment(settings, output)}
    with connected(output) as (_, connection):
        access.initialise(settings, output, connection)

    workspace = home / "run" / "workspace.yaml"
    workspace.parent.mkdir(parents=True, exist_ok=True)
    workspace.write_text(_WORKSPACE, encoding="utf-8")
    with _ports_locked():
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
        raise _ended(home, DAEMON)
    output.emit(
        {"url": url, "started": started, "webserver": webserver.pid, "daemon": daemon.pid},
        lambda: f"{'up' if started else 'already up'}: {url}",
    )


def down(output: Output) -> None:
    """Stop what `atdm up` started, and the embedded PostgreSQL.

    Example: atdm down
    """
    from atdm_resources.local import postgres_server

    home = Settings.from_environment().home
    with output.working("stopping"):
        stopped = [name for name in (DAEMON, WEBSERVER, AUDIT) if processes.stop(home, name)]
        if postgres_server.running_url(home):
            postgres_server.stop(home)
            stopped.append("postgresql")
    output.emit(
        {"stopped": stopped},
        lambda: f"stopped {', '.join(stopped)}" if stopped else "nothing was running",
    )


def env(output: Output) -> None:
    """Print the exports that plain `dagster` and `dg` commands need: eval "$(atdm env)".

    Example: eval "$(atdm env)"
    """
    from atdm_assets.instance.environment import dagster_exports

    exports = dagster_exports(Settings.from_environment(), output)
    output.emit(
        exports,
        lambda: "\n".join(
            f"export {name}={shlex.quote(value)}" for name, value in sorted(exports.items())
        ),
    )


def _start_audit_pages(home: Path) -> None:
    """Serve them on their own port, so that links last; on any other where that one is taken."""
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
    raise _ended(home, AUDIT)


@contextmanager
def _ports_locked() -> Iterator[None]:
    """Keeps another `atdm up` from taking a port that was found free, until a process listens."""
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
    """The port that is wanted, which must be free; else the default, else any free one."""
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
    from atdm_resources.local import dagster_http
    from atdm_services.health import report

    deadline = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < deadline:
        errors = dagster_http.load_errors(url)
        if errors:
            raise AtdmError(
                ErrorCode.SPEC_INVALID, report.not_loaded(errors), {"locations": errors}
            )
        if errors is not None:
            return
        if processes.running(home, WEBSERVER) is None:
            raise _ended(home, WEBSERVER)
        time.sleep(0.25)
    raise AtdmError(
        ErrorCode.TARGET_UNREACHABLE,
        f"the web page does not answer at {url} after {_ANSWER_SECONDS:.0f} s",
        {"url": url, "log": processes.log_tail(home, WEBSERVER)},
    )


def _ended(home: Path, name: str) -> AtdmError:
    return AtdmError(
        ErrorCode.TARGET_UNREACHABLE,
        f"the {name} ended while starting; its log is {home}/log/{name}.log",
        {"log": processes.log_tail(home, name)},
    )
