"""Building a version: the same bytes in any order, after a kill, in any number of processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_engine.checks.dataset import dataset_check_ids
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import RowHash
from atdm_resources.store.bundle import read_bundle, shipped_root
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import write_table
from atdm_services.baselines.listing import file_problems
from atdm_services.datasets import build as building
from atdm_services.datasets import whole_checks
from atdm_services.datasets.build import Built, build_dataset
from atdm_services.datasets.runners import InProcess, Processes
from atdm_services.datasets.shards import ShardReport, ShardWork, finished_shard, make_shard
from atdm_services.datasets.versions import expire, versions

CLOCK = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
TEXT = """
description: A few test runs.
seed: 11
runs_per_shard: 25
retention: 2
mix:
  - {scenario: active_member_clean, runs: 40}
  - {scenario: member_with_dependents, runs: 20, constraints: {dependents: {choice: [1, 3]}}}
  - {scenario: denied_claim_withdrawn_code, runs: 10}
"""


@pytest.fixture(scope="module")
def bundle() -> Registry:
    file = SpecFile("few.yaml", "healthcare/datasets/few.yaml", TEXT)
    return Registry.build([*read_bundle([shipped_root()]), file])


@pytest.fixture
def work(bundle: Registry, tmp_path: Path) -> ShardWork:
    return work_in(bundle, tmp_path / "store")


def work_in(bundle: Registry, folder: Path, clock: datetime = CLOCK) -> ShardWork:
    domain = bundle.domains["healthcare"]
    return ShardWork(domain, bundle.dataset("few"), clock, Store(folder.as_uri()))


def build(work: ShardWork, runner: object = None) -> Built:
    return build_dataset(
        work,
        runner=runner or InProcess(),  # type: ignore[arg-type]
        invoker="human:tester",
        source="test",
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the manifest, which says when and by whom."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


@dataclass
class Backwards:
    """Another order than the one that is asked for."""

    def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[ShardReport]:
        for shard in reversed(shards):
            yield make_shard(work, shard)


@pytest.fixture(scope="module")
def expected(
    bundle: Registry, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], str]:
    """The files of the version, and its content hash."""
    folder = tmp_path_factory.mktemp("expected")
    built = build(work_in(bundle, folder))
    assert built.manifest is not None
    return contents(folder), built.manifest.content_hash


Expected = tuple[dict[str, bytes], str]


def test_a_version_is_a_baseline(work: ShardWork, tmp_path: Path) -> None:
    built = build(work)
    manifest = built.manifest
    assert manifest is not None
    assert (built.made, built.kept) == (4, 0)
    assert (manifest.kind, manifest.baseline_id, manifest.domain) == (
        "generated", work.version, "healthcare",
    )  # fmt: skip
    assert file_problems(work.store, manifest) == []
    rows = {table.name: table.rows for table in manifest.tables}
    assert rows == {
        "plan": 70, "provider": 70, "member": 110, "eligibility": 110, "claim": 70,
        "procedure_code": 14, "diagnosis_code": 14,
    }  # fmt: skip
    for table in manifest.tables:
        files = [tmp_path / "store" / work.files.full(file) for file in table.files]
        whole_table = pa.concat_tables([pq.read_table(path) for path in files])
        assert whole_table.schema.names == [column.name for column in table.columns]
        assert whole_table.column("test_run_id").null_count == len(whole_table)
        row_hash = RowHash()
        for batch in whole_table.to_batches():
            row_hash.add(batch)
        assert row_hash.hexdigest() == table.content_hash
    dataset = manifest.dataset
    assert dataset is not None
    assert (dataset["name"], dataset["runs"], dataset["as_of"]) == ("few", 70, CLOCK.isoformat())
    assert [part["runs"] for part in dataset["mix"]] == [40, 10, 10, 10]
    assert not work.store.exists(work.folder)


def test_every_check_has_judged(work: ShardWork) -> None:
    built = build(work)
    assert [outcome.check for outcome in built.outcomes] == list(
        dataset_check_ids(work.domain, work.dataset)
    )
    assert all(outcome.passed for outcome in built.outcomes)
    assert {outcome.check.label for outcome in built.outcomes if outcome.vacuous} == set()


@pytest.mark.parametrize(
    "runner", [Backwards(), Processes(2), Processes(3)], ids=["backwards", "two", "three"]
)
def test_order_and_processes_change_no_byte(
    work: ShardWork, tmp_path: Path, expected: Expected, runner: object
) -> None:
    built = build(work, runner)
    assert built.manifest is not None
    assert (contents(tmp_path / "store"), built.manifest.content_hash) == expected


def test_what_is_finished_is_kept(work: ShardWork, tmp_path: Path, expected: Expected) -> None:
    for shard in (3, 0):
        make_shard(work, shard)
    made = (tmp_path / "store" / work.files.part("claim", 3)).stat().st_mtime_ns
    built = build(work)
    assert (built.made, built.kept) == (2, 2)
    assert (tmp_path / "store" / work.files.part("claim", 3)).stat().st_mtime_ns == made
    assert built.manifest is not None
    assert (contents(tmp_path / "store"), built.manifest.content_hash) == expected


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "record", "hashes"])
def test_a_damaged_shard_is_made_again(
    work: ShardWork, tmp_path: Path, expected: Expected, damage: str
) -> None:
    for shard in (1, 2):
        make_shard(work, shard)
    store = tmp_path / "store"
    path = store / work.files.part("member", 2)
    if damage == "record":
        path = store / work.record_path(2)
    if damage == "hashes":
        path = store / work.hashes_path(2)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    else:
        path.write_bytes(content[:-10])
    assert finished_shard(work, 1) is not None
    assert finished_shard(work, 2) is None
    built = build(work)
    assert (built.made, built.kept) == (3, 1)
    assert built.manifest is not None
    assert (contents(store), built.manifest.content_hash) == expected


def test_a_version_that_is_there_is_not_made_again(work: ShardWork) -> None:
    first, second = build(work), build(work, runner=None)
    assert second.manifest == first.manifest
    assert (second.made, second.kept) == (0, 0)
    assert [o.judged for o in second.outcomes] == [o.judged for o in first.outcomes]


def test_of_two_who_build_at_once_both_have_it(
    work: ShardWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    other: list[Built] = []
    checks = whole_checks.whole_checks

    def meanwhile(mine: ShardWork, reports: Sequence[ShardReport]) -> object:
        if not other:
            other.append(Built("", None, (), 0, 0, 0.0))
            other[0] = build(mine)
            for shard in range(4):
                make_shard(mine, shard)
        return checks(mine, reports)

    monkeypatch.setattr(building, "whole_checks", meanwhile)
    built = build(work)
    assert other[0].manifest is not None
    assert built.manifest == other[0].manifest


KILLED = """
    import os, signal, sys
    from datetime import UTC, datetime
    from atdm_services.datasets import shards
    from tests.unit.datasets.test_shards import TEXT, CLOCK, build, work_in
    from pathlib import Path
    from atdm_engine.bundle.registry import Registry
    from atdm_engine.bundle.spec_file import SpecFile
    from atdm_resources.store.bundle import read_bundle, shipped_root

    folder, when = Path(sys.argv[1]), int(sys.argv[2])
    file = SpecFile("few.yaml", "healthcare/datasets/few.yaml", TEXT)
    bundle = Registry.build([*read_bundle([shipped_root()]), file])
    calls = 0
    store = __import__("atdm_resources.store.files", fromlist=["Store"]).Store
    original = store.write_atomic

    def counted(self, path):
        global calls
        calls += 1
        if calls == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, path)

    store.write_atomic = counted
    build(work_in(bundle, folder))
    print(calls)
