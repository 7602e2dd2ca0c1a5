"""The operations that are killed: what each does, its phases, and what must hold afterwards."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import psycopg

from tests.torture.children import Children, Ended
from tests.torture.marks import Mark
from tests.torture.reader import Fingerprint, Reader

DOMAIN = "healthcare"
SCENARIO = "active_member_clean"
OTHER = "claim_denial_active_member"
_EVENT = "INSERT INTO atdm.audit_event.*"


@dataclass
class World:
    """A target with runs and a baseline, and the way to run commands on it."""

    children: Children
    reader: Reader
    rng: random.Random
    runs: int
    captured: Fingerprint = field(default_factory=dict)
    number: int = 0

    def new_name(self, what: str) -> str:
        self.number += 1
        return f"{what}-{self.number:03d}"

    def command(self, *arguments: str) -> Ended:
        return self.children.run("cli", arguments)

    def must(self, *arguments: str) -> Any:
        """A command that has to work, and its answer."""
        ended = self.command(*arguments)
        if ended.status != 0:
            raise AssertionError(f"{' '.join(arguments)}: exit status {ended.status}: {ended.said}")
        return json.loads(ended.out)

    def set_up(self) -> None:
        """Ready runs, rows that belong to nobody, and a baseline of both."""
        self.must("init")
        self.must("request", SCENARIO, "--runs", str(self.runs), "--no-lease", "--id", "kept")
        self.changed_by_the_application()
        self.must("baseline-snapshot", "-b", "first")
        self.captured = self.reader.fingerprint()

    def changed_by_the_application(self) -> None:
        """Rows that bear no run's id appear, and rows of runs change."""
        self.number += 1
        with psycopg.connect(self.reader.url, application_name="torture application") as conn:
            conn.execute(
                f"INSERT INTO {DOMAIN}.plan SELECT 'app-' || %s,"
                f" name, coverage_type, effective_date, NULL FROM {DOMAIN}.plan"
                " ORDER BY plan_id LIMIT 1".encode(),
                (self.number,),
            )
            conn.execute(f"UPDATE {DOMAIN}.plan SET effective_date = effective_date - 1".encode())


def perform(operation: str, arguments: Sequence[str]) -> int:
    """In a process of its own: the operation, as its users start it."""
    if operation == "cli":
        from atdm.cli.app import app

        app(["-o", "json", *arguments], prog_name="atdm")
        return 0
    if operation == "daemon":
        return _daemon(int(arguments[0]))
    if operation == "client":
        from tests.torture import clients

        return clients.work(arguments)
    raise ValueError(operation)


