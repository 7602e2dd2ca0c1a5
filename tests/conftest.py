"""PostgreSQL for every test that needs it: one server a session, a database of its own a test.

All pytest-xdist workers share one embedded server, which the controlling process stops at the end.
ATDM_TEST_DATABASE_URL names another server to use (a database its user may connect to, and the
right to create databases).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from psycopg import sql

from atdm_resources.local import postgres_server
from atdm_resources.postgres.connection import connect

if TYPE_CHECKING:
    from atdm_engine.bundle.registry import Registry

_HOME_VARIABLE = "ATDM_TEST_SESSION_HOME"
_PREFIX = "atdm-tests-"
HOME_PREFIX = "atdm-home-"
"""Of the homes of single tests; then the process and a random part. The home is ``home`` in it."""
_GROUP = re.compile(r"""xdist_group\("([^"]+)"\)""")
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 4 * 1024**3
"""What must be free before databases are kept in memory; a whole session needs about a quarter."""


def pytest_configure(config: pytest.Config) -> None:
    """Choose the session's folder. Workers inherit it through the environment."""
    # A worker of pytest-xdist is told the width of a terminal that none of its children has.
    os.environ.pop("COLUMNS", None)
    if hasattr(config, "workerinput") or _HOME_VARIABLE in os.environ:
        return
    _remove_leftovers()
    # Short, because a socket's path may have 107 characters; readable by the server's own user.
    home = _place_for_servers() / f"{_PREFIX}{os.getpid()}"
    home.mkdir(mode=0o755)
    os.environ[_HOME_VARIABLE] = str(home)
    config.add_cleanup(lambda: _remove(home))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one xdist group stay on one worker; so do those of one module of ``integration``.

    pytest-xdist 3.8 writes the group into a node's id, which pytest 9.2 no longer reads: without
    this, every test is dealt out alone and what a module shares is made once for every worker.
    https://github.com/pytest-dev/pytest-xdist/issues/1386
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    groups = {}
    for path in config.rootpath.glob("tests/**/test_*.py"):
        if found := _GROUP.search(path.read_text(encoding="utf-8")):
            groups[path.relative_to(config.rootpath).as_posix()] = found[1]

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            alone = module if module.startswith("tests/integration/") else nodeid
            return groups.get(module, alone)

    # In the order of the files: the long tests first, the many short ones fill up the end.
    config.option.loadscopereorder = False
    return ByGroup(config, log)


def _place_for_servers() -> Path:
    """A file system in memory where there is one with enough room, else the temporary folder.

    Every test has a database of its own: about three hundred files that are made and removed. On a
    disk that takes several times as long as what most tests do with them.
    """
    try:
        shared = os.statvfs(_MEMORY)
        free = shared.f_bavail * shared.f_frsize
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (available,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        return Path(tempfile.gettempdir())
    roomy = min(free, int(available) * 1024) >= _MEMORY_BYTES and os.access(_MEMORY, os.W_OK)
    return _MEMORY if roomy else Path(tempfile.gettempdir())


def _remove_leftovers() -> None:
    """Stop the servers of sessions that were killed, and free the memory that they fill."""
    if not Path("/proc").exists():
        return
    for folder in (_MEMORY, Path(tempfile.gettempdir())):
        for left in (*folder.glob(f"{_PREFIX}*"), *folder.glob(f"{HOME_PREFIX}*-*")):
            owner = left.name.removeprefix(_PREFIX).removeprefix(HOME_PREFIX).partition("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                postgres_server.stop(left / "home")
                _remove(left)


def _remove(home: Path) -> None:
    postgres_server.stop(home)
    shutil.rmtree(home, ignore_errors=True)
    if os.environ.get(_HOME_VARIABLE) == str(home):
        del os.environ[_HOME_VARIABLE]


def session_folder() -> Path:
    """A folder that all workers of this test session share."""
    return Path(os.environ[_HOME_VARIABLE])


@pytest.fixture(scope="session")
def session_home() -> Path:
    """The session's folder, where the server that all tests share lives."""
    return session_folder()


@pytest.fixture(scope="session")
def postgres_server_url(session_home: Path) -> str:
    """The URL of a database on the session's server from which others can be made."""
    given = os.environ.get("ATDM_TEST_DATABASE_URL")
    return given or postgres_server.start(session_home, "postgres")


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The registry of the shipped specification files."""
    from atdm_engine.bundle.registry import Registry
    from atdm_resources.store.bundle import read_bundle, shipped_root

    return Registry.build(read_bundle([shipped_root()]))


@pytest.fixture
def empty_database(postgres_server_url: str) -> Iterator[str]:
    """The URL of a new, empty database."""
    with new_database(postgres_server_url) as url:
        yield url


@pytest.fixture(scope="session")
def target_template(postgres_server_url: str, session_home: Path, registry: Registry) -> str:
    """The name of a database that is initialised with the shipped domains, to be copied from."""
    from atdm_services.target.init import initialise

    name = f"t_template_{session_home.name.rpartition('-')[2]}"
    with (session_home / "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with connect(postgres_server_url) as admin:
            there = admin.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if there is None:
                admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
                with connect(with_database(postgres_server_url, name)) as conn:
                    initialise(conn, registry)
    return name


@pytest.fixture
def target(postgres_server_url: str, target_template: str) -> Iterator[str]:
    """The URL of a new database that is initialised with the shipped domains."""
    with new_database(postgres_server_url, template=target_template) as url:
        with connect(url) as conn:
            # The mark names the database it was made for; a copy has to be marked itself.
            conn.execute("UPDATE atdm.target SET database_name = current_database()")
        yield url


@pytest.fixture(scope="session", autouse=True)
def _drop_template(request: pytest.FixtureRequest, session_home: Path) -> Iterator[None]:
    """On a server that outlives the session, leave nothing behind."""
    yield
    given = os.environ.get("ATDM_TEST_DATABASE_URL")
    if given and not hasattr(request.config, "workerinput"):
        name = f"t_template_{session_home.name.rpartition('-')[2]}"
        with connect(given) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def with_database(url: str, database: str) -> str:
    """``url`` with another database."""
    parts = urlsplit(url)
    # urlunsplit drops the empty authority of socket URLs unless there is a user in it.
    return urlunsplit(parts._replace(path=f"/{database}"))


@contextmanager
def new_database(server: str, template: str | None = None) -> Iterator[str]:
    """The URL of a new database on a server, dropped at the end."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if template is not None:
        create += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    with connect(server) as admin:
        admin.execute(create)
    try:
        yield with_database(server, name)
    finally:
        with connect(server) as admin:
            admin.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )
