"""Rows off the socket are the rows that the driver reads; the connection is sound afterwards."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.copy_stream import _row_by_row, copied

TABLE = "CREATE TABLE t (id integer, text text)"


@pytest.fixture
def conn(empty_database: str) -> Any:
    with connect(empty_database) as connection:
        connection.execute(TABLE)
        yield connection


def statement(query: str) -> sql.Composed:
    return sql.SQL("COPY ({}) TO STDOUT (FORMAT csv)").format(sql.SQL(query))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 WHERE false",
        "SELECT NULL",
        "SELECT g FROM generate_series(1, 300000) AS g",
        "SELECT g, repeat('d', g % 300), E'a\\nb\"c' FROM generate_series(1, 50000) AS g",
        # Messages whose length looks like a header: 0x6400, 0x640000, and their neighbours.
        "SELECT repeat('x', 25590 + g % 12) FROM generate_series(1, 400) AS g",
        "SELECT repeat('x', 6553590 + g) FROM generate_series(1, 9) AS g",
        "SELECT CASE WHEN g % 50 = 0 THEN repeat('y', 25595) ELSE g::text END"
        " FROM generate_series(1, 20000) AS g",
        # The first byte of the length is not 0.
        "SELECT repeat('z', 20000000) FROM generate_series(1, 3)",
    ],
)
def test_the_stream_is_what_the_driver_reads(conn: psycopg.Connection[Any], query: str) -> None:
    with conn.transaction():
        pieces = [piece.to_pybytes() for piece in copied(conn, statement(query))]
        expected = [piece.to_pybytes() for piece in _row_by_row(conn, statement(query))]
        assert b"".join(pieces) == b"".join(expected)
        assert all(piece.endswith(b"\n") for piece in pieces)
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_an_error_in_the_middle_is_the_servers_and_the_connection_goes_on(
    conn: psycopg.Connection[Any],
) -> None:
    query = "SELECT 1 / (200000 - g) FROM generate_series(1, 300000) AS g"
    with pytest.raises(psycopg.errors.DivisionByZero, match="division by zero"), conn.transaction():
        list(copied(conn, statement(query)))
    assert conn.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.errors.UndefinedTable):
        list(copied(conn, statement("SELECT * FROM missing")))
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_it_sees_what_its_own_transaction_has_written(conn: psycopg.Connection[Any]) -> None:
    with conn.transaction():
        conn.execute("INSERT INTO t VALUES (1, 'own')")
        (piece,) = copied(conn, statement("SELECT * FROM t"))
        assert piece.to_pybytes() == b"1,own\n"


def test_whoever_stops_in_the_middle_closes_the_connection(
    conn: psycopg.Connection[Any],
) -> None:
    rows = copied(conn, statement("SELECT g FROM generate_series(1, 5000000) AS g"))
    assert next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert conn.closed
