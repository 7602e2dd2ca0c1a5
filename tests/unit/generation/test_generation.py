"""Rows of whole requests: shape, references, determinism."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.batches import batches, exposed_data, generate
from atdm_engine.generation.request import RequestSpec
from atdm_engine.hashing.content import ContentHash, combined
from atdm_engine.model import Exposure
from atdm_engine.random.run_ids import run_id
from tests.support.shop import (
    AS_OF,
    OTHER_REQUEST,
    REQUEST,
    ROWS,
    TABLES,
    one_column,
    request,
    row_key,
    shop,
)


def whole(spec: RequestSpec, batch_runs: int = 1000) -> dict[str, pa.Table]:
    made: dict[str, list[pa.Table]] = {}
    for batch in batches(spec, batch_runs):
        for name, table in batch.items():
            made.setdefault(name, []).append(table)
    return {name: pa.concat_tables(tables).combine_chunks() for name, tables in made.items()}


def request_hash(spec: RequestSpec, batch_runs: int = 1000) -> str:
    hashes = {
        table: ContentHash(spec.domain, table, spec.request_id, spec.number_base)
        for table in spec.scenario.tables
    }
    for batch in batches(spec, batch_runs):
        for name, table in batch.items():
            hashes[name].add(table)
    return combined({name: one.hexdigest() for name, one in hashes.items()})


@pytest.fixture(scope="module")
def made() -> dict[str, pa.Table]:
    return whole(request())


def by_key(table: pa.Table, key: str) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in table.to_pylist()}


def test_tables_come_in_insert_order_with_typed_columns_and_the_run_column(
    made: dict[str, pa.Table],
) -> None:
    assert list(made) == ["customer", "purchase", "line"]
    for name, table in made.items():
        assert table.column_names == [*TABLES[name]["columns"], "test_run_id"]
    assert made["line"].schema.field("amount").type == pa.decimal128(12, 2)
    assert made["customer"].schema.field("tags").type == pa.list_(pa.string())
    assert made["customer"].schema.field("created_at").type == pa.timestamp("us", tz="UTC")


def test_keys_count_rows_of_a_run_over_all_groups_of_a_table(made: dict[str, pa.Table]) -> None:
    for number in range(1, 41):
        rows = made["customer"].filter(
            pc.equal(made["customer"]["test_run_id"], run_id(REQUEST, number))
        )
        expected = [row_key("cust", run_id(REQUEST, number), k) for k in range(rows.num_rows)]
        assert rows["customer_id"].to_pylist() == expected
        assert rows["status"].to_pylist() == ["new", *["loyal"] * (rows.num_rows - 1)]
    assert set(pc.value_counts(made["customer"]["test_run_id"]).field("counts").to_pylist()) == {
        1,
        2,
        3,
    }


def test_references_name_rows_of_the_same_run(made: dict[str, pa.Table]) -> None:
    customers = by_key(made["customer"], "customer_id")
    purchases = by_key(made["purchase"], "purchase_id")
    for row in made["purchase"].to_pylist():
        owner = customers[row["customer_id"]]
        assert owner["test_run_id"] == row["test_run_id"]
        assert (owner["status"] == "loyal") == (row["state"] == "void")
    for row in made["line"].to_pylist():
        owner = purchases[row["purchase_id"]]
        assert owner["test_run_id"] == row["test_run_id"]
        assert owner["state"] != "void"
        assert row["category"] in {"food", "toys", "books"}


def test_a_reference_to_the_own_table_names_an_earlier_row(made: dict[str, pa.Table]) -> None:
    seen: set[str] = set()
    linked = 0
    for row in made["customer"].to_pylist():
        first = row["customer_id"].count("-") == 1
        assert (row["referred_by"] is None) == first
        if not first:
            assert row["referred_by"] in seen
            assert row["referred_by"].startswith(row["customer_id"].rsplit("-", 1)[0])
            linked += 1
        seen.add(row["customer_id"])
    assert linked > 10


def test_times_follow_the_rows_they_depend_on(made: dict[str, pa.Table]) -> None:
    customers = by_key(made["customer"], "customer_id")
    for row in made["purchase"].to_pylist():
        waited = row["placed_at"] - customers[row["customer_id"]]["created_at"]
        assert 3600 <= waited.total_seconds() <= 5 * 86_400
        assert 0 <= (row["due"] - row["placed_at"].date()).days <= 14
        assert row["placed_at"] < AS_OF


def test_case_picks_by_the_cell(made: dict[str, pa.Table]) -> None:
    states = set()
    for row in made["purchase"].to_pylist():
        states.add(row["state"])
        if row["state"] == "open":
            assert row["reason"] is None
        elif row["state"] == "paid":
            assert row["reason"].startswith("OK-")
        else:
            assert row["reason"] == "cancelled"
    assert states == {"open", "paid", "void"}


def test_sql_reads_the_row_its_parents_and_its_children(made: dict[str, pa.Table]) -> None:
    vat = {"food": Decimal("7.00"), "toys": Decimal("19.00"), "books": Decimal("7.50")}
    customers = by_key(made["customer"], "customer_id")
    purchases = by_key(made["purchase"], "purchase_id")
    sums: dict[str, Decimal] = dict.fromkeys(purchases, Decimal("0.00"))
    for row in made["line"].to_pylist():
        assert row["amount"] == row["quantity"] * row["price"]
        assert row["vat"] == vat[row["category"]]
        owner = purchases[row["purchase_id"]]
        assert row["state"] == owner["state"]
        who = customers[owner["customer_id"]]["first_name"]
        assert row["who"] == f"{who}/{row['quantity']}"
        sums[row["purchase_id"]] += row["amount"]
    assert {key: row["total"] for key, row in purchases.items()} == sums
    assert any(sums.values())


def test_unique_columns_do_not_repeat_within_and_across_requests() -> None:
    first = request(runs=300)
    taken = first.numbers_needed
    assert taken == 300 * 3
    second = request(runs=300, request_id=OTHER_REQUEST, seed=8, number_base=taken)
    for column in ("login", "number", "card", "token"):
        values = [
            value
            for spec in (first, second)
            for value in whole(spec)["customer"][column].to_pylist()
        ]
        assert len(set(values)) == len(values) > 600


@pytest.mark.parametrize("batch_runs", [1, 7, 100_000])
def test_batch_size_changes_nothing(batch_runs: int, made: dict[str, pa.Table]) -> None:
    again = whole(request(), batch_runs)
    for name, table in made.items():
        assert again[name].equals(table)


def test_the_same_request_gives_the_same_rows_and_another_seed_others(
    made: dict[str, pa.Table],
) -> None:
    assert whole(request())["line"].equals(made["line"])
    assert not whole(request(seed=8))["line"].equals(made["line"])


def test_a_runs_rows_do_not_depend_on_how_many_runs_there_are(made: dict[str, pa.Table]) -> None:
    few = generate(request(runs=3), 1, 3)
    for name, table in few.items():
        assert table.equals(made[name].slice(0, table.num_rows))


def test_other_ids_and_numbers_give_the_same_content_hash() -> None:
    one = request_hash(request())
    assert request_hash(request(request_id=OTHER_REQUEST, number_base=5000), 7) == one
    assert request_hash(request(seed=8)) != one


def test_given_constraints_reach_every_row_that_does_not_pin_them() -> None:
    made = whole(request(given={"purchase_state": "paid", "category": "toys", "vip": "true"}))
    assert set(made["line"]["category"].to_pylist()) == {"toys"}
    assert set(made["line"]["vat"].to_pylist()) == {Decimal("19.00")}
    assert set(made["purchase"]["state"].to_pylist()) == {"paid", "void"}
    assert set(made["customer"]["vip"].to_pylist()) == {True}


def test_a_count_may_be_a_constraint_and_zero() -> None:
    rows = {"customer": 1, "purchase": {"per": "customer", "count": "lines"}}
    registry = shop(rows, {"purchase": _without_total()})
    assert whole(request(registry))["purchase"].num_rows == 80
    assert whole(request(registry, {"lines": "5"}))["purchase"].num_rows == 200
    none = whole(request(registry, {"lines": 0}))["purchase"]
    assert none.num_rows == 0
    assert none.schema.field("due").type == pa.date32()


def _without_total() -> dict[str, Any]:
    columns = {k: v for k, v in TABLES["purchase"]["columns"].items() if k != "total"}
    return {**TABLES["purchase"], "columns": columns}


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [("uniform", {0, 1, 2}), ("zipf", {0, 1, 2}), ("round_robin", {0, 1, 2})],
)
def test_references_pick_among_the_rows_of_the_run(distribution: str, expected: set[int]) -> None:
    picked = {"references": {"table": "customer", "distribution": distribution}}
    registry = shop({"customer": 3, "visit": 6}, _visit(generate=picked))
    visits = generate(request(registry, runs=500), 1, 500)["visit"]
    places = []
    for row in visits.to_pylist():
        head = f"cust-{row['test_run_id']}"
        assert row["customer_id"].startswith(head)
        places.append(int(row["customer_id"].removeprefix(head).removeprefix("-") or 0))
    assert set(places) == expected
    counts = [places.count(place) / len(places) for place in range(3)]
    if distribution == "round_robin":
        assert places[:6] == [0, 1, 2, 0, 1, 2]
    elif distribution == "uniform":
        assert all(abs(share - 1 / 3) < 0.04 for share in counts)
    else:
        weights = [rank**-1.2 for rank in (1, 2, 3)]
        expected_shares = [weight / sum(weights) for weight in weights]
        pairs = zip(counts, expected_shares, strict=True)
        assert all(abs(share - other) < 0.04 for share, other in pairs)


def test_a_row_group_can_be_referred_to_by_name() -> None:
    rows = {
        "customer": 1,
        "friend": {"table": "customer", "count": 2},
        "purchase": {"count": 3, "set": {"customer_id": {"references": "friend"}}},
    }
    made = generate(request(shop(rows, {"purchase": _without_total()})), 1, 40)
    assert all(key.count("-") == 2 for key in made["purchase"]["customer_id"].to_pylist())


def _visit(**column: Any) -> dict[str, Any]:
    return {
        "visit": {
            "description": "A visit.",
            "key": "visit_id",
            "columns": {
                "visit_id": {"type": "text", "generate": {"id": "v"}},
                "customer_id": {"type": "text", "references": "customer", **column},
            },
        }
    }


def test_a_run_without_a_row_to_refer_to_has_null_or_is_refused() -> None:
    rows = {"friend": {"table": "customer", "count": {"uniform": [0, 2]}}, "visit": 2}
    made = generate(request(shop(rows, _visit(nullable=True))), 1, 40)
    with_friends = set(made["customer"]["test_run_id"].to_pylist())
    assert 10 < len(with_friends) < 40
    for row in made["visit"].to_pylist():
        assert (row["customer_id"] is not None) == (row["test_run_id"] in with_friends)
    with pytest.raises(
        AtdmError, match=r"visit\.customer_id: .*customer, of which a run may have no row"
    ):
        request(shop(rows, _visit()))


def test_a_case_may_name_a_column_of_the_parent() -> None:
    columns = {
        **TABLES["line"]["columns"],
        "state": {
            "type": "text",
            "generate": {"case": "parent.state", "paid": "yes", "else": "no"},
        },
    }
    made = generate(request(shop(tables={"line": {**TABLES["line"], "columns": columns}})), 1, 40)
    states = {row["purchase_id"]: row["state"] for row in made["purchase"].to_pylist()}
    found = {(states[row["purchase_id"]], row["state"]) for row in made["line"].to_pylist()}
    assert found == {("paid", "yes"), ("open", "no")}


def test_a_row_reads_its_parent_where_shared_rows_are_too() -> None:
    stock = {
        "description": "What is left of a category.",
        "key": "stock_id",
        "columns": {
            "stock_id": {"type": "text", "generate": {"id": "s"}},
            "vat": {"type": "numeric(4,2)", "generate": {"sql": "category.vat + 1"}},
        },
    }
    rows = {"category": 1, "stock": {"per": "category"}}
    made = generate(request(shop(rows, {"stock": stock})), 1, 40)
    assert set(made["stock"]["vat"].to_pylist()) == {Decimal("8.00")}


def test_a_column_of_no_row_is_null() -> None:
    visit = _visit(nullable=True)
    sql = "coalesce(customer.first_name, 'nobody')"
    visit["visit"]["columns"]["name"] = {"type": "text", "generate": {"sql": sql}}
    rows = {"friend": {"table": "customer", "count": {"uniform": [0, 2]}}, "visit": 2}
    made = generate(request(shop(rows, visit)), 1, 40)
    names = {row["customer_id"]: row["first_name"] for row in made["customer"].to_pylist()}
    visits = made["visit"].to_pylist()
    assert None in {row["customer_id"] for row in visits}
    for row in visits:
        assert row["name"] == names.get(row["customer_id"], "nobody")


def test_a_run_without_rows_of_its_own_refers_to_shared_ones() -> None:
    rows = {**ROWS, "category": {"count": {"uniform": [0, 1]}}}
    made = generate(request(shop(rows)), 1, 40)
    own = set(made["category"]["test_run_id"].to_pylist())
    for row in made["line"].to_pylist():
        assert row["category"].startswith("cat-") == (row["test_run_id"] in own)
        assert row["vat"] is not None
    assert {row["category"] for row in made["line"].to_pylist()} >= {"food", "toys", "books"}


def test_sql_may_use_constraints_and_rows_above_by_the_name_of_their_group() -> None:
    columns = {
        **_without_total()["columns"],
        "reason": {"type": "text", "generate": {"sql": "friend.status || lines || parent.vip"}},
    }
    rows = {
        "customer": 1,
        "friend": {"table": "customer", "with": {"customer_status": "loyal"}},
        "purchase": {"per": "friend"},
    }
    table = {**TABLES["purchase"], "columns": columns}
    spec = request(shop(rows, {"purchase": table}), {"lines": 4, "vip": False})
    assert set(generate(spec, 1, 40)["purchase"]["reason"].to_pylist()) == {"loyal4false"}
    rows["purchase"] = {"count": 1}
    with pytest.raises(AtdmError, match="does not refer to friend"):
        generate(request(shop(rows, {"purchase": table})), 1, 1)


def test_a_key_of_several_columns_cannot_be_referred_to() -> None:
    customer = {**TABLES["customer"], "key": ["customer_id", "login"]}
    with pytest.raises(AtdmError, match="key of several columns"):
        generate(
            request(shop({"customer": 1, "visit": 1}, {"customer": customer, **_visit()})), 1, 1
        )


def test_sql_may_use_a_column_named_like_a_table() -> None:
    """``category`` is a column of ``line`` and the table it refers to."""
    columns = {
        **TABLES["line"]["columns"],
        "who": {"type": "text", "generate": {"sql": "category || ':' || category.vat"}},
    }
    made = generate(request(shop(tables={"line": {**TABLES["line"], "columns": columns}})), 1, 40)
    for row in made["line"].to_pylist():
        assert row["who"] == f"{row['category']}:{row['vat']}"


def test_an_expression_that_gives_several_values_a_row_is_refused() -> None:
    with pytest.raises(AtdmError, match="one value a row"):
        one_column({"type": "integer", "generate": {"sql": "unnest([1, 2])"}}, 3)


def test_integer_division_and_times_are_those_of_postgresql_in_utc() -> None:
    assert set(one_column({"type": "integer", "generate": {"sql": "7 / 2"}}, 3).to_pylist()) == {3}
    others = {"moment": {"type": "timestamptz", "generate": {"constant": "2026-01-01T23:30:00Z"}}}
    day = {"type": "date", "generate": {"sql": "CAST(moment AS date)"}}
    assert {str(value) for value in one_column(day, 3, others=others)} == {"2026-01-01"}
    json = {"type": "jsonb", "generate": {"sql": "json_object('b', 1, 'a', 'x')"}}
    assert set(one_column(json, 3).to_pylist()) == {'{"a":"x","b":1}'}


def test_reference_rows_and_rows_of_the_run_stand_side_by_side() -> None:
    rows = {**ROWS, "category": 1}
    made = generate(request(shop(rows)), 1, 40)
    assert made["category"]["code"].to_pylist() == [
        f"cat-{run_id(REQUEST, n)}" for n in range(1, 41)
    ]
    for row in made["line"].to_pylist():
        assert row["category"] == f"cat-{row['test_run_id']}"
        assert row["vat"] == Decimal("7.00")
    given = generate(request(shop(rows), {"category": "toys"}), 1, 40)
    assert set(given["line"]["vat"].to_pylist()) == {Decimal("19.00")}


def test_a_circle_of_columns_is_named() -> None:
    others = {"y": {"type": "text", "generate": {"sql": "x || '1'"}}}
    with pytest.raises(AtdmError) as caught:
        one_column({"type": "text", "generate": {"sql": "y || '2'"}}, 3, others=others)
    assert caught.value.code == ErrorCode.SPEC_INVALID
    assert "single.y -> single.x -> single.y" in str(caught.value)


@pytest.mark.parametrize(
    "sql", ["random()", "now()", "current_date", "(SELECT 1 FROM read_csv('x'))"]
)
def test_sql_that_the_rows_do_not_decide_is_refused(sql: str) -> None:
    with pytest.raises(AtdmError) as caught:
        one_column({"type": "text", "generate": {"sql": sql}}, 3)
    assert caught.value.code == ErrorCode.SPEC_INVALID
    assert "single.x" in str(caught.value)


def test_sql_names_that_do_not_exist_are_refused() -> None:
    with pytest.raises(AtdmError, match=r"single\.x"):
        one_column({"type": "text", "generate": {"sql": "nothing || 'a'"}}, 3)
    with pytest.raises(AtdmError, match="does not refer to customer"):
        one_column({"type": "text", "generate": {"sql": "customer.status || 'a'"}}, 3)


def test_runs_outside_the_request_are_refused() -> None:
    spec = request(runs=3)
    for first, last in ((0, 1), (1, 4), (3, 2)):
        with pytest.raises(ValueError, match="not within"):
            generate(spec, first, last)
    with pytest.raises(ValueError, match="batch_runs"):
        next(iter(batches(spec, 0)))


def test_moving_exposures_are_read_from_the_rows() -> None:
    exposes = (
        Exposure("friend_id", "customer", "customer_id", "friend", None),
        Exposure("customer_id", "customer", "customer_id", "customer", 0),
    )
    spec = request(shop(exposes=exposes))
    found: dict[int, Any] = {}
    for batch in batches(spec, 9):
        numbers, data = exposed_data(spec, batch)
        found.update(zip(numbers, data, strict=True))
    assert sorted(found) == list(range(1, 41))
    rows = whole(spec)["customer"].to_pylist()
    for number, data in found.items():
        mine = [row["customer_id"] for row in rows if row["test_run_id"] == run_id(REQUEST, number)]
        assert data == {"friend_id": mine[1] if len(mine) > 1 else None}
    assert exposed_data(request(), {}) == ([], [])


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("tokyo")
def test_the_machines_time_zone_changes_nothing(made: dict[str, pa.Table]) -> None:
    assert time.strftime("%z") == "+0900"
    for name, table in whole(request()).items():
        assert table.equals(made[name])


def test_another_process_with_another_hash_seed_makes_the_same_rows() -> None:
    code = (
        "from tests.unit.generation.test_generation import request_hash\n"
        "from tests.support.shop import request\n"
        "print(request_hash(request()))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "99", "TZ": "America/New_York"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == request_hash(request())


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    runs=st.integers(1, 12),
    batch_runs=st.integers(3, 13),
    base=st.integers(0, 10_000),
)
def test_any_seed_batch_and_base_keep_the_laws(
    seed: int, runs: int, batch_runs: int, base: int
) -> None:
    spec = request(runs=runs, seed=seed, number_base=base)
    one = whole(spec, batch_runs)
    two = whole(spec, runs)
    for name, table in one.items():
        assert table.equals(two[name])
    keys = set(one["customer"]["customer_id"].to_pylist())
    assert len(keys) == one["customer"].num_rows
    assert set(one["purchase"]["customer_id"].to_pylist()) <= keys
    other = request(runs=runs, seed=seed, number_base=0, request_id=OTHER_REQUEST)
    assert request_hash(other, 5) == request_hash(spec, batch_runs)