"""


@pytest.mark.parametrize("when", [1, 5, 12, 20])
def test_a_killed_build_goes_on(
    bundle: Registry, tmp_path: Path, expected: Expected, when: int
) -> None:
    """Before a file is written: of the first shard, in the middle of others, of the last."""
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "store"), str(when)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    work = work_in(bundle, tmp_path / "store")
    assert versions(work.store, work.dataset) == []
    built = build(work)
    assert built.manifest is not None
    left = {path for path in contents(tmp_path / "store") if "/." in path}
    found = {path: text for path, text in contents(tmp_path / "store").items() if path not in left}
    assert (found, built.manifest.content_hash) == expected


def test_a_worker_that_is_gone_is_named_and_its_work_goes_on(
    work: ShardWork, tmp_path: Path, expected: Expected
) -> None:
    runner = _KillingOne()
    with pytest.raises(AtdmError) as caught:
        build(work, runner)
    assert caught.value.code == ErrorCode.DATASET_FAILED
    assert "build it again" in caught.value.message
    built = build(work)
    assert built.manifest is not None
    left = {path for path in contents(tmp_path / "store") if "/." in path}
    found = {path: text for path, text in contents(tmp_path / "store").items() if path not in left}
    assert (found, built.manifest.content_hash) == expected


POOL = """
    import sys
    from pathlib import Path
    from atdm_engine.bundle.registry import Registry
    from atdm_engine.bundle.spec_file import SpecFile
    from atdm_resources.store.bundle import read_bundle, shipped_root
    from atdm_services.datasets.runners import Processes
    from tests.unit.datasets.test_shards import TEXT, work_in

    if __name__ == "__main__":
        text = TEXT.replace("runs: 40", "runs: 400000")
        file = SpecFile("few.yaml", "healthcare/datasets/few.yaml", text)
        bundle = Registry.build([*read_bundle([shipped_root()]), file])
        work = work_in(bundle, Path(sys.argv[1]))
        from multiprocessing import active_children

        for report in Processes(2).run(work, range(work.dataset.shards)):
            print(*(child.pid for child in active_children()), flush=True)
