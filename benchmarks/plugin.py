"""What data costs a test: the pytest plugin, factory_boy with SQLAlchemy, a cloned database.

One pytest session on one server runs five kinds of tests in turn, so that all see the same machine;
each test reads the member it was given. Shown is what pytest itself measured: set-up, body and
tear-down, and how much of it is set-up and tear-down alone.

- ``atdm_data``: a run leased from a warm pool, reset afterwards
- the same two calls by a plain fixture
- factory_boy + SQLAlchemy: the same five rows made, committed, and deleted again
- a database cloned from a template for each test: CREATE DATABASE TEMPLATE, DROP DATABASE
- ``atdm_data`` with ``isolation="database"``: the same, with catalog, lease and journal

Run: ``python benchmarks/plugin.py [--tests N]``. Target: p50 of the first under 5 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _database import initialised_database, latency_line, percentile, shipped_registry
from _loading import seed_runs

from atdm_resources.postgres.connection import connect

SCENARIO = "active_member_clean"
WARM_UP = 3
TARGET_SECONDS = 0.005

SUITE = '''
import os, uuid
import factory, psycopg, pytest
from psycopg import sql
from sqlalchemy import MetaData, create_engine
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import Session
from urllib.parse import urlsplit, urlunsplit
from atdm.pytest import atdm_scenario

URL = os.environ["ATDM_DATABASE_URL"]
TEMPLATE = os.environ["BENCH_TEMPLATE"]
ORDER = ("plan", "provider", "member", "eligibility", "claim")

def sibling(database):
    return urlunsplit(urlsplit(URL)._replace(path=f"/{database}"))

@pytest.fixture(scope="session")
def reader():
    with psycopg.connect(URL, autocommit=True) as conn:
        yield conn

def read(conn, member_id):
    found = conn.execute("SELECT * FROM healthcare.member WHERE member_id = %s", (member_id,))
    assert found.fetchone()

@pytest.fixture(scope="session")
def sample(atdm_client):
    """The rows of one run: what the factories make has the same values."""
    from atdm_resources.catalog.suites import records_of_run
    run = atdm_client.request_scenario("active_member_clean")
    with psycopg.connect(URL, autocommit=True) as conn:
        rows = records_of_run(conn, run["domain"], run["test_run_id"])
    atdm_client.reset_run(run["test_run_id"], run["cleanup"]["cleanup_token"])
    return run["test_run_id"], rows

@pytest.fixture(scope="session")
def factories(sample):
    engine = create_engine(URL.replace("postgresql://", "postgresql+psycopg://"))
    metadata = MetaData()
    metadata.reflect(engine, schema="healthcare")
    base = automap_base(metadata=metadata)
    base.prepare(name_for_scalar_relationship=lambda base, near, far, key: f"{far.__name__}_row")
    session = Session(engine, expire_on_commit=False)
    run, rows = sample
    made = {}
    for table in ORDER:
        model = base.classes[table]
        key = next(iter(model.__table__.primary_key)).name
        values = {name: value for name, value in rows[table][0].items() if name != "test_run_id"}
        values[key] = factory.LazyFunction(lambda table=table: f"{table}-{uuid.uuid4()}")
        meta = type("Meta", (), {"model": model, "sqlalchemy_session": session,
                                 "sqlalchemy_session_persistence": "flush"})
        parent = factory.alchemy.SQLAlchemyModelFactory
        made[table] = type(table, (parent,), {**values, "Meta": meta})
    yield session, made
    session.close()
    engine.dispose()

@pytest.fixture
def made_rows(factories):
    session, make = factories
    plan, provider = make["plan"](), make["provider"]()
    member = make["member"](**given(make["member"], plan=plan))
    parents = {"plan": plan, "provider": provider, "member": member}
    rows = [plan, provider, member]
    rows += [make[name](**given(make[name], **parents)) for name in ("eligibility", "claim")]
    session.commit()
    yield member
    for row in reversed(rows):
        session.delete(row)
    session.commit()

def given(maker, **parents):
    columns = maker._meta.model.__table__.columns
    return {f"{name}_id": getattr(row, f"{name}_id")
            for name, row in parents.items() if f"{name}_id" in columns}

@pytest.fixture
def cloned(reader):
    name = f"bench_{uuid.uuid4().hex[:12]}"
    reader.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
        sql.Identifier(name), sql.Identifier(TEMPLATE)))
    with psycopg.connect(sibling(name), autocommit=True) as conn:
        yield conn
    reader.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))

@pytest.fixture
def bare(reader):
    from atdm_resources.catalog import leases
    lease = leases.lease(reader, None, "active_member_clean", owner="bench")
    yield lease
    leases.reset_run(reader, lease["test_run_id"], lease["token"])

def test_bare(bare, reader, turn):
    read(reader, bare["data"]["member_id"])

@atdm_scenario("active_member_clean")
def test_atdm(atdm_data, reader, turn):
    read(reader, atdm_data["data"]["member_id"])

def test_factory(made_rows, reader, turn):
    read(reader, made_rows.member_id)

def test_clone(cloned, turn):
    member, = cloned.execute("SELECT member_id FROM healthcare.member LIMIT 1").fetchone()
    read(cloned, member)

@atdm_scenario("active_member_clean", isolation="database")
def test_own_database(atdm_data, turn):
    with psycopg.connect(atdm_data["database_url"], autocommit=True) as conn:
        read(conn, atdm_data["data"]["member_id"])
'''

CONFTEST = """
import json, os

