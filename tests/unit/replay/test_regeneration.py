"""A run made again: what changed is named, equal rows are proved, others are not claimed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pyarrow as pa
import pytest

from atdm_engine.bundle import version
from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.version import changes, version_parts
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.batches import batches, generate
from atdm_engine.generation.request import resolve
from atdm_engine.hashing.content import ContentHash, added, combined
from atdm_engine.random.run_ids import run_id
from atdm_engine.replay import regeneration
from atdm_engine.replay.spec import ReplaySpec, read_replay_spec
from atdm_engine.values.scalars import scalar_json
from tests.support import shop_bundle
from tests.support.shop_bundle import replaced

REQUEST = "01K0ABCDEF0123456789000000"
AS_OF = datetime(2026, 6, 1, 12, 30, tzinfo=UTC)
RUNS = 7


@cache
def _unchanged() -> Registry:
    return shop_bundle.shop()


def shop(changes: Mapping[str, str | None] | None = None) -> Registry:
    """The bundle, built once where nothing of it is changed."""
    return shop_bundle.shop(changes) if changes else _unchanged()


def original(
    registry: Registry | None = None,
    scenario: str = "first_purchase",
    *,
    number: int = 3,
    **given: Any,
) -> ReplaySpec:
    """What would be recorded of a request of the bundle, for one of its runs."""
    known = registry or shop()
    spec = resolve(
        *known.find(scenario), given, runs=RUNS, seed=11, as_of=AS_OF, request_id=REQUEST
    )
    digests = {table: ContentHash(spec.domain, table, REQUEST, 0) for table in spec.scenario.tables}
    for batch in batches(spec, 2):
        for table, rows in batch.items():
            digests[table].add(rows)
    hashes = {table: digest.hexdigest() for table, digest in digests.items()}
    return ReplaySpec(
        test_run_id=run_id(REQUEST, number),
        domain=spec.domain.name,
        scenario_id=spec.scenario.name,
        scenario_version=spec.scenario.version,
        parts=version_parts(spec.domain, spec.scenario),
        given={name: scalar_json(value) for name, value in spec.given.items()},
        effective={name: scalar_json(value) for name, value in spec.effective.items()},
        seed=spec.seed,
        as_of=spec.as_of,
        runs=RUNS,
        number_base=0,
        content_hash=combined(hashes),
        tables=hashes,
    )


def refused(registry: Registry, recorded: ReplaySpec) -> AtdmError:
    with pytest.raises(AtdmError) as caught:
        regeneration.recorded_request(registry, recorded)
    return caught.value


def test_the_run_alone_is_what_it_was_among_the_others() -> None:
    recorded = original(purchase_state="paid")
    spec = regeneration.recorded_request(shop(), recorded)
    made = regeneration.regenerate_run(spec, recorded.run_number)

    whole = generate(spec, 1, RUNS)
    for table, rows in made.tables.items():
        ids = whole[table].column("test_run_id").to_pylist()
        mine = [place for place, run in enumerate(ids) if run == recorded.test_run_id]
        assert rows.equals(whole[table].take(mine).combine_chunks()), table
    assert made.test_run_id == recorded.test_run_id
    assert regeneration.judge_run(made).verdict.accepted


def test_the_hashes_of_all_runs_add_up_to_that_of_the_request() -> None:
    recorded = original()
    spec = regeneration.recorded_request(shop(), recorded)
    every = [regeneration.regenerate_run(spec, number) for number in range(1, RUNS + 1)]
    assert {
        table: added(made.hashes[table] for made in every) for table in spec.scenario.tables
    } == recorded.tables
    assert len({made.content_hash for made in every}) == RUNS


def test_of_a_single_run_the_hash_is_that_of_the_request() -> None:
    recorded = original(number=1)
    spec = dataclasses.replace(regeneration.recorded_request(shop(), recorded), runs=1)
    alone = regeneration.regenerate_run(spec, 1)
    assert alone.content_hash == combined(alone.hashes)
    regeneration.prove(
        recorded.model_copy(
            update={"runs": 1, "content_hash": alone.content_hash, "tables": dict(alone.hashes)}
        ),
        spec,
    )


TABLE = "shop/tables/purchase.yaml"
CHANGED: list[tuple[dict[str, str | None], list[str]]] = [
    (
        replaced("shop/first_purchase.yaml", "count: 1", "count: 2"),
        ["scenario changed"],
    ),
    (
        replaced(TABLE, "min: 1, max: 50", "min: 1, max: 51"),
        ["column purchase.amount changed"],
    ),
    (
        replaced(TABLE, "  note: {type: text, nullable: true}\n", ""),
        ["column purchase.note removed"],
    ),
    (
        replaced(TABLE, "  note:", "  memo: {type: text, nullable: true}\n  note:"),
        ["column purchase.memo added"],
    ),
    (
        replaced(TABLE, "  paid_has_time: state", "  paid_has_time: true AND state"),
        ["table purchase changed"],
    ),
    (
        replaced("shop/reference/country.csv", "Germany", "Deutschland"),
        ["reference rows of country changed"],
    ),
    (
        replaced("shop/domain.yaml", "FAKE_", "FAKE"),
        ["domain file changed"],
    ),
]


@pytest.mark.parametrize(("files", "named"), CHANGED, ids=[named[0] for _, named in CHANGED])
def test_what_changed_is_named(files: dict[str, str | None], named: list[str]) -> None:
    recorded = original(purchase_state="paid")
    error = refused(shop(files), recorded)
    assert error.code is ErrorCode.REQUEST_CONFLICT
    assert error.details["changes"] == named
    assert named[0] in error.message
    assert recorded.test_run_id in error.message
    assert (
        "atdm request shop/first_purchase -c purchase_state=paid --seed 11"
        " --as-of 2026-06-01T12:30:00+00:00 --runs 3"
    ) in error.details["hint"]


def test_another_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = original()
    monkeypatch.setattr(version, "ENGINE_VERSION", "99")
    error = refused(shop_bundle.shop(), recorded)
    assert error.details["changes"] == ["engine changed from version 1 to 99"]


@pytest.mark.parametrize(
    "files",
    [
        replaced("shop/first_purchase.yaml", "Active customer", "Any customer"),
        replaced("shop/first_purchase.yaml", "tags: [basket]", "tags: [other]"),
        replaced("shop/first_purchase.yaml", "[SHOP-1]", "[SHOP-2]"),
        replaced("shop/open_and_paid.yaml", "count: 2", "count: 3"),
    ],
)
def test_what_does_not_shape_the_data_is_no_change(files: dict[str, str | None]) -> None:
    spec = regeneration.recorded_request(shop(files), original())
    regeneration.prove(original(), spec)


def test_without_recorded_parts_it_says_that_it_does_not_know() -> None:
    recorded = original().model_copy(update={"parts": {}})
    error = refused(shop(CHANGED[0][0]), recorded)
    assert error.details["changes"] == []
    assert "what changed was not recorded" in error.message


def test_a_scenario_that_is_gone_is_not_found() -> None:
    error = refused(shop({"shop/first_purchase.yaml": None}), original())
    assert error.code is ErrorCode.SCENARIO_NOT_FOUND


def test_other_constraints_than_recorded_are_named() -> None:
    recorded = original()
    forged = recorded.model_copy(
        update={"effective": {**recorded.effective, "vip": "maybe", "country": "FR"}}
    )
    error = refused(shop(), forged)
    assert sorted(error.details["changes"]) == [
        "constraint country is DE, was FR",
        "constraint vip is False, was maybe",
    ]


def test_other_rows_of_the_same_versions_are_named_by_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = original()
    spec = regeneration.recorded_request(shop(), recorded)

    def altered(*arguments: Any) -> Any:
        for batch in batches(*arguments):
            rows = batch["purchase"]
            place = rows.schema.get_field_index("note")
            notes = pa.array(["x"] * rows.num_rows, pa.string())
            yield {**batch, "purchase": rows.set_column(place, "note", notes)}

    monkeypatch.setattr(regeneration, "batches", altered)
    with pytest.raises(AtdmError) as caught:
        regeneration.prove(recorded, spec)
    assert caught.value.code is ErrorCode.REQUEST_CONFLICT
    assert caught.value.details["tables"] == ["purchase"]
    assert caught.value.details["content_hash"] != recorded.content_hash


def test_a_rejected_request_is_rejected_again() -> None:
    recorded = original(scenario="closed_but_buying")
    spec = regeneration.recorded_request(shop(), recorded)
    seen: list[tuple[str, int, int]] = []
    judged = regeneration.judge_request(spec, lambda *step: seen.append(step))
    assert judged.verdict.expected_violation
    assert judged.verdict.failed == ("relational.closed_customers_buy_nothing",)
    assert sum(outcome.failed for outcome in judged.outcomes) == RUNS
    assert seen == [("checked", RUNS, RUNS)]


def test_a_specification_survives_its_json() -> None:
    recorded = original(vip=True)
    text = recorded.model_dump_json(indent=2)
    assert read_replay_spec(text, "f.json") == recorded
    assert (recorded.request_id, recorded.run_number, recorded.scenario) == (
        REQUEST, 3, "shop/first_purchase",
    )  # fmt: skip


def edited(**changes: Any) -> str:
    body = json.loads(original().model_dump_json())
    return json.dumps({**body, **changes})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid JSON"),
        ("[]", "object"),
        ("{}", "test_run_id: Field required"),
        (edited(format="atdm-replay/2"), "format: Input should be 'atdm-replay/1'"),
        (edited(test_run_id=REQUEST), "is no test run's id"),
        (edited(test_run_id=run_id(REQUEST, RUNS + 1)), "is number 8 of 7 runs"),
        (edited(seed=-1), "seed: Input should be greater than or equal to 0"),
        (edited(seed="7"), "seed: Input should be a valid integer"),
        (edited(as_of="2026-06-01T12:30:00"), "a time needs its offset"),
        (edited(domain="shop; drop"), "domain: String should match pattern"),
        (edited(content_hash="zz"), "content_hash: String should match pattern"),
        (edited(token="secret"), "token: Extra inputs are not permitted"),
    ],
)
def test_what_is_no_specification_is_refused(text: str, said: str) -> None:
    with pytest.raises(AtdmError) as caught:
        read_replay_spec(text, "spec.json")
    assert caught.value.code is ErrorCode.REQUEST_INVALID
    assert caught.value.message.startswith("spec.json is no replay specification: ")
    assert said in caught.value.message
    assert "--print-spec" in caught.value.details["hint"]


def test_a_table_added_or_removed_as_a_whole_is_named_once() -> None:
    before = {"table a": "1", "column a.x": "1", "column order of a": "1", "engine": "1"}
    now = {"table b": "1", "column b.x": "1", "column order of b": "1", "engine": "1"}
    assert [str(one) for one in changes(before, now)] == ["table a removed", "table b added"]
    assert changes(before, before) == []
