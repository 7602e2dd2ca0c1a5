"""``atdm demo``: every step once, on a real PostgreSQL."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atdm.cli.audit import event_table
from atdm.cli.output import Output, console, table
from atdm.cli.target import connected, init_text
from atdm.in_dagster import read_run
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.settings import Settings
from atdm_services.extras import load_registry, server_part

if TYPE_CHECKING:
    import psycopg
    from rich.console import Console

    from atdm_resources.catalog.requests import RequestRecord

SCENARIO = "claim_denial_active_member"
CODE_LOCATION = "atdm_assets.definitions"
EXAMPLE = "test_denied_claim.py"
REQUIRED_TRAIL = (
    "request_received",
    "plan_resolved",
    "seed_started",
    "validators_passed",
    "seed_completed",
    "catalog_recorded",
    "leased",
    "reset_started",
    "reset_completed",
)
"""What must be in the trail, in this order (requirement A-AUD-10)."""


def demo(output: Output) -> None:
    """Show all of it on a real PostgreSQL: make, check, load, lease, test, reset, audit.

    Example: atdm demo
    """
    if importlib.util.find_spec("pytest") is None:
        raise AtdmError(
            ErrorCode.MISSING_EXTRA,
            "the demonstration runs a test, and pytest is not installed: pip install pytest",
            {"module": "pytest"},
        )
    demonstration = Demonstration(Settings.from_environment(), output)
    with connected(output) as (_, connection):
        payload = demonstration.run(connection)
    if output.is_json:
        output.emit(payload)


class Demonstration:
    """The steps in order. A step raises AtdmError SEED_FAILED when its result is wrong."""

    def __init__(self, settings: Settings, output: Output) -> None:
        from atdm_assets.instance.environment import with_target

        self.output = output
        self._started = time.monotonic()
        self._step = 0
        self._console: Console = console(width=None if sys.stdout.isatty() else 120)
        if output.is_json:
            self._console.quiet = True
        self._say(
            "ATDM demonstration",
            "A test requests the data it needs, gets valid data of its own, and deletes it again.",
        )
        self._title("PostgreSQL")
        self.settings = with_target(settings, output)
        where = "named by ATDM_DATABASE_URL" if settings.database_url else "embedded"
        self._say(f"running ({where}); everything else is in {settings.home}")

    def run(self, connection: psycopg.Connection[Any]) -> dict[str, Any]:
        """Run all steps. Returns their results as JSON."""
        from atdm_assets.instance.environment import dagster_exports
        from atdm_services.audit.report import audit_trail

        self._title("atdm init: catalog, tables, reference rows, scenarios")
        self._initialise(connection)

        environment = {**os.environ, **dagster_exports(self.settings, self.output)}
        owner = f"demo-{os.getpid()}-{int(time.time())}"
        self._title(f"the main job, by plain Dagster: a request for {SCENARIO}")
        record = self._main_job(connection, environment)

        self._title("what Dagster recorded: the assets it made and the checks they passed")
        assets = self._show_record(record)

        self._title("the same rows in PostgreSQL and in Parquet")
        hashes = self._compare(connection, record)

        self._title("a real test leases the data, uses it, and gives it back by its token")
        summary = self._test(environment, owner)
        test_run = self._leased_run(connection, owner)

        self._title("the audit trail of the run")
        trail = audit_trail(self.settings, connection, test_run, read_run)
        counts = self._rows_left(connection, test_run)
        self._finish(trail, counts, summary)
        return {
            "request_id": record.request_id,
            "test_run_id": test_run,
            "assets": assets,
            "content_hashes": hashes,
            "test": summary,
            "status": trail["status"],
            "rows_left": counts,
            "events": [event["action"] for event in trail["events"]],
            "seconds": round(time.monotonic() - self._started, 1),
        }

    def _initialise(self, connection: psycopg.Connection[Any]) -> None:
        from atdm_services.target import access

        self._say(init_text(access.initialise(self.settings, self.output, connection)))

    def _main_job(
        self, connection: psycopg.Connection[Any], environment: Mapping[str, str]
    ) -> RequestRecord:
        """Execute job request_data in a process, as a user of plain Dagster does."""
        with server_part("running the main job"):
            from atdm_assets import names
        from atdm_resources.catalog import pages, requests

        config = self.settings.home / "demo" / "request.json"
        config.parent.mkdir(parents=True, exist_ok=True)
        request = {"scenario": SCENARIO, "runs": 1, "reason": "demonstration"}
        config.write_text(
            json.dumps({"ops": {names.REQUEST_STEP: {"config": request}}}) + "\n", encoding="utf-8"
        )
        newest = pages.read(
            connection, "requests", pages.Filters(scenario_id=SCENARIO), limit=1
        ).rows
        before = {row["request_id"] for row in newest}
        arguments = ["job", "execute", "-m", CODE_LOCATION, "-j", names.REQUEST_JOB, "-c"]
        command = [str(Path(sys.executable).with_name("dagster")), *arguments, str(config)]
        self._say("$ cat request.json", config.read_text(encoding="utf-8").rstrip())
        self._say(f"$ dagster {' '.join(arguments)} request.json")
        with self.output.working("running the job"):
            done = subprocess.run(
                command, env=dict(environment), capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            raise _failed(
                f"the job ended with {done.returncode}",
                {"log": (done.stdout + done.stderr).splitlines()[-30:]},
            )
        newest = pages.read(
            connection, "requests", pages.Filters(scenario_id=SCENARIO), limit=1
        ).rows
        if not newest or newest[0]["request_id"] in before:
            raise _failed("the job left no request in the catalog")
        record = requests.get_request(connection, newest[0]["request_id"])
        _expect(record.status == "ready", f"the request is {record.status}, not ready")
        self._say(
            f"request {record.request_id} is ready: {record.runs} test run, seed {record.seed},"
            f" as of {record.as_of.isoformat()}"
        )
        return record

    def _show_record(self, record: RequestRecord) -> list[dict[str, Any]]:
        found = read_run(self.settings, str(record.dagster_run_id))
        _expect(found.get("status") == "SUCCESS", f"Dagster's run is {found.get('status')}")
        made, checks = found["materialisations"], found["checks"]
        _expect(bool(checks), "no check was evaluated")
        failed = [check["validator"] for check in checks if check["decision"] != "passed"]
        _expect(not failed, f"checks failed: {failed}")
        self._console.print(
            table(
                None,
                ("asset", "rows", "content hash"),
                [(it["asset"], it.get("row_count"), it.get("content_hash")) for it in made],
            )
        )
        self._console.print(
            table(
                None,
                ("check", "on", "decision", "rows judged"),
                [(it["validator"], it["table"], it["decision"], it["judged"]) for it in checks],
            )
        )
        return list(made)

    def _compare(
        self, connection: psycopg.Connection[Any], record: RequestRecord
    ) -> dict[str, str]:
        """Hash the rows of every table twice: read from PostgreSQL and read from Parquet."""
        with server_part("comparing rows"):
            from atdm_engine.hashing.content import ContentHash
            from atdm_resources.postgres.run_rows import rows_of_request
            from atdm_resources.store.files import Store
            from atdm_resources.store.parquet import read_batches

        domain = load_registry(self.settings).domains[record.domain]
        store = Store(self.settings.store_url, s3=self.settings.s3)
        rows, hashes = [], {}
        for name, entry in record.tables.items():
            in_database = ContentHash(domain, name, record.request_id, record.number_base)
            for part in rows_of_request(
                connection, domain.name, name, domain.tables[name], record.request_id
            ):
                in_database.add(part)
            in_file = ContentHash(domain, name, record.request_id, record.number_base)
            in_file.add(_whole(read_batches(store, entry["path"])))
            found = {in_database.hexdigest(), in_file.hexdigest(), entry["content_hash"]}
            _expect(len(found) == 1, f"{name}: PostgreSQL, Parquet and catalog differ: {found}")
            _expect(in_database.rows == in_file.rows > 0, f"{name}: the row counts differ")
            rows.append((name, in_database.rows, in_file.rows, in_file.hexdigest(), "equal"))
            hashes[name] = in_file.hexdigest()
        self._console.print(
            table(None, ("table", "in PostgreSQL", "in Parquet", "content hash", ""), rows)
        )
        return hashes

    def _test(self, environment: Mapping[str, str], owner: str) -> str:
        """Run the example suite in a pytest process of its own. Returns its closing line."""
        suite = _example()
        self._say(f"$ pytest {suite.name}")
        with self.output.working("running the test"):
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", str(suite)],
                env={**environment, "ATDM_OWNER": owner},
                cwd=suite.parent,
                capture_output=True,
                text=True,
                check=False,
            )
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        self._say("\n".join(line for line in lines if "PASSED" in line or " passed" in line))
        if done.returncode != 0:
            raise _failed(
                f"the test ended with {done.returncode}",
                {"log": (done.stdout + done.stderr).splitlines()[-40:]},
            )
        summary = lines[-1].strip("= ")
        _expect("1 passed" in summary, f"pytest said: {summary}")
        return summary

    def _leased_run(self, connection: psycopg.Connection[Any], owner: str) -> str:
        from atdm_resources.catalog import pages

        found = pages.read(connection, "runs", pages.Filters(owner=owner), limit=2).rows
        _expect(len(found) == 1, f"the test leased {len(found)} runs, not one")
        _expect(found[0]["status"] == "cleaned", f"the run is {found[0]['status']}")
        return str(found[0]["test_run_id"])

    def _rows_left(self, connection: psycopg.Connection[Any], test_run: str) -> dict[str, int]:
        from atdm_resources.catalog import requests, runs
        from atdm_resources.postgres.run_rows import rows_of_run

        request = requests.get_request(connection, runs.find(connection, test_run)[0])
        domain = load_registry(self.settings).domains[request.domain]
        return {
            name: rows_of_run(connection, domain.name, name, spec, test_run).num_rows
            for name, spec in domain.tables.items()
        }

    def _finish(self, trail: Mapping[str, Any], counts: Mapping[str, int], summary: str) -> None:
        """Print the result: the test passed, the run is cleaned, the trail is in order."""
        actions = [event["action"] for event in trail["events"]]
        rest = iter(actions)
        missing = [name for name in REQUIRED_TRAIL if name not in rest]
        _expect(not missing, f"the trail lacks, or has out of order: {missing} in {actions}")
        self._console.print(event_table(trail["events"]))
        left = sum(counts.values())
        _expect(left == 0, f"rows are left: {dict(counts)}")
        _expect(trail["reset_status"] == "cleaned", f"the reset is {trail['reset_status']}")
        self._title("result")
        self._say(f"test       {summary}")
        self._say(f"test run   {trail['test_run_id']}: {trail['reset_status']}")
        each = ", ".join(f"{name} {count}" for name, count in counts.items())
        self._say(f"rows left  {left} ({each})")
        self._say(f"trail      {' > '.join(actions)}")
        self._say(f"all steps held, in {time.monotonic() - self._started:.1f} s")

    def _title(self, text: str) -> None:
        from rich.rule import Rule

        if text != "result":
            self._step += 1
            text = f"{self._step}. {text}"
        self._console.print()
        self._console.print(Rule(text, align="left"))

    def _say(self, *lines: str) -> None:
        for line in lines:
            self._console.print(line, markup=False, soft_wrap=True)


def _example() -> Path:
    """The example suite: of a checkout, else of the installed package."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "examples" / "demo", package / "demo_suite"):
        if (folder / EXAMPLE).is_file():
            return folder / EXAMPLE
    raise _failed(f"the example suite {EXAMPLE} is not installed")


def _whole(batches: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches(list(batches))


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise _failed(otherwise)


def _failed(message: str, details: Mapping[str, Any] | None = None) -> AtdmError:
    return AtdmError(ErrorCode.SEED_FAILED, f"the demonstration failed: {message}", details)