KINDS = ("test_atdm", "test_bare", "test_factory", "test_clone", "test_own_database")
TURNS, FEW = int(os.environ["BENCH_TESTS"]), int(os.environ["BENCH_FEW"])
seconds = {}

def pytest_generate_tests(metafunc):
    whole_database = metafunc.function.__name__ in ("test_clone", "test_own_database")
    metafunc.parametrize("turn", range(FEW if whole_database else TURNS))

def pytest_collection_modifyitems(items):
    # In turn: whatever else the machine does falls on all alike.
    items.sort(key=lambda item: (item.callspec.params["turn"], KINDS.index(item.originalname)))

def pytest_runtest_logreport(report):
    name, _, rest = report.nodeid.partition("::")[2].partition("[")
    phases = seconds.setdefault(name, {}).setdefault(int(rest.rstrip("]")), {})
    assert not report.failed, report.longreprtext
    phases[report.when] = report.duration

def pytest_sessionfinish():
    with open("seconds.json", "w") as file:
        json.dump(seconds, file)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server to use; default: an embedded one")
    parser.add_argument("--tests", type=int, default=200, help="tests of each kind")
    parser.add_argument("--databases", type=int, default=20, help="tests with a whole database")
    asked = parser.parse_args()
    registry = shipped_registry()
    with (
        initialised_database(registry, asked.url) as url,
        tempfile.TemporaryDirectory(prefix="atdm-bench-suite-") as folder,
        connect(url) as conn,
    ):
        seed_runs(conn, registry, SCENARIO, 1, Path(folder))
        template = f"bench_template_{os.getpid()}"
        database = conn.info.dbname
        # A copy of a target with rows, made before the pool is filled: as small as it can be.
        with connect(url.replace(database, "postgres")) as admin:
            conn.close()
            admin.execute(f'CREATE DATABASE "{template}" TEMPLATE "{database}"')
            with connect(url) as again:
                seed_runs(again, registry, SCENARIO, 2 * (asked.tests + WARM_UP) + 1, Path(folder))
            try:
                seconds = measured(url, template, Path(folder), asked.tests, asked.databases)
            finally:
                admin.execute(f'DROP DATABASE "{template}"')
    report(seconds)


def measured(
    url: str, template: str, folder: Path, tests: int, databases: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds by kind of test, turn and phase."""
    (folder / "test_bench.py").write_text(SUITE, encoding="utf-8")
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_bench.py"],
        cwd=folder,
        env={
            **os.environ,
            "ATDM_DATABASE_URL": url,
            "ATDM_HOME": str(folder / "home"),
            "ATDM_INVOKER": "human:benchmark",
            "BENCH_TEMPLATE": template,
            "BENCH_TESTS": str(tests + WARM_UP),
            "BENCH_FEW": str(databases + WARM_UP),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    found: dict[str, dict[str, dict[str, float]]] = json.loads(
        (folder / "seconds.json").read_text(encoding="utf-8")
    )
    return found


def report(seconds: dict[str, dict[str, dict[str, float]]]) -> None:
    """Both sides and their ratio, by kind; the plugin's row is 1."""
    overhead = {
        kind: sorted(
            phases["setup"] + phases["teardown"]
            for turn, phases in turns.items()
            if int(turn) >= WARM_UP
        )
        for kind, turns in seconds.items()
    }
    own = percentile(overhead["test_atdm"], 0.5)
    names = {
        "test_atdm": "atdm_data: lease and reset",
        "test_bare": "the same two calls, without the plugin",
        "test_factory": "factory_boy + SQLAlchemy: 5 rows made and deleted",
        "test_clone": "CREATE DATABASE TEMPLATE, DROP DATABASE",
        "test_own_database": "atdm_data, isolation='database'",
    }
    print("set-up and tear-down of a test")
    for kind, name in names.items():
        print(latency_line(f"  {name}", overhead[kind], own))
    met = "met" if own <= TARGET_SECONDS else "missed"
    print(
        f"p50 of lease and reset: {own * 1000:.2f} ms (target {TARGET_SECONDS * 1000:g} ms: {met})"
    )
    clone = percentile(overhead["test_clone"], 0.5)
    ratio = percentile(overhead["test_own_database"], 0.5) / clone
    print(f"a database of the test's own over a bare clone: {ratio:.2f} x")


if __name__ == "__main__":
    main()