def _daemon(size: int) -> int:
    """What the daemon does for a pool and the queue: ticks, then the runs that they ask for."""
    from atdm_assets.definitions import build_defs
    from atdm_assets.instance import ticks
    from atdm_assets.instance.local_instance import instance
    from atdm_assets.leases import expiry, pools
    from atdm_assets.queue import sensor
    from atdm_assets.resources import StoreResource, TargetResource
    from atdm_resources.postgres.connection import connect
    from atdm_resources.settings import Settings
    from atdm_resources.store.bundle import load_registry
    from atdm_resources.store.files import Store
    from atdm_services.retention import Retention

    # It is an hour later than the daemon thinks, see TopUp._clock_moves_on.
    ticks.GIVEN_UP_SECONDS = 0  # type: ignore[misc]
    settings = Settings.from_environment()
    registry = load_registry(settings)
    target = TargetResource(database_url=settings.database_url)
    store = StoreResource(store_url=settings.store_url, endpoint_url=None)
    defs = build_defs(scenarios=registry, resource_overrides={"target": target, "store": store})
    with instance(settings) as opened, connect(str(settings.database_url)) as conn:
        # The shipped pools are larger than one kill needs them to be.
        conn.execute(
            "UPDATE atdm.scenario SET pool_ready = CASE WHEN scenario_id = %s THEN %s ELSE 0 END",
            (OTHER, size),
        )
        files = Store(settings.store_url)
        expiry.tick(opened, conn, files, Retention.from_environment({}), thorough=False)
        asked: list[Any] = []
        for ticked in (
            pools.tick(opened, conn, registry),
            sensor.tick(opened, conn, lambda: files, registry),
        ):
            # What the daemon does with a tick's result: keys first, then a run for each run key
            # that is not known yet.
            for added in getattr(ticked, "dynamic_partitions_requests", None) or ():
                opened.add_dynamic_partitions(added.partitions_def_name, added.partition_keys)
            asked += getattr(ticked, "run_requests", None) or ()
        for request in asked:
            result = defs.resolve_job_def(request.job_name).execute_in_process(
                instance=opened,
                partition_key=request.partition_key,
                run_config={
                    **request.run_config,
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                tags=request.tags,
                raise_on_error=False,
            )
            if not result.success:
                return 1
    return 0


class Operation:
    """One operation. A round is: ``prepare``, the operation, a kill, ``torn``, ``again``."""

    name: ClassVar[str]
    summary: ClassVar[str]
    process: ClassVar[str] = "cli"
    marks: ClassVar[tuple[Mark, ...]]

    def prepare(self, world: World) -> None:
        """Make sure that there is something to do."""

    def arguments(self, world: World) -> list[str]:
        """What the next round is started with."""
        raise NotImplementedError

    def torn(self, world: World, before: Fingerprint) -> Iterator[str]:
        """What is neither the old state nor the new one, right after the kill."""
        if world.reader.fingerprint() != before:
            yield "rows changed"

    def again(self, world: World, arguments: list[str]) -> Iterator[str]:
        """The next command; what is wrong with its answer."""
        ended = world.children.run(self.process, arguments)
        if ended.status != 0:
            yield f"the next command failed: {ended.said}"


class Load(Operation):
    name = "load"
    summary = "seeding a request: atdm request --runs N --no-lease"
    marks = (
        Mark("record the request", r"INSERT INTO atdm\.request "),
        Mark("generate and check", r"SET started_at"),
        Mark("stage the files", call="atdm_services.requests.generation:RequestFiles.__exit__"),
        Mark("note the verdict", f"{_EVENT}validators_passed"),
        Mark("copy rows", rf'COPY "{DOMAIN}"\.'),
        Mark("copy runs", r'COPY "atdm"\."test_run"'),
        Mark("make it ready", r"UPDATE atdm\.request SET status = 'ready'"),
        Mark("commit and show in Dagster", f"{_EVENT}catalog_recorded"),
    )

    def arguments(self, world: World) -> list[str]:
        label = world.new_name("load")
        return ["request", SCENARIO, "--runs", str(world.runs), "--no-lease", "--id", label]

    def torn(self, world: World, before: Fingerprint) -> Iterator[str]:
        # That a request has all of its rows or none is what the reader looks at always.
        after = world.reader.fingerprint()
        grown = {table for table in after if after[table] != before[table]}
        ready = world.reader.number(
            "SELECT count(*) FROM atdm.request WHERE label = %s AND status = 'ready'",
            f"load-{world.number:03d}",
        )
        if grown and not ready:
            yield f"rows of a request that is not ready: {sorted(grown)}"


class Replay(Load):
    name = "replay"
    summary = "seeding a request anew that is ready: atdm request --id KNOWN"
    marks = tuple(mark for mark in Load.marks if mark.phase != "record the request")

    def prepare(self, world: World) -> None:
        self._label = world.new_name("load")
        world.must(
            "request", SCENARIO, "--runs", str(world.runs), "--no-lease", "--id", self._label
        )

    def arguments(self, world: World) -> list[str]:
        return ["request", SCENARIO, "--runs", str(world.runs), "--no-lease", "--id", self._label]


class Snapshot(Operation):
    name = "snapshot"
    summary = "capturing a baseline: atdm baseline-snapshot"
    marks = (
        Mark("note the start", r"INSERT INTO atdm\.baseline"),
        Mark("lock the tables", r"LOCK TABLE ONLY"),
        Mark("copy rows", call="atdm_resources.store.files:Store.write_atomic"),
        Mark("write the runs", call="atdm_services.baselines.contained_runs:written"),
        Mark("publish", call="atdm_resources.store.files:Store.write_new"),
        Mark("clear up", call="atdm_resources.store.files:Store.write_new()"),
        Mark("note the end", f"{_EVENT}snapshot_completed"),
        Mark("show in Dagster", call="atdm_assets.baselines.record:captured"),
    )

    def arguments(self, world: World) -> list[str]:
        return ["baseline-snapshot", "-b", world.new_name("shot")]

    def again(self, world: World, arguments: list[str]) -> Iterator[str]:
        baseline = arguments[-1]
        published = (
            world.reader.store / "baselines" / DOMAIN / baseline / "manifest.json"
        ).exists()
        ended = world.command(*arguments)
        if published and "BASELINE_EXISTS" not in ended.said:
            yield f"a published id was not refused: {ended.said}"
        elif not published and ended.status != 0:
            yield f"the next command failed: {ended.said}"
        if published:
            # What was published stays as it is, and does not stand in the way of the next.
            world.must("baseline-snapshot", "-b", world.new_name("shot"))


class Delete(Operation):
    name = "delete"
    summary = "deleting a baseline: atdm baseline-delete --confirm"
    marks = (
        Mark("mark it", call="atdm_resources.store.files:Store.write_bytes"),
        Mark("delete the files", call="atdm_resources.store.files:Store.delete_prefix"),
        Mark("note the end", f"{_EVENT}baseline_deleted"),
        Mark("delete the mark", call="atdm_services.baselines.removal:finish"),
    )

    def prepare(self, world: World) -> None:
        self._baseline = world.new_name("doomed")
        world.must("baseline-snapshot", "-b", self._baseline)

    def arguments(self, world: World) -> list[str]:
        return ["baseline-delete", self._baseline, "--confirm"]

    def again(self, world: World, arguments: list[str]) -> Iterator[str]:
        manifest = world.reader.store / "baselines" / DOMAIN / self._baseline / "manifest.json"
        # What is marked is gone for every command: the next one finishes it before anything else.
        marked = (manifest.parent / "removed.json").exists()
        if manifest.exists() and not marked:
            yield from super().again(world, arguments)
        elif "BASELINE_NOT_FOUND" not in world.command(*arguments).said:
            yield "a baseline that is gone was deleted again"
        # Whatever was begun is finished by the next who works with baselines.
        world.must("baseline-snapshot", "-b", world.new_name("shot"))
        if manifest.parent.exists():
            yield f"files of the deleted {self._baseline} are left"
        if (
            world.reader.number(
                "SELECT count(*) FROM atdm.audit_event WHERE action = 'baseline_deleted'"
                " AND inputs ->> 'baseline_id' = %s",
                self._baseline,
            )
            != 1
        ):
            yield f"the trail does not tell once that {self._baseline} was deleted"


class Restore(Operation):
    name = "restore"
    summary = "restoring a baseline over changed rows and leases: atdm baseline-restore"
    marks = (
        Mark("note the start", f"{_EVENT}restore_started"),
        Mark("look for the files", call="atdm_services.baselines.restore:require_files"),
        Mark("keep others out", r"SET draining_until = clock_timestamp"),
        Mark("be alone", r"pg_try_advisory_xact_lock\(atdm\.domain_lock_key"),
        Mark("lock the tables", r"LOCK TABLE ONLY .* ACCESS EXCLUSIVE"),
        Mark("take references off", r"DROP CONSTRAINT"),
        Mark("empty the tables", r"TRUNCATE ONLY"),
        Mark("load rows", rf'COPY .*"?{DOMAIN}"?\..* FROM STDIN'),
        Mark("put references back", r"ADD CONSTRAINT"),
        Mark("bring the runs in line", call="atdm_services.baselines.contained_runs:reconcile"),
        Mark("note the end", f"{_EVENT}restore_completed"),
        Mark("let others in", r"SET draining_until = NULL"),
        Mark("show in Dagster", call="atdm_assets.baselines.record:restored"),
    )

    def prepare(self, world: World) -> None:
        world.changed_by_the_application()
        world.must("request", SCENARIO)

    def arguments(self, world: World) -> list[str]:
        return ["baseline-restore", "-b", "first", "--revoke-leases"]

    def torn(self, world: World, before: Fingerprint) -> Iterator[str]:
        if world.reader.fingerprint() not in (before, world.captured):
            yield "neither what was there nor what the baseline holds"

    def again(self, world: World, arguments: list[str]) -> Iterator[str]:
        yield from super().again(world, arguments)
        if world.reader.fingerprint() != world.captured:
            yield "not what the baseline holds"


class ResetAll(Operation):
    name = "reset_all"
    summary = "deleting the rows of every run: atdm reset-all"
    marks = (
        Mark("keep others out", r"SET draining_until = clock_timestamp"),
        Mark("be alone", r"pg_try_advisory_xact_lock\(atdm\.domain_lock_key"),
        Mark("delete rows", r"SELECT atdm\.reset_all"),
        Mark("commit", call="atdm_resources.postgres.errors:guarded()"),
        Mark("let others in", r"SET draining_until = NULL"),
    )

    def prepare(self, world: World) -> None:
        if not world.reader.number(
            "SELECT count(*) FROM atdm.test_run WHERE status = 'ready' LIMIT 1"
        ):
            world.must("request", SCENARIO, "--runs", str(world.runs), "--no-lease")
        world.must("request", SCENARIO)

    def arguments(self, world: World) -> list[str]:
        return ["reset-all", "--confirm", "--revoke-leases"]

    def torn(self, world: World, before: Fingerprint) -> Iterator[str]:
        owned = world.reader.fingerprint(owned=True)
        if world.reader.fingerprint() != before and any(count for count, _ in owned.values()):
            yield "some rows of runs are gone and some are not"

    def again(self, world: World, arguments: list[str]) -> Iterator[str]:
        yield from super().again(world, arguments)
        if any(count for count, _ in world.reader.fingerprint(owned=True).values()):
            yield "rows of runs are left"


class Publish(Operation):
    name = "publish"
    summary = "building and publishing a dataset: atdm dataset-build"
    marks = (
        Mark("open the version", call="atdm_services.datasets.build:build_dataset"),
        Mark("make shards", call="atdm_services.datasets.runners:Processes.run"),
        Mark("check all shards", call="atdm_services.datasets.build:whole_checks"),
        Mark("publish", call="atdm_resources.store.files:Store.write_new"),
        Mark("clear up", call="atdm_resources.store.files:Store.write_new()"),
        Mark("show in Dagster", call="atdm_assets.metadata:check_result"),
        Mark("delete old versions", call="atdm_services.datasets.versions:expire"),
    )

    def arguments(self, world: World) -> list[str]:
        world.number += 1
        clock = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=world.number)).isoformat()
        # In this process, or in others that it started and that have to end with it.
        processes = str(world.rng.choice([1, 2]))
        return ["dataset-build", f"{DOMAIN}/torture", "--as-of", clock, "--processes", processes]


