"""Whether the rows that the server has stored equal those that were sent, without reading them.

The hash of a row is the exclusive or of its cells' 64-bit hashes, each column with its own seed;
the hash of a table is the sum (ADR 0081). PostgreSQL hashes bytes with Bob Jenkins' lookup3, which
hash partitioning relies on; ``server_agrees`` checks the server before its hashes are used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import sql

from atdm_engine.arrow.text_columns import null_rows, starts_and_lengths
from atdm_engine.random.stream import U64
from atdm_resources.postgres.columns import TableColumn
from atdm_resources.postgres.copy_binary import since_2000

U32 = NDArray[np.uint32]

_BLOCK = 16_384
_SAMPLE = 1_024
_START = 0x9E3779B9 + 3923095
_TRIPLE = 12
_SIZES = (64, 256, 1_024, 4_096)
_PARAMETERS = re.compile(r"\(.*\)")
_PRINTED: Final = {
    "numeric": "numeric_out",
    "uuid": "uuid_out",
    "json": "json_out",
    "jsonb": "jsonb_out",
    "real": "float4out",
    "double precision": "float8out",
    "bytea": "byteaout",
    "interval": "interval_out",
    "timestamp without time zone": "timestamp_out",
    "time without time zone": "time_out",
    "inet": "inet_out",
}
"""Types that a baseline holds as text, with the server's function that makes the text."""


class NotComparableError(Exception):
    """A text is too long to be hashed here."""


class SentHash:
    """The hash that the server computes of rows once it has stored them."""

    def __init__(self) -> None:
        self.rows = 0
        self.total = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows; they must have the columns of ``expression``, in its order.

        Raises:
            NotComparableError: a text of these rows is too long.
        """
        for start in range(0, batch.num_rows, _BLOCK):
            block = batch.slice(start, _BLOCK)
            cells = np.zeros(block.num_rows, np.uint64)
            for seed, column in enumerate(block.columns, 1):
                cells ^= column_hashes(column, seed)
            # The server adds signed numbers, which is the same modulo 2**64.
            self.total = (self.total + int(cells.sum(dtype=np.uint64))) % 2**64
        self.rows += batch.num_rows


def expression(columns: Sequence[TableColumn], schema: pa.Schema) -> sql.Composable | None:
    """The hash of a row as SQL; None when the server has no hash of a column as it was sent."""
    terms = []
    for seed, (column, field) in enumerate(zip(columns, schema, strict=True), 1):
        term = _term(column.name, column, field.type, seed)
        if term is None:
            return None
        terms.append(sql.SQL("coalesce({}, 0)").format(term))
    return sql.SQL(" # ").join(terms)


def stored(
    conn: psycopg.Connection[Any], relation: sql.Composable, row: sql.Composable
) -> tuple[int, int]:
    """The number of rows of a table, and their hash, in the transaction of ``conn``."""
    query = sql.SQL("SELECT count(*), coalesce(sum({}), 0) FROM ONLY {}").format(row, relation)
    found = conn.execute(query).fetchone()
    assert found is not None
    return int(found[0]), int(found[1]) % 2**64


def server_agrees(conn: psycopg.Connection[Any]) -> bool:
    """Whether this server's hash functions are those of this module."""
    texts = ["", "a", "twelve bytes", "\u00e4" * 7, "more than two dozen bytes of text"]
    moment = 694_317_600_123_456
    try:
        with conn.transaction():
            row = conn.execute(_PROBE, {"texts": texts}).fetchone()
    except psycopg.errors.UndefinedFunction:
        return False
    assert row is not None
    expected = [
        *column_hashes(pa.array(texts, pa.string()), 7).view(np.int64).tolist(),
        *_number_hashes(np.array([-5, moment], np.int64), 8).view(np.int64).tolist(),
        *_number_hashes(np.array([8_825], np.int32), 9).view(np.int64).tolist(),
    ]
    return [*row[0], *row[1:]] == expected


