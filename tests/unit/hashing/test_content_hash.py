"""The content hash: what changes it and what must not."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atdm_engine.generation.batches import generate
from atdm_engine.generators.unique import Unique
from atdm_engine.hashing.content import (
    ContentHash,
    added,
    cell_hashes,
    combined,
    computed_from_unique,
)
from atdm_engine.hashing.texts import text_hashes
from atdm_engine.spec.table import ColumnSpec
from tests.support.shop import OTHER_REQUEST, REQUEST, one_column, request

MARKER = REQUEST[:20].encode()
SPEC = request()
MADE = generate(SPEC, 1, 40)


def table_hash(name: str, *tables: pa.Table, request_id: str = REQUEST, base: int = 0) -> str:
    one = ContentHash(SPEC.domain, name, request_id, base)
    for table in tables:
        one.add(table)
    return one.hexdigest()


def one_hash(values: pa.Array) -> int:
    return int(cell_hashes(values, MARKER)[0])


@pytest.mark.parametrize("name", ["customer", "purchase", "line"])
def test_order_batches_and_chunks_do_not_matter(name: str) -> None:
    table = MADE[name]
    expected = table_hash(name, table)
    assert len(expected) == 32
    assert int(expected, 16) > 0
    shuffled = table.take(np.random.default_rng(1).permutation(table.num_rows))
    assert table_hash(name, shuffled) == expected
    pieces = [table.slice(start, 7) for start in range(0, table.num_rows, 7)]
    assert table_hash(name, *pieces) == expected
    assert table_hash(name, pa.concat_tables(pieces)) == expected
    assert table_hash(name, table.select(table.column_names[::-1])) == expected


def test_parts_can_be_added_up() -> None:
    table = MADE["line"]
    one, two = (ContentHash(SPEC.domain, "line", REQUEST) for _ in range(2))
    one.add(table.slice(0, 20))
    two.add(table.slice(20))
    assert added([one.hexdigest(), two.hexdigest()]) == table_hash("line", table)
    assert one.rows + two.rows == table.num_rows


@pytest.mark.parametrize("name", ["customer", "purchase", "line"])
def test_any_changed_cell_changes_it(name: str) -> None:
    table = MADE[name]
    expected = table_hash(name, table)
    for number, column in enumerate(table.column_names):
        if column in computed_from_unique(SPEC.domain, name):
            continue
        values = table[column].to_pylist()
        if values[3] == values[5]:
            values[3] = None
        else:
            values[3], values[5] = values[5], values[3]
        field = table.schema.field(number)
        changed = table.set_column(number, field, pa.array(values, field.type))
        assert table_hash(name, changed) != expected, column


def test_a_lost_and_a_doubled_row_change_it() -> None:
    table = MADE["line"]
    hashes = {
        table_hash("line", table),
        table_hash("line", table.slice(1)),
        table_hash("line", table, table.slice(0, 1)),
        table_hash("line", table, table.slice(0, 1), table.slice(0, 1)),
    }
    assert len(hashes) == 4


def test_values_may_not_move_between_columns() -> None:
    table = MADE["purchase"]
    swapped = table.set_column(4, "state", table["reason"]).set_column(5, "reason", table["state"])
    assert table_hash("purchase", swapped) != table_hash("purchase", table)


def test_another_request_for_the_same_rows_has_the_same_hash() -> None:
    other = generate(request(request_id=OTHER_REQUEST, number_base=12_345), 1, 40)
    for name, table in MADE.items():
        expected = table_hash(name, table)
        made = table_hash(name, other[name], request_id=OTHER_REQUEST, base=12_345)
        assert made == expected
        # The same texts under the wrong request are other data.
        assert table_hash(name, other[name]) != expected


def test_a_changed_unique_value_is_noticed() -> None:
    table = MADE["customer"]
    expected = table_hash("customer", table)
    for column, wrong in (
        ("login", "Ann-0000000"),
        ("card", "000000000000"),
        ("token", "00000000-0000-4000-8000-000000000000"),
        ("number", 1000),
    ):
        place = table.column_names.index(column)
        values = table[column].to_pylist()
        values[0] = wrong
        field = table.schema.field(column)
        changed = table.set_column(place, field, pa.array(values, field.type))
        assert table_hash("customer", changed) != expected, column


def test_columns_computed_from_unique_ones_are_left_out() -> None:
    assert computed_from_unique(SPEC.domain, "customer") == {"email"}
    assert computed_from_unique(SPEC.domain, "line") == frozenset()


def test_null_is_not_empty_and_zero_is_not_false_by_accident() -> None:
    text = [one_hash(pa.array([value], pa.string())) for value in (None, "", "\0", " ", "null")]
    assert len(set(text)) == 5
    assert one_hash(pa.array([None], pa.int32())) != one_hash(pa.array([0], pa.int32()))
    assert one_hash(pa.array([None], pa.list_(pa.string()))) != one_hash(
        pa.array([[]], pa.list_(pa.string()))
    )


def test_floats_are_hashed_by_value() -> None:
    def bits(value: float) -> int:
        return one_hash(pa.array([value], pa.float64()))

    odd_nan = np.array([0x7FF8000000000123], np.uint64).view(np.float64)
    assert bits(0.0) == bits(-0.0)
    assert bits(math.nan) == int(cell_hashes(pa.array(odd_nan), MARKER)[0])
    assert len({bits(value) for value in (0.1, 0.1 + 2**-56, -0.1, math.inf, math.nan, 0.0)}) == 6


def test_decimals_and_arrays_are_hashed_by_value() -> None:
    kind = pa.decimal128(38, 2)
    values = [Decimal("1.00"), Decimal("-1.00"), Decimal(2**80), Decimal(2**80) + 2**70]
    assert len({one_hash(pa.array([value], kind)) for value in values}) == 4
    lists: list[Any] = [
        ["a", "b"],
        ["b", "a"],
        ["ab"],
        ["a", "b", ""],
        [],
        [None],
        ["a"],
        ["", "a"],
    ]
    array = pa.array(lists, pa.list_(pa.string()))
    hashes = cell_hashes(array, MARKER).tolist()
    assert len(set(hashes)) == len(lists)
    assert cell_hashes(array.slice(2, 3), MARKER).tolist() == hashes[2:5]


def test_sliced_arrays_hash_like_their_rows() -> None:
    for name, table in MADE.items():
        for column in table.column_names:
            array = table[column].combine_chunks()
            everything = cell_hashes(array, MARKER)
            assert (cell_hashes(array.slice(5, 9), MARKER) == everything[5:14]).all(), (
                name,
                column,
            )


STORABLE = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
"""What a text of a database may hold: NUL is kept for the request's stand-in."""