class TopUp(Operation):
    name = "top_up"
    summary = "filling a pool as the daemon does: the sensor's tick and the run it asks for"
    process = "daemon"
    marks = (
        Mark("claim the pool", r"UPDATE atdm\.top_up SET request_id = %s"),
        Mark("register and start the run", call="dagster:DagsterInstance.add_dynamic_partitions"),
        *Load.marks,
    )

    def prepare(self, world: World) -> None:
        self._clock_moves_on(world)
        if world.reader.number(
            "SELECT count(*) FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)"
            " WHERE r.status = 'ready' AND q.scenario_id = %s",
            OTHER,
        ):
            world.must("reset-all", "--confirm", "--revoke-leases")

    def arguments(self, world: World) -> list[str]:
        return [str(world.runs)]

    def torn(self, world: World, before: Fingerprint) -> Iterator[str]:
        return
        yield

    def again(self, world: World, arguments: list[str]) -> Iterator[str]:
        # First what was begun is noticed as dead, then (an hour later) it is begun anew.
        for _ in range(3):
            self._clock_moves_on(world)
            yield from super().again(world, arguments)
        ready = world.reader.number(
            "SELECT count(*) FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)"
            " WHERE r.status = 'ready' AND q.scenario_id = %s AND r.pool_key IS NOT NULL",
            OTHER,
        )
        if ready != world.runs:
            yield f"the pool has {ready} runs, not {world.runs}"

    @staticmethod
    def _clock_moves_on(world: World) -> None:
        world.reader.conn.execute(
            "UPDATE atdm.top_up SET claimed_at = claimed_at - interval '1 hour',"
            " retry_at = retry_at - interval '1 hour'"
        )