"""


def test_the_processes_of_a_killed_build_end_too(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(textwrap.dedent(POOL))
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as killed:
        assert killed.stdout is not None
        children = [int(pid) for pid in killed.stdout.readline().split()]
        killed.kill()
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # A zombie has ended; whoever adopted it has not noticed yet.
    return status.rpartition(")")[2].split()[0] != "Z"


class _KillingOne:
    """A pool one of whose processes is killed while it works."""

    def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[ShardReport]:
        from multiprocessing import active_children

        many = Processes(2).run(work, shards)
        yield next(many)
        (victim, *_) = active_children()
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        for report in many:
            assert time.monotonic() < deadline
            yield report


@dataclass
class Tampering:
    """Changes the first rows of a table of a shard between their making and the whole's checks."""

    table: str
    shard: int
    change: object

    def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[ShardReport]:
        for shard in shards:
            report = make_shard(work, shard)
            yield self._tampered(work, report) if shard == self.shard else report

    def _tampered(self, work: ShardWork, report: ShardReport) -> ShardReport:
        from atdm_services.datasets import shards

        class _Changed(shards._ShardFiles):
            def write(writing, tables: object) -> None:  # noqa: N805
                changed = dict(tables)  # type: ignore[call-overload]
                if self.table in changed and not writing.parts.get(self.table):
                    changed[self.table] = self.change(changed[self.table])  # type: ignore[operator]
                super().write(changed)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "_ShardFiles", _Changed)
            return shards._made(replace(work, check=False), report.shard)


def failed(built: Built) -> dict[str, int]:
    return {o.check.label: o.failed for o in built.outcomes if not o.passed}