TEXTS = st.lists(
    st.none()
    | st.text(STORABLE, max_size=30)
    | st.sampled_from(["m-{}000001", "{}", "x{}y{}", "claim-{}00000Z-12"]),
    min_size=1,
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(texts=TEXTS)
def test_texts_hash_alike_for_equal_texts_only_whatever_is_beside_them(
    texts: list[str | None],
) -> None:
    here = [text and text.replace("{}", REQUEST[:20]) for text in texts]
    there = [text and text.replace("{}", OTHER_REQUEST[:20]) for text in texts]
    one = text_hashes(pa.array(here, pa.string()), MARKER)
    assert (text_hashes(pa.array(there, pa.string()), OTHER_REQUEST[:20].encode()) == one).all()
    known: dict[str, int] = {}
    for text, value in zip(here, one.tolist(), strict=True):
        if text is not None:
            alone = int(text_hashes(pa.array([text]), MARKER)[0])
            assert alone == value
            assert known.setdefault(text, value) == value
    assert len(set(known.values())) == len(known)


def test_text_hashes_are_the_same_for_ever() -> None:
    texts = pa.array(["", "a", "exactly8", "nine char", "Jörg", "m-" + REQUEST[:20] + "000001"])
    assert text_hashes(texts, MARKER).tolist() == [
        11400714819323198485,
        3937210033982468266,
        9516201741818913453,
        17338551632887241857,
        3204544869158254937,
        10564177722939494767,
    ]


def test_the_rows_of_a_seed_are_the_same_for_ever() -> None:
    assert {name: table_hash(name, table) for name, table in MADE.items()} == {
        "customer": "e93c0248e129e7107d33b6ddf7265ae8",
        "purchase": "1ae88e9535be2a258d4b21e30a67aa4f",
        "line": "13ebc3271ad8739c4824664ebdc7149e",
    }


def test_texts_spread_without_collisions() -> None:
    texts = pa.array(
        [f"{prefix}{number}" for prefix in ("", "a", "ab") for number in range(50_000)]
    )
    hashes = text_hashes(texts, MARKER)
    assert len(np.unique(hashes)) == 150_000
    for shift in (0, 24, 56):
        counts = np.bincount(
            ((hashes >> np.uint64(shift)) & np.uint64(0xFF)).astype(int), minlength=256
        )
        statistic = float(((counts - 150_000 / 256) ** 2 / (150_000 / 256)).sum())
        assert 150 < statistic < 380  # p > 1e-6 with 255 degrees of freedom


def test_run_ids_inside_json_stand_as_run_numbers() -> None:
    def made(request_id: str) -> pa.Array:
        texts = [json.dumps({"id": f"cust-{request_id[:20]}00000{n}"}) for n in "123"]
        return text_hashes(pa.array([*texts, "none"]), request_id[:20].encode())

    assert made(REQUEST).tolist() == made(OTHER_REQUEST).tolist()
    assert len(set(made(REQUEST).tolist())) == 4


def test_missing_columns_and_wrong_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="columns are missing: quantity"):
        table_hash("line", MADE["line"].drop(["quantity"]))
    with pytest.raises(ValueError, match="no request id"):
        ContentHash(SPEC.domain, "line", "x")


def test_the_hash_of_nothing_and_of_a_request() -> None:
    assert table_hash("line") == "0" * 32
    hashes = {"a": "1" * 32, "b": "2" * 32}
    assert combined(hashes) == combined(dict(reversed(hashes.items())))
    assert combined(hashes) != combined({"a": "2" * 32, "b": "1" * 32})
    assert len(combined({})) == 32


def test_unique_values_of_every_generator_are_found_again() -> None:
    cases: list[tuple[str, Any]] = [
        ("text", {"pattern": "[A-Z]{3}[0-9]{2}", "prefix": "K-"}),
        ("integer", {"integer": {"min": -500, "max": 5000}}),
        ("numeric(9,2)", {"integer": {"min": 0, "max": 5000}}),
        ("uuid", {"uuid": 4}),
        ("text", {"faker": "first_name", "prefix": "FAKE_"}),
        ("text", {"choice": ["a", "b-c"]}),
        ("text", {"text": {"min_words": 1, "max_words": 2}}),
    ]
    for kind, generate_as in cases:
        column = {"type": kind, "unique": True, "generate": generate_as}
        values = one_column(column, 400, number_base=100)
        assert len(set(values.to_pylist())) == 400
        generator = ColumnSpec.model_validate(column).generate
        assert generator is not None
        numbers, words = Unique("shop.single.x", generator, kind).numbers_of(values)
        assert numbers.tolist() == list(range(100, 500)), generate_as
        assert (words is None) == (kind != "text" or "pattern" in generate_as)
