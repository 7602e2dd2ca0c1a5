"""Versions of datasets in an object store and in the target: built, broken off, restored."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import S3Settings
from atdm_resources.store.bundle import read_bundle, shipped_root
from atdm_resources.store.files import Store
from atdm_services.baselines import removal
from atdm_services.baselines.listing import latest, verify
from atdm_services.baselines.manifest import Manifest
from atdm_services.baselines.restore import restore
from atdm_services.datasets.build import Built, build_dataset
from atdm_services.datasets.runners import InProcess, Processes, ShardRunner
from atdm_services.datasets.shards import ShardReport, ShardWork, make_shard
from atdm_services.datasets.versions import sweep, versions
from atdm_services.target.init import initialise
from tests.support.dagster_world import World
from tests.support.s3_server import BUCKET, Fault, Faults, proxy

pytest_plugins = ["tests.support.dagster_fixtures", "tests.support.s3_server"]

CLOCK = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
TESTER = Actor("human:tester", "test")
TEXT = """
description: A few test runs.
seed: 11
runs_per_shard: 40
mix:
  - {scenario: active_member_clean, runs: 80}
  - {scenario: member_with_dependents, runs: 20, constraints: {dependents: {choice: [1, 3]}}}
  - {scenario: denied_claim_withdrawn_code, runs: 20}