def test_a_key_in_two_shards_is_found(work: ShardWork) -> None:
    make_shard(work, 1)
    first = pq.read_table(work.store._full(work.files.part("provider", 1)))

    def change(rows: pa.Table) -> pa.Table:
        return pa.concat_tables([rows.slice(1), first.slice(0, 1)])

    built = build(work, Tampering("provider", 2, change))
    assert not built.accepted
    assert failed(built)["provider.whole_keys"] == 1
    case = next(o for o in built.outcomes if o.check.label == "provider.whole_keys").cases[0]
    assert case["provider_id"] == first.column("provider_id")[0].as_py()
    assert "part-00001" in case["files"]
    assert "part-00002" in case["files"]
    assert built.rejection().code == ErrorCode.VALIDATOR_REJECTED
    assert versions(work.store, work.dataset) == []


def test_a_reference_to_no_row_of_any_shard_is_found(work: ShardWork) -> None:
    built = build(work, Tampering("plan", 3, lambda rows: rows.slice(2)))
    assert not built.accepted
    # Both plans are missed, by the members of their runs.
    assert failed(built) == {"member.whole_references": 2}
    case = next(o for o in built.outcomes if o.check.label == "member.whole_references").cases[0]
    assert case["plan_id"].startswith("plan-0000000000")
    assert "member/part-00003" in case["files"]


def test_rows_that_a_file_lost_are_found(work: ShardWork) -> None:
    class Losing:
        def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[ShardReport]:
            for shard in shards:
                report = make_shard(work, shard)
                if shard == 1:
                    path = work.files.part("claim", 1)
                    rows = pq.read_table(work.store._full(path))
                    write_table(work.store, path, rows.slice(3))
                yield report

    built = build(work, Losing())
    assert failed(built) == {"claim.whole_counts": 1}


def test_a_shard_that_is_left_out_is_found(work: ShardWork) -> None:
    class Forgetting:
        def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[ShardReport]:
            yield from InProcess().run(work, shards[:-1])

    with pytest.raises(AtdmError) as caught:
        build(work, Forgetting())
    assert caught.value.code == ErrorCode.DATASET_FAILED
    assert caught.value.details["missing"] == [3]


def test_memory_is_bounded_by_pieces(work: ShardWork, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranges in which hashes are compared cover everything once, however small they are."""
    reports = [make_shard(work, shard) for shard in range(4)]
    usual = whole_checks.whole_checks(work, reports)
    monkeypatch.setattr(whole_checks, "HELD", 7)
    assert whole_checks.whole_checks(work, reports) == usual


def test_the_newest_versions_stay(bundle: Registry, tmp_path: Path) -> None:
    made = []
    for day in (0, 2, 1):
        work = work_in(bundle, tmp_path, CLOCK + timedelta(days=day))
        build(work)
        made.append(work.version)
    store, dataset = work.store, work.dataset
    assert [one.version for one in versions(store, dataset)] == [made[1], made[2], made[0]]
    assert expire(store, dataset, keep=made[0]) == []
    assert expire(store, dataset) == [made[0]]
    assert [one.version for one in versions(store, dataset)] == [made[1], made[2]]
    assert not store.exists(f"baselines/healthcare/{made[0]}")


def test_another_s_baseline_and_a_damaged_one_are_left_alone(
    bundle: Registry, tmp_path: Path
) -> None:
    work = work_in(bundle, tmp_path)
    build(work)
    damaged = work_in(bundle, tmp_path, CLOCK + timedelta(days=1))
    build(damaged)
    path = tmp_path / damaged.files.manifest
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "domain": "x"}))
    assert [one.version for one in versions(work.store, work.dataset)] == [work.version]
    with pytest.raises(AtdmError) as caught:
        build(damaged)
    assert caught.value.code == ErrorCode.BASELINE_INVALID


def test_progress_counts_runs(work: ShardWork) -> None:
    said: list[tuple[str, int, int]] = []
    build_dataset(
        work,
        runner=InProcess(),
        invoker="human:tester",
        source="test",
        progress=lambda *step: said.append(step),
    )
    assert [done for what, done, _ in said if what == "made and checked"] == [0, 25, 50, 70]