def column_hashes(column: pa.Array, seed: int) -> U64:
    """The server's hash of each cell; 0 for NULL."""
    kind = column.type
    if pa.types.is_string(kind):
        return _column_of_texts(column, seed)
    if pa.types.is_temporal(kind):
        numbers = since_2000(column)
    else:
        whole = column.cast(pa.int64())
        numbers = np.frombuffer(whole.buffers()[1], np.int64)[whole.offset :][: len(whole)]
    hashes = _number_hashes(numbers, seed)
    if column.null_count:
        hashes[null_rows(column)] = 0
    return hashes


def _term(name: str, column: TableColumn, kind: pa.DataType, seed: int) -> sql.Composed | None:
    declared = _PARAMETERS.sub("", column.type)
    if pa.types.is_string(kind):
        if declared in ("text", "character varying"):
            form = sql.SQL('hashtextextended({column} COLLATE "C", {seed})')
        elif declared in _PRINTED and column.spec_type in (None, "uuid"):
            form = sql.SQL("hashtextextended(textin({printed}({column})), {seed})")
        else:
            # Generated JSON was not printed by the server, which prints it in another form.
            return None
    elif pa.types.is_temporal(kind):
        form = sql.SQL("hash_record_extended(ROW({column}), {seed})")
    elif pa.types.is_boolean(kind):
        form = sql.SQL("hashint8extended({column}::integer, {seed})")
    elif pa.types.is_integer(kind):
        form = sql.SQL("hashint8extended({column}, {seed})")
    else:
        return None
    return form.format(
        column=sql.Identifier(name),
        seed=sql.Literal(seed),
        printed=sql.Identifier(_PRINTED.get(declared, "textout")),
    )


def _column_of_texts(column: pa.StringArray, seed: int) -> U64:
    sample = column.slice(0, _SAMPLE)
    if len(column) > _SAMPLE and len(sample.unique()) <= _SAMPLE // 4:
        coded = column.dictionary_encode()
        hashes = np.append(_text_hashes(coded.dictionary, seed), np.uint64(0))
        places = coded.indices
        numbers = np.frombuffer(places.buffers()[1], np.int32)[places.offset :][: len(places)]
        if column.null_count:
            numbers = np.where(null_rows(column), np.int32(len(hashes) - 1), numbers)
        return hashes[numbers]
    return _text_hashes(column, seed)


def _text_hashes(column: pa.StringArray, seed: int) -> U64:
    data, starts, lengths = starts_and_lengths(column)
    hashes = np.zeros(len(column), np.uint64)
    if not len(column):
        return hashes
    longest = int(lengths.max())
    if longest < 0:
        return hashes
    if longest > _SIZES[-1]:
        raise NotComparableError(f"a text of {longest} bytes")
    if longest == int(lengths.min()) and longest <= _SIZES[0]:
        begin = int(starts[0])
        padded = np.zeros((len(column), _width(longest)), np.uint8)
        padded[:, :longest] = data[begin : begin + len(column) * longest].reshape(-1, longest)
        return _lookup3(padded, lengths, seed)
    least = -1
    for most in _SIZES:
        # Texts of similar length at a time, because each takes the space of the longest.
        rows = np.flatnonzero((lengths > least) & (lengths <= most))
        least = most
        if not len(rows):
            continue
        sizes = lengths[rows]
        width = _width(int(sizes.max()))
        begin, end = int(starts[rows[0]]), int(starts[rows[-1]] + sizes[-1])
        filled = np.zeros(end - begin + width, np.uint8)
        filled[: end - begin] = data[begin:end]
        windows = np.lib.stride_tricks.sliding_window_view(filled, width)
        padded = windows[starts[rows] - begin]
        padded[np.arange(width) >= sizes[:, None]] = 0
        hashes[rows] = _lookup3(padded, sizes, seed)
    return hashes


