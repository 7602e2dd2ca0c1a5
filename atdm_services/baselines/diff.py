"""Comparing two baselines, or one with the database: rows added, removed and changed.

Tables with equal hashes are not read. Of the others every row is hashed, which takes 16 bytes a row
and side; rows with one key on both sides and different contents are read once more, to tell which
columns changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import sql

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import RowHash, cell_hashes, combined, row_hashes
from atdm_engine.hashing.texts import mix
from atdm_engine.random.stream import U64
from atdm_resources.postgres.columns import TableColumn
from atdm_resources.postgres.introspect import foreign_keys, in_load_order, live_tables
from atdm_resources.postgres.snapshot import reading
from atdm_resources.postgres.table_rows import as_columns, fix_text_form, read_rows
from atdm_resources.store.files import Store
from atdm_services.baselines.manifest import (
    BaselineFiles,
    BaselineTable,
    Manifest,
    read_manifest,
)
from atdm_services.baselines.part_files import table_batches

LIVE: Final = "live"
"""Stands for the database in place of a baseline's id."""

_SAMPLES = 5


@dataclass(slots=True)
class TableDifference:
    """How a table differs; ``columns`` counts changed cells. ``shape`` names columns that differ.

    Without a primary key a changed row is one removed and one added.
    """

    table: str
    added: int = 0
    removed: int = 0
    changed: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    shape: list[str] = field(default_factory=list)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        return not (self.added or self.removed or self.changed or self.shape)

    def as_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "added": self.added,
            "removed": self.removed,
            "changed": self.changed,
            "columns": self.columns,
            "shape": self.shape,
            "samples": self.samples,
        }


@dataclass(frozen=True, slots=True)
class Side:
    """A state of a domain: its tables, and their rows read as given columns."""

    name: str
    tables: dict[str, BaselineTable]
    batches: Callable[[str, Sequence[TableColumn]], Iterator[pa.RecordBatch]]
    hashed: bool


def compare(
    url: str, store: Store, domain: str, one: str, other: str = LIVE
) -> list[TableDifference]:
    """What ``other`` has that ``one`` has not, and the reverse; tables that are the same too.

    Each is a baseline's id or LIVE. Raises AtdmError BASELINE_NOT_FOUND, BASELINE_INVALID.
    """
    with _side(url, store, domain, one) as before, _side(url, store, domain, other) as after:
        names = dict.fromkeys([*before.tables, *after.tables])
        return [_table(before, after, name) for name in names]


def state_hash(url: str, manifest: Manifest) -> str:
    """The content hash that the database has now, over the tables and columns of a baseline."""
    with reading(url, "atdm state hash") as conn:
        fix_text_form(conn)
        hashes = {}
        for table in manifest.tables:
            digest = RowHash()
            columns = table.stored_columns
            if columns:
                relation = sql.Identifier(manifest.domain, table.name)
                for batch in read_rows(conn, relation, columns):
                    digest.add(batch)
            hashes[table.name] = digest.hexdigest()
    return combined(hashes)


@contextmanager
def _side(url: str, store: Store, domain: str, name: str) -> Iterator[Side]:
    if name != LIVE:
        yield _stored(store, read_manifest(store, domain, name))
        return
    with reading(url, "atdm baseline diff") as conn:
        fix_text_form(conn)
        yield _live(conn, domain)


def _stored(store: Store, manifest: Manifest) -> Side:
    files = BaselineFiles(manifest.domain, manifest.baseline_id)
    tables = {table.name: table for table in manifest.tables}

    def batches(table: str, columns: Sequence[TableColumn]) -> Iterator[pa.RecordBatch]:
        there = tables[table]
        for batch in table_batches(store, files, there.files):
            yield as_columns(batch, there.stored_columns, columns)

    return Side(manifest.baseline_id, tables, batches, hashed=True)


def _live(conn: psycopg.Connection[Any], domain: str) -> Side:
    found = live_tables(conn, domain)
    if not found:
        raise AtdmError(
            ErrorCode.TARGET_NOT_INITIALISED,
            f"schema {domain} has no tables; run atdm init",
            {"domain": domain},
        )
    keys = foreign_keys(conn, [table.oid for table in found.values()])
    tables = {
        name: BaselineTable(
            name=name, columns=tuple(table.columns), key=table.key, rows=0, content_hash=""
        )
        for name, table in in_load_order(found, keys).items()
    }
    return Side(
        LIVE,
        tables,
        lambda table, columns: read_rows(conn, found[table].relation, columns),
        hashed=False,
    )


def _table(before: Side, after: Side, name: str) -> TableDifference:
    result = TableDifference(name)
    one, other = before.tables.get(name), after.tables.get(name)
    if one is None or other is None:
        missing = before if one is None else after
        result.shape.append(f"the table is not in {missing.name}")
        side, there = (after, other) if one is None else (before, one)
        assert there is not None
        rows = _count(side, there)
        result.added, result.removed = (rows, 0) if one is None else (0, rows)
        return result
    result.shape += _shape(one, other)
    comparable = not result.shape and before.hashed
    if comparable and after.hashed and one.content_hash == other.content_hash:
        return result
    columns = [
        column
        for column in one.stored_columns
        if any(column.name == there.name for there in other.stored_columns)
    ]
    if not columns:
        return result
    named = {column.name for column in columns}
    key = one.key if one.key == other.key and set(one.key) <= named else ()
    if comparable and not after.hashed:
        digest = RowHash()
        for batch in after.batches(name, columns):
            digest.add(batch)
        if digest.hexdigest() == one.content_hash:
            return result
    if key:
        _by_key(before, after, name, columns, key, result)
    else:
        _by_row(before, after, name, columns, result)
    return result


