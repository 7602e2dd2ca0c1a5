"""Exported files of the trail against the chain: what is changed or missing is named."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atdm_resources.catalog import seal
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services.audit import export
from atdm_services.audit.verify import ExportVerdict, verify_exports
from tests.integration.audit.test_seal import seal_all, write

Tamper = Callable[[Path], None]


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)


def with_cell(table: pa.Table, column: str, value: Any) -> pa.Table:
    place = table.column_names.index(column)
    cells = table[column].to_pylist()
    cells[1] = value
    return table.set_column(place, column, pa.array(cells, table.schema.field(column).type))


def changed(column: str, value: Any) -> Tamper:
    return lambda path: rewritten(path, lambda table: with_cell(table, column, value))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def moved(path: Path) -> None:
    """The same bytes under another day: the trail's order would read differently."""
    path.write_bytes(b"")


TAMPERED: list[tuple[Tamper, str]] = [
    (lambda path: path.unlink(), "the file is missing"),
    (cut_off, "it is no file of the trail"),
    (moved, "it is no file of the trail"),
    (changed("invoker", "agent:other"), "column invoker was changed"),
    (changed("inputs", '{"n": 99}'), "column inputs was changed"),
    (changed("at", datetime(2020, 1, 1, tzinfo=UTC)), "it is in the folder of"),
    (changed("canonical", "[]"), "its text was changed"),
    (changed("hash", "00" * 32), "its event or its hash is another"),
    (changed("seal_number", 10**6), "does not belong into it"),
    (lambda path: rewritten(path, lambda table: table.slice(1)), "events, "),
    (
        lambda path: rewritten(path, lambda table: pa.concat_tables([table, table.slice(0, 1)])),
        "does not belong into it",
    ),
    (lambda path: rewritten(path, lambda table: table.drop_columns(["source"])), "no file of the"),
]


def test_every_change_of_a_file_is_named(conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    store = Store(tmp_path.as_uri())
    past = datetime.now(UTC) - timedelta(days=400)

    def verified() -> ExportVerdict:
        return verify_exports(conn, store, kept_since=past)

    assert verified() == ExportVerdict()
    write(conn, "first", 20)
    seal_all(conn)
    export.export(conn, store)
    write(conn, "second", 5)
    seal_all(conn)
    export.export(conn, store)
    whole = verified()
    assert whole.intact, whole.problems
    assert whole.events == seal.verify(conn).sealed
    path = next(found for found in sorted(tmp_path.rglob("*.parquet")) if "events-1-" in found.name)
    content = path.read_bytes()
    for tamper, said in TAMPERED:
        tamper(path)
        (problem,) = verified().problems
        assert problem["file"] == path.relative_to(tmp_path).as_posix()
        assert said in problem["problem"], problem
        path.write_bytes(content)
    assert verified().intact
    path.unlink()
    aged = verify_exports(conn, store, kept_since=datetime.now(UTC) + timedelta(days=2))
    assert (aged.intact, aged.retired) == (True, 1)