"""


def bundle_with(dataset: str = TEXT) -> list[SpecFile]:
    file = SpecFile("few.yaml", "healthcare/datasets/few.yaml", dataset)
    return [*read_bundle([shipped_root()]), file]


@pytest.fixture(scope="module")
def bundle() -> Registry:
    return Registry.build(bundle_with())


def work_of(bundle: Registry, store: Store) -> ShardWork:
    return ShardWork(bundle.domains["healthcare"], bundle.dataset("few"), CLOCK, store)


def build(work: ShardWork, runner: ShardRunner | None = None) -> Built:
    return build_dataset(work, runner=runner or InProcess(), invoker="human:tester", source="test")


@pytest.fixture
def s3_store(faults: Faults) -> Store:
    return store_behind(faults, uuid.uuid4().hex)


def store_behind(faults: Faults, prefix: str) -> Store:
    """Every test has a way of its own to the object store: the store is opened anew."""
    url = f"s3://{BUCKET}/{prefix}"
    return Store(url, s3=S3Settings(endpoint_url=faults.url, read_seconds=5))


@pytest.fixture(scope="module")
def local(bundle: Registry, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """What a build in a folder gives, to compare with."""
    made = build(work_of(bundle, Store(tmp_path_factory.mktemp("local").as_uri()))).manifest
    assert made is not None
    return made


@pytest.fixture(scope="module")
def remote(bundle: Registry, s3_server: str) -> tuple[str, Built]:
    """A build in the object store and the prefix of its store."""
    prefix = uuid.uuid4().hex
    with proxy(s3_server) as way:
        return prefix, build(work_of(bundle, store_behind(way, prefix)))


def counts(conn: psycopg.Connection[tuple[int]], table: str) -> tuple[int, int]:
    """All rows of a table, and those that belong to a test run."""
    query = f"SELECT count(*), count(test_run_id) FROM healthcare.{table}"
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0], row[1]  # type: ignore[misc]


@pytest.mark.parametrize("processes", [1, 2], ids=["here", "two"])
def test_an_object_store_holds_what_a_folder_holds(
    bundle: Registry,
    faults: Faults,
    local: Manifest,
    remote: tuple[str, Built],
    processes: int,
) -> None:
    prefix, built = remote
    if processes > 1:
        prefix = uuid.uuid4().hex
        built = build(work_of(bundle, store_behind(faults, prefix)), Processes(processes))
    store = store_behind(faults, prefix)
    assert built.manifest is not None
    assert built.manifest.tables == local.tables
    assert verify(store, "healthcare", built.version) == []
    assert store.files("datasets") == []


def test_passing_failures_of_the_store_change_nothing(
    bundle: Registry, s3_store: Store, faults: Faults, local: Manifest
) -> None:
    for path in ("plan/part-00001", "claim/part-00002", "shard-00003.json", "manifest.json"):
        for fault in (Fault(status=503), Fault(cut_request=True)):
            faults.inject(fault, method="PUT", path=path, times=1)
            faults.inject(fault, method="GET", path=path, times=1)
        faults.inject(Fault(cut_body=100), method="GET", path=path, times=1)
    faults.inject(Fault(lose_answer=True), method="PUT", path="manifest.json", times=1)
    built = build(work_of(bundle, s3_store))
    assert built.manifest is not None
    assert built.manifest.tables == local.tables


def test_a_store_that_goes_down_loses_no_finished_shard(
    bundle: Registry, s3_store: Store, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)

    class GoingDown:
        def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[ShardReport]:
            for shard in shards:
                if shard == 2:
                    faults.inject(Fault(status=500))
                yield make_shard(work, shard)

    work = work_of(bundle, s3_store)
    with pytest.raises(AtdmError) as caught:
        build(work, GoingDown())
    assert caught.value.code == ErrorCode.STORE_FAILED
    faults.clear()
    assert versions(s3_store, work.dataset) == []
    assert latest(s3_store, "healthcare") is None
    built = build(work)
    assert (built.made, built.kept) == (2, 2)
    assert verify(s3_store, "healthcare", built.version) == []


def test_a_part_that_vanished_is_named_before_anything_is_touched(
    remote: tuple[str, Built], faults: Faults, target: str
) -> None:
    prefix, built = remote
    store = store_behind(faults, prefix)
    with connect(target) as conn:
        conn.execute("INSERT INTO healthcare.plan VALUES ('p', 'FAKE_x', 'hmo', '2020-01-01')")
    part = f"baselines/healthcare/{built.version}/claim/part-00002.parquet"
    content = store.read_bytes(part)
    assert store.delete_prefix(part) == 1
    try:
        with pytest.raises(AtdmError) as caught:
            restore(target, store, "healthcare", built.version, actor=TESTER)
    finally:
        store.write_bytes(part, content)
    assert caught.value.code == ErrorCode.BASELINE_INVALID
    assert "claim" in caught.value.message
    with connect(target) as conn:
        assert counts(conn, "plan") == (1, 0)


def test_a_version_in_an_object_store_is_restored(
    remote: tuple[str, Built], faults: Faults, target: str
) -> None:
    prefix, built = remote
    assert built.manifest is not None
    store = store_behind(faults, prefix)
    done = restore(target, store, "healthcare", built.version, actor=TESTER)
    assert done.content_hash == built.manifest.content_hash
    assert done.tables == {table.name: table.rows for table in built.manifest.tables}
    with connect(target) as conn:
        assert counts(conn, "member") == (160, 0)
        assert counts(conn, "procedure_code") == (24, 0)


def test_requests_go_on_behind_a_restored_version_s_unique_values(
    empty_database: str, shared_instance: object, tmp_path: Path
) -> None:
    """A column of ten thousand values: a request that began at zero again would collide."""
    old = 'address_zip: {type: text, pattern: "[0-9]{5}", generate: {pattern: "[0-9]{5}"}}'
    new = 'address_zip: {type: text, unique: true, generate: {pattern: "[0-9]{4}"}}'
    family = "      address_zip: {sql: parent.address_zip}\n"
    text = TEXT.replace("80", "400")
    files = [
        SpecFile(file.path, file.name, file.text.replace(old, new).replace(family, ""))
        for file in bundle_with(text)
        if file.name.rpartition("/")[2] not in ("golden.yaml",)
    ]
    registry = Registry.build(files)
    with connect(empty_database) as conn:
        initialise(conn, registry)
    (tmp_path / "store").mkdir()
    store = Store((tmp_path / "store").as_uri())
    work = work_of(registry, store)
    built = build(work)
    assert built.manifest is not None
    assert built.manifest.next_number == work.dataset.numbers == 400 + 10 * 2 + 10 * 4 + 20
    restore(empty_database, store, "healthcare", built.version, actor=TESTER)
    world = World(empty_database, tmp_path / "store", shared_instance, registry)  # type: ignore[arg-type]
    made = world.ask("active_member_clean", runs=300)
    assert made.error is None
    with connect(empty_database) as conn:
        row = conn.execute(
            "SELECT count(*), count(DISTINCT address_zip) FROM healthcare.member"
        ).fetchone()
    assert row == (780, 780)


def test_what_killed_builds_and_deletions_left_goes_with_the_next_version(
    bundle: Registry, tmp_path: Path
) -> None:
    """Shards that nobody went on with for a day, and files behind a manifest that is gone."""

    class Killed:
        def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[ShardReport]:
            yield make_shard(work, shards[0])
            raise KeyboardInterrupt

    store = Store(tmp_path.as_uri())
    work = work_of(bundle, store)
    with pytest.raises(KeyboardInterrupt):
        build(work, Killed())
    kept = build_at(bundle, store, CLOCK + timedelta(days=1))
    doomed = build_at(bundle, store, CLOCK + timedelta(days=2))
    removal.remove(store, doomed.files)
    now = datetime.now(UTC)
    assert sweep(store, work.dataset, now) == [doomed.version]
    assert store.files(work.folder), "there is still time to go on with it"
    assert sweep(store, work.dataset, now + timedelta(days=2)) == [work.version]
    assert store.files("datasets") == []
    assert {path.split("/")[2] for path in store.files("baselines")} == {kept.version}
    assert verify(store, "healthcare", kept.version) == []


def build_at(bundle: Registry, store: Store, clock: datetime) -> ShardWork:
    work = ShardWork(bundle.domains["healthcare"], bundle.dataset("few"), clock, store)
    assert build(work).manifest is not None
    return work
