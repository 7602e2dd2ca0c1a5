"""The binary form of COPY: every kind of column first, in the middle and last."""

from __future__ import annotations

from itertools import permutations

import pyarrow as pa
import pytest

from atdm_resources.postgres.columns import TableColumn
from atdm_resources.postgres.copy_binary import has_binary_form, rows_as_binary

VALUES: dict[str, tuple[str, pa.Array, list[bytes | None]]] = {
    "text": ("text", pa.array(["a", None, "b\u00e4"]), [b"a", None, b"b\xc3\xa4"]),
    "jsonb": ("jsonb", pa.array([None, "{}", "1"]), [None, b"\x01{}", b"\x011"]),
    "boolean": ("boolean", pa.array([True, False, True]), [b"\1", b"\0", b"\1"]),
    "integer": (
        "integer",
        pa.array([7, None, -1], pa.int32()),
        [b"\0\0\0\7", None, b"\xff" * 4],
    ),
    "nothing": ("text", pa.array([None] * 3, pa.string()), [None] * 3),
    "date": (
        "date",
        pa.array([10_957, 10_956, 10_958], pa.int32()).view(pa.date32()),
        [bytes(4), b"\xff" * 4, b"\0\0\0\1"],
    ),
    "double": ("double precision", pa.array([1.0, 0.0, -2.0]), [
        bytes.fromhex("3ff0000000000000"), bytes(8), bytes.fromhex("c000000000000000"),
    ]),
}  # fmt: skip


def field(value: bytes | None) -> bytes:
    return b"\xff" * 4 if value is None else len(value).to_bytes(4, "big") + value


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_are_what_the_protocol_says(size: int) -> None:
    for names in permutations(VALUES, size):
        columns = [TableColumn(name=name, type=VALUES[name][0]) for name in names]
        arrays = [VALUES[name][1] for name in names]
        batch = pa.record_batch(arrays, names=list(names))
        assert has_binary_form(columns, batch.schema)
        for start in (0, 1):
            expected = b"".join(
                len(names).to_bytes(2, "big") + b"".join(field(VALUES[n][2][row]) for n in names)
                for row in range(start, 3)
            )
            assert rows_as_binary(batch.slice(start), columns).to_pybytes() == expected, names


@pytest.mark.parametrize(
    ("declared", "array"),
    [
        ("numeric(10,2)", pa.array(["1.00"])),
        ("text[]", pa.array(["{}"])),
        ("date", pa.array(["2024-02-29"])),
        ("zoo.mood", pa.array(["glad"])),
        ("timestamp without time zone", pa.array(["2024-02-29 10:00:00"])),
    ],
)
def test_other_types_have_none(declared: str, array: pa.Array) -> None:
    column = TableColumn(name="a", type=declared)
    assert not has_binary_form([column], pa.schema([("a", array.type)]))