class Clone(Operation):
    name = "clone"
    summary = "making a database from a baseline, template and all: atdm baseline-clone"
    marks = (
        Mark("register the template", r"INSERT INTO atdm\.clone "),
        Mark("make the template", r"^CREATE DATABASE"),
        Mark("initialise the template", call="atdm_services.target.init:initialise"),
        Mark("fill the template", call="atdm_services.baselines.restore:restore"),
        Mark("close the template", r"ALTER DATABASE .* ALLOW_CONNECTIONS"),
        Mark("register the clone", r"INSERT INTO atdm\.clone "),
        Mark("copy the template", r"^CREATE DATABASE .* TEMPLATE"),
        Mark("make it its own", call="atdm_services.clones.creation:mark_as_target"),
        Mark("hand it out", call="atdm_services.clones.creation:lease_made"),
        Mark("give it its name", r"ALTER DATABASE .* RENAME"),
        Mark("sweep", call="atdm_services.clones.teardown:sweep"),
    )

    def prepare(self, world: World) -> None:
        for item in world.must("baseline-clone", "--list"):
            world.must("baseline-clone", "--drop", item["database"])
        # Templates go with their baseline.
        self._baseline = world.new_name("for-clones")
        world.must("baseline-snapshot", "-b", self._baseline)

    def arguments(self, world: World) -> list[str]:
        database = world.new_name("kp").replace("-", "_") + f"_{int(time.time())}"
        return ["baseline-clone", "-b", self._baseline, "--database", database]

    def again(self, world: World, arguments: list[str]) -> Iterator[str]:
        ended = world.command(*arguments)
        # Refused when the killed one had leased it already, perhaps only after it was killed.
        if ended.status != 0 and "REQUEST_CONFLICT" not in ended.said:
            yield f"the next command failed: {ended.said}"
        listed = [item["database"] for item in world.must("baseline-clone", "--list")]
        if listed != [arguments[-1]]:
            yield f"the clones that are listed are {listed}"
        world.must("baseline-delete", self._baseline, "--confirm")


OPERATIONS: dict[str, Operation] = {
    one.name: one
    for one in (
        Load(),
        Replay(),
        Snapshot(),
        Delete(),
        Restore(),
        ResetAll(),
        Publish(),
        TopUp(),
        Clone(),
    )
}

DATASET = f"""\
description: A few runs, built again and again.
seed: 7
runs_per_shard: 40
retention: 3
mix:
  - {{scenario: {SCENARIO}, runs: 80}}
"""


def write_dataset(folder: Path) -> Path:
    """A folder for ATDM_SCENARIO_PATH with a dataset that takes a second to build."""
    path = folder / DOMAIN / "datasets" / "torture.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(DATASET, encoding="utf-8")
    return folder
