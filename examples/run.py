"""Run both suites of the example application in a real browser, and prove that nothing is left.

    python examples/run.py [--only pytest|playwright]

A test that is skipped is a failure here: nothing was shown then.

It works in a home of its own with an embedded PostgreSQL, or in the target that ATDM_DATABASE_URL
names. It needs Chromium (CHROMIUM_PATH, else the one on the path); the Playwright suite needs npm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import psycopg
from psycopg import sql

from atdm import AtdmClient
from atdm_resources.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "examples" / "claims_app"
PACKAGE = ROOT / "packages" / "playwright"
SUITE = APP / "playwright"
BIN = Path(sys.executable).parent
STAMP = "node_modules/.installed-from"
ANSWER_SECONDS = 30.0
POOLS: tuple[tuple[str, dict[str, str]], ...] = (
    ("claim_denial_active_member", {"denial_reason": "not_covered"}),
    ("active_member_clean", {}),
)

Counts = dict[str, int]


class FailedError(Exception):
    """Why the examples do not show what they should."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the example application's suites.")
    parser.add_argument("--only", choices=["pytest", "playwright"], help="Run one of the suites.")
    only = parser.parse_args().only
    try:
        missing = missing_tools(only)
        if missing:
            raise FailedError(f"missing: {'; '.join(missing)}")
        with target() as environment, application(environment) as url:
            environment["CLAIMS_APP_URL"] = url
            show(environment, only)
    except FailedError as problem:
        print(f"examples: {problem}", file=sys.stderr)
        return 1
    return 0


def show(environment: Mapping[str, str], only: str | None) -> None:
    """Run the suites; nothing may be left of them."""
    before, began = rows(environment), latest_event(environment)
    if only != "playwright":
        run_pytest(environment)
    if only != "pytest":
        run_playwright(environment)
    after = rows(environment)
    if before != after:
        changed = {
            table: f"{before.get(table, 0)} -> {count}"
            for table, count in after.items()
            if count != before.get(table, 0)
        }
        raise FailedError(f"rows are left: {changed}")
    with psycopg.connect(environment["ATDM_DATABASE_URL"]) as conn:
        row = conn.execute(
            "SELECT (SELECT count(*) FROM atdm.test_run WHERE status = 'leased'),"
            " count(*), sum(coalesce((SELECT sum(a.value::int)"
            "  FROM jsonb_each_text(e.outputs -> 'adopted') AS a), 0))"
            " FROM atdm.audit_event AS e WHERE e.action = 'reset_completed' AND e.event_id > %s",
            (began,),
        ).fetchone()
        assert row is not None
    leased, resets, adopted = row
    if leased or not resets or not adopted:
        raise FailedError(f"{leased} runs are leased; {resets} resets, {adopted} rows adopted")
    print(
        f"examples: nothing is left: {sum(after.values())} rows in {len(after)} tables, before and "
        f"after; {resets} resets, which took {adopted} rows along that the application had written"
    )


def missing_tools(only: str | None = None) -> list[str]:
    """What has to be installed first."""
    chromium = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")
    missing = [] if chromium else ["Chromium (install it, or name it in CHROMIUM_PATH)"]
    if only != "pytest" and not (shutil.which("npm") and shutil.which("node")):
        missing.append("node and npm (20 or later)")
    return missing


@contextmanager
def target() -> Iterator[dict[str, str]]:
    """The environment of a target that is initialised and holds the application's tables."""
    with tempfile.TemporaryDirectory(prefix="atdm-examples-", ignore_cleanup_errors=True) as folder:
        # The embedded server runs as a user of its own when root starts it.
        Path(folder).chmod(0o755)
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        given = "ATDM_DATABASE_URL" in environment
        own_home = "ATDM_HOME" not in environment
        environment.setdefault("ATDM_HOME", f"{folder}/home")
        environment["ATDM_OWNER"] = "examples"
        environment["SUITE_FOLDER"] = folder
        try:
            if not given:
                run(environment, "preparing the target", BIN / "atdm", "-q", "init")
                told = run(environment, "its address", BIN / "atdm", "-o", "json", "env")
                environment["ATDM_DATABASE_URL"] = json.loads(told)["ATDM_DATABASE_URL"]
            environment["CLAIMS_APP_DATABASE_URL"] = environment["ATDM_DATABASE_URL"]
            environment["PYTHONPATH"] = str(APP)
            run(environment, "the application's migrations", BIN / "alembic", "upgrade", "head")
            yield environment
        finally:
            if own_home:
                run(environment, "stopping", BIN / "atdm", "down")


