"""The CSV that COPY reads: NULL and the empty text stay apart, arrays are PostgreSQL's."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa

from atdm_resources.postgres.copy_csv import copy_csv


def text(**columns: pa.Array) -> str:
    return (
        copy_csv(pa.record_batch(list(columns.values()), names=list(columns))).to_pybytes().decode()
    )


def test_null_and_the_empty_text() -> None:
    column = pa.array(["", None, 'a"b', "c,d", "e\nf", "\\N"])
    assert text(a=column, b=pa.array([1] * 6)) == (
        '"",1\n,1\n"a""b",1\n"c,d",1\n"e\nf",1\n"\\N",1\n'
    )


def test_scalars() -> None:
    assert (
        text(
            a=pa.array([Decimal("1.50")], pa.decimal128(10, 2)),
            b=pa.array([date(2026, 1, 2)]),
            c=pa.array(
                [datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)], pa.timestamp("us", tz="UTC")
            ),
            d=pa.array([True]),
            e=pa.array([0.1]),
            f=pa.array([b"\x00\xff"]),
        )
        == '1.50,2026-01-02,2026-01-02 03:04:05.000006Z,true,0.1,"\\x00ff"\n'
    )


def test_arrays() -> None:
    column = pa.array([["a", 'b"\\', None, ""], [], None])
    assert text(a=column) == '"{""a"",""b\\""\\\\"",NULL,""""}"\n"{}"\n\n'
    assert text(a=pa.array([[1, None], [2]])) == '"{1,NULL}"\n"{2}"\n'
    assert text(a=pa.array([[True, False]])) == '"{true,false}"\n'
    moments = pa.array([[datetime(2026, 1, 2, tzinfo=UTC)]], pa.list_(pa.timestamp("us", "UTC")))
    assert text(a=moments) == '"{""2026-01-02 00:00:00.000000Z""}"\n'


def test_a_slice_of_arrays_is_that_slice() -> None:
    column = pa.array([["x"], ["a", "b"], None, ["c"]]).slice(1, 3)
    assert text(a=column) == '"{""a"",""b""}"\n\n"{""c""}"\n'
