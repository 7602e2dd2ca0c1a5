"""Rows out of the server and into it again, and what the server says about them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import RowHash
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres import table_rows
from atdm_resources.postgres.columns import TableColumn
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.copy_binary import has_binary_form
from atdm_resources.postgres.introspect import live_tables
from atdm_resources.postgres.stored_hash import (
    NotComparableError,
    SentHash,
    column_hashes,
    expression,
    server_agrees,
    stored,
)
from atdm_resources.postgres.table_rows import (
    arrow_schema,
    encoded,
    fix_text_form,
    read_rows,
    send_rows,
    typed,
)
from atdm_resources.store.files import Store
from atdm_services.baselines import capture as capturing
from atdm_services.baselines import diff, manifest, row_encoder
from atdm_services.baselines import restore as restoring
from atdm_services.baselines.capture import capture
from atdm_services.baselines.restore import restore
from atdm_services.baselines.row_encoder import ProcessEncoder

ACTOR = Actor("human:tester", "test")

PLAIN = """
INSERT INTO atdm.domain (domain) VALUES ('plain');
CREATE SCHEMA plain;
CREATE TABLE plain.one (
    id bigint PRIMARY KEY, small smallint, middle integer, yes boolean, day date,
    moment timestamptz, rounded timestamptz(3), text text, short varchar(40), raw json,
    parsed jsonb);
