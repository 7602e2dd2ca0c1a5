"""Shards: which runs they hold, whose rows they are, what their keys are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.checks.dataset import group_hashes, hash_groups
from atdm_engine.generation.batches import batches
from atdm_engine.generation.datasets import (
    dataset_id,
    part_request,
    slices,
    version_id,
    without_run_ids,
)
from atdm_engine.model import Dataset, Domain
from atdm_engine.random.run_ids import is_request_id, time_of

CLOCK = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def domain(registry: Registry) -> Domain:
    return registry.domains["healthcare"]


@pytest.fixture(scope="module")
def smoke(registry: Registry) -> Dataset:
    return registry.dataset("smoke")


def shard(domain: Domain, dataset: Dataset, number: int, clock: datetime = CLOCK) -> pa.Table:
    """The members of a shard as they are published."""
    made = []
    for part in slices(dataset, number):
        spec = part_request(domain, dataset, part.part, clock)
        for batch in batches(spec, first=part.first, last=part.last):
            made.append(without_run_ids(batch)["member"])
    return pa.concat_tables(made)


def test_shards_hold_every_run_once(smoke: Dataset) -> None:
    runs: list[int] = []
    for number in range(1, smoke.shards + 1):
        found = list(slices(smoke, number))
        assert sum(part.last - part.first + 1 for part in found) <= smoke.spec.runs_per_shard
        for part in found:
            assert part.part.first <= part.first <= part.last <= part.part.last
            runs += range(part.first, part.last + 1)
    assert runs == list(range(1, 1001))
    for wrong in (0, smoke.shards + 1):
        with pytest.raises(ValueError, match="not within"):
            list(slices(smoke, wrong))


def test_a_shard_follows_from_its_number_alone(domain: Domain, smoke: Dataset) -> None:
    backwards = [shard(domain, smoke, number) for number in (2, 1)]
    forwards = [shard(domain, smoke, number) for number in (1, 2)]
    assert forwards == backwards[::-1]


def test_rows_belong_to_nobody(domain: Domain, smoke: Dataset) -> None:
    members = shard(domain, smoke, 1)
    assert members.column("test_run_id").null_count == len(members)
    for rows in domain.reference_tables().values():
        assert rows.column("test_run_id").null_count == len(rows)
        assert rows.schema.names[-1] == "test_run_id"


def test_keys_are_those_of_the_last_version(domain: Domain, smoke: Dataset) -> None:
    """Whatever the clock, so that a test may name one; only what depends on the clock changes."""
    today, tomorrow = (shard(domain, smoke, 1, CLOCK + timedelta(days=day)) for day in (0, 1))
    for name in ("member_id", "first_name", "plan_id", "status"):
        assert today.column(name) == tomorrow.column(name)
    assert today.column("date_of_birth") != tomorrow.column("date_of_birth")


def test_keys_are_unique_and_no_request_s(domain: Domain, smoke: Dataset) -> None:
    keys = pa.concat_tables([shard(domain, smoke, number) for number in (1, 2)]).column("member_id")
    assert pc.count_distinct(keys).as_py() == len(keys)
    identity = dataset_id("healthcare", "smoke")
    assert is_request_id(identity)
    assert time_of(identity) == datetime(1970, 1, 1, tzinfo=UTC)
    assert pc.all(pc.match_substring(keys, identity[:20])).as_py()
    assert dataset_id("healthcare", "golden") != identity != dataset_id("other", "smoke")


def test_the_identity_never_changes() -> None:
    """Tests of those who use ATDM name rows of a dataset by their keys."""
    assert dataset_id("healthcare", "smoke") == "0000000000J8D5N95DH5000000"


def test_two_parts_of_one_scenario_are_not_alike(domain: Domain, smoke: Dataset) -> None:
    names = shard(domain, smoke, 1).column("last_name").to_pylist()
    assert len(set(names)) > 100


def test_a_version_is_named_after_its_clock(smoke: Dataset) -> None:
    name = version_id(smoke, CLOCK)
    assert name.startswith("smoke-20260301-020000-")
    east = CLOCK.astimezone(tz=None)
    assert version_id(smoke, east) == name
    assert version_id(smoke, CLOCK + timedelta(seconds=1)) != name


def test_hashes_tell_values_apart_and_know_references(domain: Domain, smoke: Dataset) -> None:
    groups = {group.name: group for group in hash_groups(domain)}
    assert "member:member_id" in groups
    assert groups["member:plan_id->"].parent == "plan:plan_id"
    members = shard(domain, smoke, 1)
    identity = dataset_id("healthcare", "smoke")
    keys = group_hashes(members, groups["member:member_id"], identity)
    assert len(set(keys.tolist())) == len(members)
    plans = group_hashes(members, groups["member:plan_id->"], identity)
    distinct = pc.count_distinct(members.column("plan_id")).as_py()
    assert len(plans) == distinct
    # A key and what refers to it have one hash.
    some = members.slice(0, 3)
    as_keys = pa.table({"plan_id": some.column("plan_id")})
    own = group_hashes(as_keys, groups["plan:plan_id"], identity)
    assert set(own.tolist()) <= set(plans.tolist())


def test_rows_with_a_null_are_not_compared(domain: Domain) -> None:
    group = next(group for group in hash_groups(domain) if group.name == "member:plan_id->")
    rows = pa.table({"plan_id": pa.array(["a", None, "b", "a"])})
    assert len(group_hashes(rows, group, dataset_id("x", "y"))) == 2
