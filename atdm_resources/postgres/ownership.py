"""How ATDM knows the rows of a run in a table: written with their owner, deleted by it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import psycopg
import pyarrow as pa
from psycopg import sql

from atdm_resources.postgres.copy_csv import copy_csv
from atdm_resources.postgres.prefetch import prefetch
from atdm_resources.postgres.table_rows import send_rows

RowsDone = Callable[[int], None]
"""Called with the number of rows sent so far."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rows of one COPY, and the bytes that were sent."""

    rows: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Deleted:
    """Deleted rows by table; ``adopted`` are those without the id of a run."""

    deleted: dict[str, int]
    adopted: dict[str, int]


class RunOwnership(Protocol):
    """Writes and deletes the rows of runs."""

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
        """COPY the rows. While the server works on one batch, the next is encoded.

        Memory is bounded by a few batches. Raises psycopg.Error as the server reports it.
        """
        started = time.perf_counter()
        rest = iter(batches)
        first = next(rest, None)
        if first is None:
            return Loaded(0, 0, 0.0)
        size = 0

        def pieces() -> Iterator[tuple[int, pa.Buffer]]:
            nonlocal size
            rows = 0
            for count, text in prefetch(_encoded(chain([first], rest))):
                yield count, text
                rows += count
                size += len(text)
                if progress is not None:
                    progress(rows)

        rows = send_rows(conn, sql.Identifier(schema, table), first.schema.names, pieces())
        return Loaded(rows, size, time.perf_counter() - started)

    def delete(self, conn: psycopg.Connection[Any], domain: str, run_ids: Sequence[str]) -> Deleted:
        """Delete the rows with these ids, and the rows that refer to them, directly or not."""
        row = conn.execute(
            "SELECT deleted, adopted FROM atdm.delete_runs(%s, %s)", (domain, list(run_ids))
        ).fetchone()
        assert row is not None
        return Deleted(*row)


def _encoded(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.Buffer]]:
    for batch in batches:
        if batch.num_rows:
            yield batch.num_rows, copy_csv(batch)