@contextmanager
def application(environment: Mapping[str, str]) -> Iterator[str]:
    """The application, running; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [BIN / "uvicorn", "claims_app.app:app", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, env=environment, cwd=APP) as process:
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            deadline = time.monotonic() + ANSWER_SECONDS
            while True:
                try:
                    opener.open(url, timeout=5).close()
                    break
                except (urllib.error.URLError, OSError) as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise FailedError(f"the application does not answer: {error}") from error
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(10)


def run_pytest(environment: Mapping[str, str]) -> None:
    """The Python suite; every test has to have run."""
    report = Path(environment["SUITE_FOLDER"]) / "pytest.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--junitxml={report}", "tests"], cwd=APP, env=environment, check=False
    )
    if done.returncode:
        raise FailedError(f"pytest ended with status {done.returncode}")
    cases = ElementTree.parse(report).findall(".//testcase")
    skipped = [
        case.get("name")
        for case in cases
        for reason in case.findall("skipped")
        if reason.get("type") != "pytest.xfail"
    ]
    if not cases or skipped:
        raise FailedError(f"pytest: {len(cases)} tests, skipped: {skipped}")


def run_playwright(environment: Mapping[str, str]) -> None:
    """The TypeScript suite; every test has to have run."""
    install(PACKAGE, environment, PACKAGE)
    install(SUITE, environment, PACKAGE, SUITE)
    run(environment, "the types of the Playwright suite", "npm", "run", "check", folder=SUITE)
    fill_pools(environment)
    report = Path(environment["SUITE_FOLDER"]) / "playwright.json"
    done = subprocess.run(
        ["npx", "playwright", "test"],
        cwd=SUITE,
        env={**environment, "CLAIMS_APP_REPORT": str(report)},
        check=False,
    )
    if done.returncode:
        raise FailedError(f"playwright ended with status {done.returncode}")
    told = json.loads(report.read_text(encoding="utf-8"))["stats"]
    if not told["expected"] or told["skipped"] or told["unexpected"] or told["flaky"]:
        raise FailedError(f"playwright: {told}")


def fill_pools(environment: Mapping[str, str]) -> None:
    """Make most of what the suite leases, at once; it has the rest made by the command."""
    with AtdmClient(settings=Settings.from_environment(environment)) as client:
        for scenario, constraints in POOLS:
            client.request_scenario(scenario, constraints, runs=4, lease=False)


def install(folder: Path, environment: Mapping[str, str], *sources: Path) -> None:
    """``npm ci``, unless what is installed was installed from the same files."""
    wanted = hashlib.sha256()
    for path in sorted(
        path
        for source in sources
        for pattern in ("package*.json", ".npmrc", "src/*.ts", "tsconfig.json")
        for path in source.glob(pattern)
    ):
        wanted.update(path.read_bytes())
    stamp = folder / STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted.hexdigest():
        return
    run(environment, f"npm ci in {folder.relative_to(ROOT)}", "npm", "ci", folder=folder)
    stamp.write_text(wanted.hexdigest(), encoding="utf-8")


def rows(environment: Mapping[str, str]) -> Counts:
    """How many rows are in each table of target and application, those of ready runs left out.

    A run that waits in the pool belongs to whoever comes next; the catalog remembers on purpose.
    """
    with psycopg.connect(environment["ATDM_DATABASE_URL"]) as conn:
        tables = conn.execute(
            "SELECT n.nspname, c.relname, EXISTS (SELECT FROM pg_attribute AS a"
            "  WHERE a.attrelid = c.oid AND a.attname = 'test_run_id')"
            " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'r' AND n.nspname NOT IN ('atdm', 'information_schema')"
            " AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1, 2"
        ).fetchall()
        counts = {}
        for schema, name, has_run in tables:
            query = sql.SQL("SELECT count(*) FROM {} AS t").format(sql.Identifier(schema, name))
            if has_run:
                query += sql.SQL(
                    " WHERE NOT EXISTS (SELECT FROM atdm.test_run AS r"
                    " WHERE r.test_run_id = t.test_run_id AND r.status = 'ready')"
                )
            row = conn.execute(query).fetchone()
            assert row is not None
            counts[f"{schema}.{name}"] = row[0]
    return counts


def latest_event(environment: Mapping[str, str]) -> int:
    """The number of the last event in the audit trail."""
    with psycopg.connect(environment["ATDM_DATABASE_URL"]) as conn:
        row = conn.execute("SELECT coalesce(max(event_id), 0) FROM atdm.audit_event").fetchone()
        assert row is not None
        return int(row[0])


def run(environment: Mapping[str, str], what: str, *command: str | Path, folder: Path = APP) -> str:
    """What a command that has to succeed printed."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FailedError(f"{what}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
