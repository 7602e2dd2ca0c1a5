"""Whose row is it: writing the rows of runs into a table, and deleting them again.

Tables that the application manages itself will be another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
import pyarrow as pa
from psycopg import sql

from atdm_resources.postgres.copy_csv import copy_csv
from atdm_resources.postgres.prefetch import prefetch

RowsDone = Callable[[int], None]
"""Called with the number of rows sent so far."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one COPY did. ``bytes`` are those sent to the server."""

    rows: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Deleted:
    """Rows that went, by table; ``adopted`` those among them that bore no run's id."""

    deleted: dict[str, int]
    adopted: dict[str, int]


class RunOwnership(Protocol):
    """How the rows of runs get into a table and out of it."""

    def load(
        self,
        conn: psycopg.Connection[Any],
        schema: str,
        table: str,
        batches: Iterable[pa.RecordBatch],
        progress: RowsDone | None = None,
    ) -> Loaded:
        """Write rows, whose columns are named as in the table, in the transaction of ``conn``."""

    def delete(self, conn: psycopg.Connection[Any], domain: str, run_ids: Sequence[str]) -> Deleted:
        """Delete the rows of these runs and what refers to them, in the transaction of ``conn``."""


class RunColumn:
    """Ownership by the column ``test_run_id`` of every row."""

    def load(
        self,
        conn: psycopg.Connection[Any],
        schema: str,
        table: str,
        batches: Iterable[pa.RecordBatch],
        progress: RowsDone | None = None,
    ) -> Loaded:
        """COPY the rows. While the server works on one batch, the next is being encoded.

        Memory is bounded by a few batches. Raises psycopg.Error as the server reports it.
        """
        started = time.perf_counter()
        rows = size = 0
        first, rest = _first_of(batches)
        if first is None:
            return Loaded(0, 0, 0.0)
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
            sql.Identifier(schema, table),
            sql.SQL(", ").join(sql.Identifier(name) for name in first.schema.names),
        )
        with conn.cursor().copy(statement) as copy:
            for count, text in prefetch(_encoded(rest)):
                copy.write(memoryview(text))
                rows += count
                size += len(text)
                if progress is not None:
                    progress(rows)
        return Loaded(rows, size, time.perf_counter() - started)

    def delete(self, conn: psycopg.Connection[Any], domain: str, run_ids: Sequence[str]) -> Deleted:
        """Delete the rows bearing these ids, and the closure of foreign keys that lead to them."""
        row = conn.execute(
            "SELECT deleted, adopted FROM atdm.delete_runs(%s, %s)", (domain, list(run_ids))
        ).fetchone()
        assert row is not None
        return Deleted(*row)


def _encoded(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.Buffer]]:
    for batch in batches:
        if batch.num_rows:
            yield batch.num_rows, copy_csv(batch)


def _first_of(
    batches: Iterable[pa.RecordBatch],
) -> tuple[pa.RecordBatch | None, Iterator[pa.RecordBatch]]:
    """The first batch, and all of them again."""
    iterator = iter(batches)
    first = next(iterator, None)

    def all_of_them() -> Iterator[pa.RecordBatch]:
        if first is not None:
            yield first
        yield from iterator

    return first, all_of_them()
