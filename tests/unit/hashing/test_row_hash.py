"""The hash of rows as they are: order does not count, everything else does."""

from __future__ import annotations

import pyarrow as pa
import pytest

from atdm_engine.hashing.content import RowHash, added, cell_hashes

ROWS = pa.table(
    {
        "key": pa.array([1, 2, 3, None], pa.int32()),
        "yes": pa.array([True, False, None, True]),
        "text": pa.array(["", None, "a", "x" * 1000]),
        "more": pa.array(["abcdefgh", "abcdefg", "abcdefghi", ""]),
        "numbers": pa.array([[1, 2], [], None, [None]], pa.list_(pa.int64())),
    }
)


def digest(table: pa.Table, size: int = 1000) -> str:
    found = RowHash()
    for batch in table.to_batches(max_chunksize=size):
        found.add(batch)
    assert found.rows == table.num_rows
    return found.hexdigest()


def test_order_and_batches_do_not_count() -> None:
    expected = digest(ROWS)
    assert digest(ROWS, 1) == digest(ROWS, 3) == expected
    assert digest(ROWS.take([3, 1, 0, 2])) == expected
    one, other = RowHash(), RowHash()
    one.add(ROWS.slice(0, 2).to_batches()[0])
    other.add(ROWS.slice(2).to_batches()[0])
    assert added([one.hexdigest(), other.hexdigest()]) == expected
    assert one.rows + other.rows == 4
    assert len(expected) == 32


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("key", pa.array([1, 2, 4, None], pa.int32())),
        ("key", pa.array([1, 2, 3, 0], pa.int32())),
        ("yes", pa.array([True, None, None, True])),
        ("yes", pa.array([True, False, False, True])),
        ("text", pa.array([None, None, "a", "x" * 1000])),
        ("text", pa.array(["", "", "a", "x" * 1000])),
        ("text", pa.array(["a", None, "", "x" * 1000])),
        ("text", pa.array(["", None, "a", "x" * 999 + "y"])),
        ("text", pa.array(["", None, "a\0", "x" * 1000])),
        ("more", pa.array(["abcdefg", "abcdefgh", "abcdefghi", ""])),
        ("numbers", pa.array([[2, 1], [], None, [None]], pa.list_(pa.int64()))),
    ],
)
def test_every_cell_counts(column: str, values: pa.Array) -> None:
    place = ROWS.schema.get_field_index(column)
    assert digest(ROWS.set_column(place, column, values)) != digest(ROWS)


def test_rows_count_as_often_as_they_are_there() -> None:
    assert digest(pa.concat_tables([ROWS, ROWS])) != digest(ROWS)
    assert digest(ROWS.slice(0, 0)) != digest(ROWS.slice(0, 1))


def test_cells_of_two_columns_do_not_change_places_unseen() -> None:
    one = pa.table({"a": ["x", "p"], "b": ["y", "q"]})
    other = pa.table({"a": ["x", "p"], "b": ["q", "y"]})
    assert digest(one) != digest(other)
    assert digest(one) != digest(pa.table({"a": ["y", "q"], "b": ["x", "p"]}))


def test_texts_hash_alike_whatever_stands_beside_them() -> None:
    """Columns of one length take another way than mixed ones, and long texts a third."""
    texts = [f"{number:07d}" for number in range(100)]
    alike = cell_hashes(pa.array(texts))
    mixed = cell_hashes(pa.array([*texts, "short", "y" * 300]))
    assert (mixed[:100] == alike).all()
    sliced = cell_hashes(pa.array(["zz", *texts]).slice(1))
    assert (sliced == alike).all()
    assert len(set(alike.tolist())) == 100
    assert cell_hashes(pa.array([], pa.string())).tolist() == []


def test_the_hash_is_the_same_for_ever() -> None:
    """Baselines in stores bear it: a change of the hash is a new format version."""
    assert digest(ROWS) == "a222dd4cbd49882c97948b170658b991"