def _count(side: Side, table: BaselineTable) -> int:
    if side.hashed:
        return table.rows
    columns = table.stored_columns
    return sum(batch.num_rows for batch in side.batches(table.name, columns)) if columns else 0


def _shape(one: BaselineTable, other: BaselineTable) -> list[str]:
    lines = []
    there = {column.name: column for column in other.columns}
    for column in one.columns:
        found = there.pop(column.name, None)
        if found is None:
            lines.append(f"{column.name}: the column is gone")
        elif found.type != column.type:
            lines.append(f"{column.name}: {column.type} became {found.type}")
    return lines + [f"{name}: the column is new ({there[name].type})" for name in there]


@dataclass(slots=True)
class _Rows:
    """Key and content of every row of one side, as hashes sorted by key."""

    keys: U64
    contents: U64


def _read(side: Side, table: str, columns: Sequence[TableColumn], key: Sequence[str]) -> _Rows:
    keys: list[U64] = []
    contents: list[U64] = []
    for batch in side.batches(table, columns):
        first, second = row_hashes(batch)
        contents.append(mix(first ^ mix(second)))
        keys.append(_key_hashes(batch, key) if key else contents[-1])
    if not keys:
        empty = np.empty(0, np.uint64)
        return _Rows(empty, empty)
    joined, content = np.concatenate(keys), np.concatenate(contents)
    order = np.argsort(joined, kind="stable")
    return _Rows(joined[order], content[order])


def _key_hashes(batch: pa.RecordBatch, key: Sequence[str]) -> U64:
    hashes: U64 = row_hashes(batch.select(list(key)))[0]
    return hashes


def _by_key(
    before: Side,
    after: Side,
    table: str,
    columns: Sequence[TableColumn],
    key: Sequence[str],
    result: TableDifference,
) -> None:
    one = _read(before, table, columns, key)
    other = _read(after, table, columns, key)
    removed = np.setdiff1d(one.keys, other.keys, assume_unique=True)
    added = np.setdiff1d(other.keys, one.keys, assume_unique=True)
    _, mine, theirs = np.intersect1d(one.keys, other.keys, assume_unique=True, return_indices=True)
    changed = one.keys[mine][one.contents[mine] != other.contents[theirs]]
    result.added, result.removed, result.changed = len(added), len(removed), len(changed)
    if len(removed):
        result.samples["removed"] = _samples(before, table, columns, key, removed)
    if len(added):
        result.samples["added"] = _samples(after, table, columns, key, added)
    if len(changed):
        wanted = np.sort(changed)
        result.columns = _changed_cells(before, after, table, columns, key, wanted)
        result.samples["changed"] = _samples(after, table, columns, key, wanted)


def _changed_cells(
    before: Side,
    after: Side,
    table: str,
    columns: Sequence[TableColumn],
    key: Sequence[str],
    wanted: U64,
) -> dict[str, int]:
    counts = {}
    one = _cells_of(before, table, columns, key, wanted)
    other = _cells_of(after, table, columns, key, wanted)
    for column in columns:
        different = int((one[column.name] != other[column.name]).sum())
        if different:
            counts[column.name] = different
    return counts


def _cells_of(
    side: Side, table: str, columns: Sequence[TableColumn], key: Sequence[str], wanted: U64
) -> dict[str, U64]:
    """The cells of the wanted rows, by column, in the order of ``wanted`` (sorted keys)."""
    cells = {column.name: np.zeros(len(wanted), np.uint64) for column in columns}
    for batch in side.batches(table, columns):
        rows, places = _places(_key_hashes(batch, key), wanted)
        if len(rows):
            chosen = batch.take(pa.array(rows))
            for column in columns:
                cells[column.name][places] = cell_hashes(chosen.column(column.name))
    return cells


def _places(keys: U64, wanted: U64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which rows are wanted, and where each stands in ``wanted``."""
    places = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    rows = np.flatnonzero(wanted[places] == keys)
    return rows, places[rows]


def _samples(
    side: Side, table: str, columns: Sequence[TableColumn], key: Sequence[str], wanted: U64
) -> list[dict[str, Any]]:
    """The keys of a few of the wanted rows, as texts."""
    few = np.sort(wanted)
    found: list[dict[str, Any]] = []
    for batch in side.batches(table, columns):
        if len(found) < _SAMPLES:
            rows, _ = _places(_key_hashes(batch, key), few)
            chosen = batch.select(list(key)).take(pa.array(rows[: _SAMPLES - len(found)]))
            found += [{n: str(v) for n, v in row.items()} for row in chosen.to_pylist()]
    return found


def _by_row(
    before: Side,
    after: Side,
    table: str,
    columns: Sequence[TableColumn],
    result: TableDifference,
) -> None:
    """Rows as a multiset: those that are more often on one side than on the other."""
    one, times = np.unique(_read(before, table, columns, ()).contents, return_counts=True)
    other, again = np.unique(_read(after, table, columns, ()).contents, return_counts=True)
    every = np.union1d(one, other)
    balance = np.zeros(len(every), np.int64)
    balance[np.searchsorted(every, other)] += again
    balance[np.searchsorted(every, one)] -= times
    result.added = int(balance[balance > 0].sum())
    result.removed = int(-balance[balance < 0].sum())