INSERT INTO plain.one VALUES
    (1, -32768, -2147483648, true, 'infinity', '-infinity', 'infinity', '', '', '{"a": 1}', '[]'),
    (2, 32767, 2147483647, false, '-infinity', '294276-12-31 23:59:59.999999+00',
     '2024-02-29 10:20:30.123+00', E'tab\\t line\\n return\\r \\b\\f\\v back\\\\slash \\\\N \\\\n',
     E'\\\\N', E'{"text": "back\\\\\\\\slash \\\\n"}', E'{"text": "back\\\\\\\\slash \\\\n"}'),
    (-9223372036854775808, 0, 0, NULL, '4714-11-24 BC', '4714-11-24 00:00:00+00 BC', NULL,
     U&'\\00e4\\+01F600 d', 'null', 'null', 'null'),
    (9223372036854775807, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (5, 1, 2, true, '2024-02-29', '1969-12-31 23:59:59.999999+00', '1999-12-31 00:00:00+00',
     repeat('long ', 700), 'x', '[1,  2]', '{"b": 1, "a": [null, 1.50]}');
INSERT INTO plain.one
    SELECT g, g % 300, g, g % 3 = 0, date '2000-01-01' + g, now() + g * interval '7 seconds', now(),
           repeat('ab', g % 40), (g % 7)::text, to_json(g), to_jsonb(g % 5)
    FROM generate_series(100, 22000) AS g;
"""
COLUMNS = 11


@pytest.fixture
def store(tmp_path: Any) -> Store:
    return Store((tmp_path / "store").as_uri())


@pytest.fixture
def conn(target: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(target) as connection:
        connection.execute(PLAIN.encode())
        yield connection


def content(conn: psycopg.Connection[Any], table: str) -> list[bytes]:
    statement = sql.SQL("COPY (SELECT * FROM {} ORDER BY id) TO STDOUT (FORMAT binary)")
    with conn.cursor().copy(statement.format(sql.Identifier("plain", table))) as copy:
        return [bytes(row) for row in copy]


def test_plain_types_come_back_to_the_bit(conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE TABLE plain.two (LIKE plain.one)")
    columns = [typed(column) for column in live_tables(conn, "plain")["one"].columns]
    assert len(columns) == COLUMNS
    assert has_binary_form(columns, arrow_schema(columns))
    with conn.transaction():
        fix_text_form(conn)
        batches = list(read_rows(conn, sql.Identifier("plain", "one"), columns))
        conn.execute("TRUNCATE plain.two")
        for binary in (True, False):
            pieces = encoded(batches, columns, binary=binary)
            relation = sql.Identifier("plain", "two")
            names = [column.name for column in columns]
            rows = send_rows(conn, relation, names, pieces, binary=binary, frozen=True)
            assert rows == 21_906
            assert content(conn, "two") == content(conn, "one")
            conn.execute("TRUNCATE plain.two")
    without = [column.model_copy(update={"spec_type": None}) for column in columns]
    assert not has_binary_form(without, arrow_schema(without))


def test_the_server_says_what_was_sent(conn: psycopg.Connection[Any]) -> None:
    relation = sql.Identifier("plain", "one")
    columns = [typed(column) for column in live_tables(conn, "plain")["one"].columns]
    row = expression(columns, arrow_schema(columns))
    assert row is not None
    with conn.transaction():
        fix_text_form(conn)
        assert server_agrees(conn)
        sent = SentHash()
        for batch in read_rows(conn, relation, columns):
            sent.add(batch)
        assert stored(conn, relation, row) == (sent.rows, sent.total)
        for change in (
            "UPDATE plain.one SET text = NULL WHERE text = ''",
            "UPDATE plain.one SET moment = moment + interval '1 microsecond' WHERE id = 100",
            "UPDATE plain.one SET short = text, text = short WHERE id = 121",
            "UPDATE plain.one SET yes = NOT yes WHERE id = 104",
        ):
            with conn.transaction(force_rollback=True):
                assert conn.execute(change.encode()).rowcount > 0
                assert stored(conn, relation, row)[1] != sent.total


@pytest.mark.parametrize("most", [11, 12, 13, 64, 65, 300, 1100, 4096])
def test_texts_of_every_length_hash_as_the_server_does(
    conn: psycopg.Connection[Any], most: int
) -> None:
    chance = random.Random(most)
    few = ["few" * chance.randint(0, most // 3) for _ in range(5)]
    for texts in (
        [
            None if number % 7 == 0 else "\u00e4" + "x" * (number % (most - 1))
            for number in range(99)
        ],
        [chance.choice(few) if number % 11 else None for number in range(3000)],
        ["x" * most] * 3,
        [None, None],
    ):
        found = conn.execute(
            'SELECT coalesce(hashtextextended(t.text COLLATE "C", %s), 0)'
            " FROM unnest(%s::text[]) WITH ORDINALITY AS t (text, place) ORDER BY t.place",
            (most, texts),
        ).fetchall()
        hashes = column_hashes(pa.array(texts, pa.string()).slice(1), most)
        assert hashes.view("i8").tolist() == [number for (number,) in found][1:]


def test_nothing_is_said_about_what_cannot_be_compared() -> None:
    with pytest.raises(NotComparableError):
        column_hashes(pa.array(["x" * 5000]), 1)
    generated = [TableColumn(name="a", type="jsonb", spec_type="jsonb")]
    assert expression(generated, arrow_schema(generated)) is None
    unknown = [TableColumn(name="a", type="box")]
    assert expression(unknown, arrow_schema(unknown)) is None


def altered(*arguments: Any, **options: Any) -> int:
    """A server that stores one text differently from how it was sent."""
    rows = send_rows(*arguments, **options)
    arguments[0].execute("UPDATE plain.one SET text = 'other' WHERE id = 100")
    return rows


def test_a_difference_between_what_was_sent_and_stored_stops_the_restore(
    conn: psycopg.Connection[Any],
    target: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capture(target, store, "plain", "one", actor=ACTOR)
    conn.execute("DELETE FROM plain.one WHERE id > 50")
    before = content(conn, "one")
    monkeypatch.setattr(table_rows, "send_rows", altered)
    with pytest.raises(AtdmError, match="one does not hold what the baseline holds") as caught:
        restore(target, store, "plain", actor=ACTOR)
    assert caught.value.code is ErrorCode.RESTORE_FAILED
    assert content(conn, "one") == before


def test_another_process_makes_the_rows_of_a_large_baseline_ready(
    conn: psycopg.Connection[Any],
    target: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_encoder, "PROCESS_ROWS", 1)
    conn.execute("CREATE TABLE plain.none (); INSERT INTO plain.none DEFAULT VALUES")
    conn.execute("CREATE TABLE plain.odd (id box)")
    conn.execute("INSERT INTO plain.odd VALUES ('((1,2),(3,4))')")
    made = capture(target, store, "plain", "one", actor=ACTOR)
    before = content(conn, "one")
    conn.execute("DELETE FROM plain.one WHERE id > 50")
    assert restore(target, store, "plain", actor=ACTOR).content_hash == made.content_hash
    assert content(conn, "one") == before
    found = conn.execute("SELECT count(*) FROM plain.none, plain.odd").fetchone()
    assert found == (1,)


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_process_that_is_gone_changes_nothing(
    conn: psycopg.Connection[Any],
    target: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    capture(target, store, "plain", "one", actor=ACTOR)
    conn.execute("DELETE FROM plain.one WHERE id > 50")
    before = content(conn, "one")
    monkeypatch.setattr(row_encoder, "PROCESS_ROWS", 1)
    encode, enter = ProcessEncoder.encode, ProcessEncoder.__enter__

    def entered(self: ProcessEncoder) -> ProcessEncoder:
        enter(self)
        self._process.kill()
        self._process.wait()
        return self

    def begun(self: ProcessEncoder, *arguments: Any, **options: Any) -> Any:
        pieces = encode(self, *arguments, **options)
        self._process.kill()
        return pieces

    if when == "before":
        monkeypatch.setattr(ProcessEncoder, "__enter__", entered)
    else:
        monkeypatch.setattr(ProcessEncoder, "encode", begun)
    with pytest.raises(AtdmError, match="has ended before its time") as caught:
        restore(target, store, "plain", actor=ACTOR)
    assert caught.value.code is ErrorCode.RESTORE_FAILED
    assert content(conn, "one") == before


def test_what_the_other_process_finds_is_told_here(
    conn: psycopg.Connection[Any], target: str, store: Store
) -> None:
    made = capture(target, store, "plain", "one", actor=ACTOR)
    files = manifest.BaselineFiles("plain", "one")
    store.delete_prefix(files.full(made.tables[0].files[0]))
    with ProcessEncoder(store, files) as encoder:
        pieces = encoder.encode(made.tables, comparable=True)
        with pytest.raises(AtdmError, match="part-00000") as caught:
            list(pieces)
    assert caught.value.code is ErrorCode.STORE_FAILED


@pytest.mark.parametrize("reason", ["server differs", "number differs"])
def test_without_the_servers_word_the_rows_are_read_back(
    conn: psycopg.Connection[Any],
    target: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
) -> None:
    capture(target, store, "plain", "one", actor=ACTOR)
    before = content(conn, "one")
    conn.execute("DELETE FROM plain.one WHERE id > 50")
    if reason == "server differs":
        monkeypatch.setattr(restoring, "server_agrees", lambda _: False)
    else:
        monkeypatch.setattr(restoring, "stored", lambda *_: (0, 0))
    restore(target, store, "plain", actor=ACTOR)
    assert content(conn, "one") == before


def test_a_baseline_of_the_first_format_is_restored_and_compared(
    conn: psycopg.Connection[Any],
    target: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(capturing, "typed", lambda column: column)
        patched.setattr(
            capturing,
            "publish_manifest",
            lambda store, made: manifest.publish_manifest(
                store, made.model_copy(update={"format_version": 1})
            ),
        )
        first = capture(target, store, "plain", "first", actor=ACTOR)
    before = content(conn, "one")
    second = capture(target, store, "plain", "second", actor=ACTOR)
    assert manifest.read_manifest(store, "plain", "first").format_version == 1
    assert first.content_hash != second.content_hash
    for one, other in (("first", "second"), ("second", "first"), ("first", "live")):
        (difference,) = diff.compare(target, store, "plain", one, other)
        assert difference.same, (one, other, difference.as_json())
    conn.execute("DELETE FROM plain.one WHERE id > 50")
    restore(target, store, "plain", "first", actor=ACTOR)
    assert content(conn, "one") == before


def test_hashes_of_what_is_read_do_not_depend_on_the_batches(
    conn: psycopg.Connection[Any],
) -> None:
    columns = [typed(column) for column in live_tables(conn, "plain")["one"].columns]
    with conn.transaction():
        fix_text_form(conn)
        whole, parts = RowHash(), RowHash()
        for batch in read_rows(conn, sql.Identifier("plain", "one"), columns):
            whole.add(batch)
            for start in range(0, batch.num_rows, 777):
                parts.add(batch.slice(start, 777))
    assert whole.hexdigest() == parts.hexdigest()
    assert whole.rows == 21_906