def _width(longest: int) -> int:
    return (longest // _TRIPLE + 1) * _TRIPLE


def _lookup3(padded: NDArray[np.uint8], sizes: NDArray[np.int64], seed: int) -> U64:
    """``hash_bytes_extended`` of the first ``sizes`` bytes of each row; the others are 0."""
    words = np.ascontiguousarray(padded.view("<u4").T)
    a = (sizes + _START).astype(np.uint32)
    b, c = a.copy(), a.copy()
    if seed:
        a += np.uint32(seed >> 32)
        b += np.uint32(seed & 0xFFFFFFFF)
        _mix(a, b, c)
    shortest = int(sizes.min())
    full = int(sizes.max()) // _TRIPLE
    for block in range(full):
        one, two, three = words[3 * block : 3 * block + 3]
        if shortest >= _TRIPLE * (block + 1):
            a += one
            b += two
            c += three
            _mix(a, b, c)
            continue
        rows = np.flatnonzero(sizes >= _TRIPLE * (block + 1))
        some = a[rows] + one[rows], b[rows] + two[rows], c[rows] + three[rows]
        _mix(*some)
        a[rows], b[rows], c[rows] = some
    if shortest // _TRIPLE == full:
        one, two, three = words[3 * full : 3 * full + 3]
    else:
        place, row = 3 * (sizes // _TRIPLE), np.arange(len(sizes))
        one, two, three = words[place, row], words[place + 1, row], words[place + 2, row]
    a += one
    b += two
    # The lowest byte of the third word is reserved for the length, which is in ``c`` already.
    c += three << np.uint32(8)
    return _final(a, b, c)


def _number_hashes(numbers: NDArray[Any], seed: int) -> U64:
    """``hashint8extended`` and what dates and instants have: 64 bits folded into 32."""
    low = numbers.astype(np.int64).view(np.uint64)
    high = (low >> np.uint64(32)).astype(np.uint32)
    folded = low.astype(np.uint32)
    if numbers.dtype.itemsize == 8:
        folded ^= np.where(numbers >= 0, high, ~high)
    a = np.full(len(numbers), (_START + 4) & 0xFFFFFFFF, np.uint32)
    b, c = a.copy(), a.copy()
    if seed:
        a += np.uint32(seed >> 32)
        b += np.uint32(seed & 0xFFFFFFFF)
        _mix(a, b, c)
    a += folded
    return _final(a, b, c)


def _mix(a: U32, b: U32, c: U32) -> None:
    turned, scratch = np.empty_like(a), np.empty_like(a)

    def step(x: U32, y: U32, z: U32, bits: int) -> None:
        """x -= z; x ^= z turned by bits; z += y."""
        np.subtract(x, z, out=x)
        _turn(z, bits, turned, scratch)
        np.bitwise_xor(x, turned, out=x)
        np.add(z, y, out=z)

    step(a, b, c, 4)
    step(b, c, a, 6)
    step(c, a, b, 8)
    step(a, b, c, 16)
    step(b, c, a, 19)
    step(c, a, b, 4)


def _final(a: U32, b: U32, c: U32) -> U64:
    turned, scratch = np.empty_like(a), np.empty_like(a)
    for x, y, bits in (
        (c, b, 14),
        (a, c, 11),
        (b, a, 25),
        (c, b, 16),
        (a, c, 4),
        (b, a, 14),
        (c, b, 24),
    ):
        np.bitwise_xor(x, y, out=x)
        _turn(y, bits, turned, scratch)
        np.subtract(x, turned, out=x)
    return (b.astype(np.uint64) << np.uint64(32)) | c


def _turn(value: U32, bits: int, turned: U32, scratch: U32) -> None:
    np.left_shift(value, np.uint32(bits), out=turned)
    np.right_shift(value, np.uint32(32 - bits), out=scratch)
    np.bitwise_or(turned, scratch, out=turned)


_PROBE = """
SELECT ARRAY(SELECT hashtextextended(t.text COLLATE "C", 7)
             FROM unnest(%(texts)s::text[]) WITH ORDINALITY AS t (text, place) ORDER BY t.place),
       hashint8extended(-5, 8),
       hash_record_extended(ROW('2022-01-01 02:00:00.123456+00'::timestamptz), 8),
       hash_record_extended(ROW('2024-02-29'::date), 9)
"""
