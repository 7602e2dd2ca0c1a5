"""Encoding the rows of a baseline for COPY, in a process beside the one that sends them.

The server takes rows faster than one Python process can encode and send them (ADR 0082). The second
process is a plain program that knows nothing but the store: it reads its job from its input, writes
what it encodes to its output, and ends when either is closed. ``multiprocessing`` would run the
caller's own script a second time.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Final, Protocol, Self

import pyarrow as pa

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.postgres.copy_binary import has_binary_form
from atdm_resources.postgres.prefetch import prefetch
from atdm_resources.postgres.stored_hash import NotComparableError, SentHash, expression
from atdm_resources.postgres.table_rows import CHUNK_ROWS, arrow_schema, encoded
from atdm_resources.store.files import Store
from atdm_services.baselines.manifest import BaselineFiles, BaselineTable, Manifest
from atdm_services.baselines.part_files import table_batches

PROCESS_ROWS: Final = 200_000
"""Below so many rows starting a process takes longer than it saves."""

_PIPE_BYTES = 1024 * 1024
_HEADER = struct.Struct("!cQQ")
# Not as a script: another process cannot import the classes of a script.
_PROGRAM = f"from {__name__} import main; main()"
_ROWS, _SUMMARY, _ERROR = b"r", b"s", b"e"


@dataclass(frozen=True, slots=True)
class TableSummary:
    """All rows of a table: their number, and what the server's hash of them must be, if known."""

    rows: int
    server_hash: int | None


Piece = tuple[int, Any] | TableSummary
"""A number of rows with their bytes; after the last rows of a table its summary."""


class RowEncoder(Protocol):
    """Encodes tables, one after the other."""

    def encode(
        self, tables: Sequence[BaselineTable], *, comparable: bool
    ) -> Generator[Piece, None, None]:
        """The pieces of every table; ``comparable``: with the server's hash, where there is one."""
        ...


def row_encoder(store: Store, manifest: Manifest) -> AbstractContextManager[RowEncoder]:
    """The encoder for a baseline, by its size."""
    files = BaselineFiles(manifest.domain, manifest.baseline_id)
    # An embedded interpreter does not know its own program.
    if manifest.rows >= PROCESS_ROWS and sys.executable:
        return ProcessEncoder(store, files)
    return LocalEncoder(store, files)


def is_binary(table: BaselineTable) -> bool:
    """True if the table is sent as binary COPY."""
    columns = table.stored_columns
    return has_binary_form(columns, arrow_schema(columns))


def encoded_table(
    store: Store, files: BaselineFiles, table: BaselineTable, *, comparable: bool
) -> Iterator[Piece]:
    """The pieces of one table, with the checksums of its files verified before the summary.

    Raises:
        AtdmError: BASELINE_INVALID, a file is damaged; STORE_FAILED.
    """
    columns = table.stored_columns
    rows, sent = 0, SentHash()
    if expression(columns, arrow_schema(columns)) is None:
        comparable = False

    def hashed() -> Iterator[pa.RecordBatch]:
        nonlocal comparable, rows
        for batch in prefetch(table_batches(store, files, table.files)):
            rows += batch.num_rows
            for start in range(0, batch.num_rows, CHUNK_ROWS):
                part = batch.slice(start, CHUNK_ROWS)
                if comparable:
                    try:
                        sent.add(part)
                    except NotComparableError:
                        comparable = False
                yield part

    yield from encoded(hashed(), columns, binary=is_binary(table))
    yield TableSummary(rows, sent.total if comparable else None)


class LocalEncoder:
    """Encodes in a thread of this process, a piece ahead of the one that is sent."""

    def __init__(self, store: Store, files: BaselineFiles) -> None:
        self._store = store
        self._files = files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def encode(
        self, tables: Sequence[BaselineTable], *, comparable: bool
    ) -> Generator[Piece, None, None]:
        return prefetch(
            piece
            for table in tables
            for piece in encoded_table(self._store, self._files, table, comparable=comparable)
        )


class ProcessEncoder:
    """Encodes in another process, which starts when the block begins and ends with it."""

    def __init__(self, store: Store, files: BaselineFiles) -> None:
        self._store = store
        self._files = files

    def __enter__(self) -> Self:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[bytes] = self._process.stdin
        self._output: IO[bytes] = self._process.stdout
        if sys.platform == "linux":
            import fcntl

            with suppress(OSError):
                # The most that a user may have; with less both sides wait for each other more.
                fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._process.kill()
        for pipe in (self._input, self._output):
            with suppress(OSError):
                pipe.close()
        self._process.wait()

    def encode(
        self, tables: Sequence[BaselineTable], *, comparable: bool
    ) -> Generator[Piece, None, None]:
        try:
            pickle.dump((self._store, self._files, tuple(tables), comparable), self._input)
            self._input.close()
        except OSError as problem:
            raise self._gone() from problem
        return prefetch(piece for _ in tables for piece in self._received())

    def _received(self) -> Iterator[Piece]:
        """The pieces of one table."""
        while True:
            kind, count, size = _HEADER.unpack(self._read(_HEADER.size))
            content = self._read(size)
            if kind == _ROWS:
                yield count, content
                continue
            # Written by this process's own program; no other process can write it.
            message = pickle.loads(content)
            if kind == _ERROR:
                raise message
            yield message
            return

    def _read(self, size: int) -> bytes:
        content = self._output.read(size)
        if len(content) < size:
            raise self._gone()
        return content

    def _gone(self) -> AtdmError:
        return AtdmError(
            ErrorCode.RESTORE_FAILED,
            "the process that makes the rows ready has ended before its time",
            {"baseline_id": self._files.baseline_id, "exit_status": self._process.poll()},
        )


def _work(job: IO[bytes], answers: IO[bytes]) -> None:
    """The other process: one job, then the end."""

    def answer(kind: bytes, count: int, content: Any) -> None:
        answers.write(_HEADER.pack(kind, count, len(memoryview(content))))
        answers.write(content)

    try:
        store, files, tables, comparable = pickle.load(job)
    except EOFError:
        return
    try:
        for table in tables:
            for piece in prefetch(encoded_table(store, files, table, comparable=comparable)):
                if isinstance(piece, TableSummary):
                    answer(_SUMMARY, 0, pickle.dumps(piece))
                else:
                    answer(_ROWS, *piece)
            answers.flush()
    except BrokenPipeError:
        return
    except Exception as error:
        known = error if isinstance(error, AtdmError) else _failed(files, error)
        with suppress(BrokenPipeError):
            answer(_ERROR, 0, pickle.dumps(known))
            answers.flush()


def _failed(files: BaselineFiles, error: Exception) -> AtdmError:
    return AtdmError(
        ErrorCode.RESTORE_FAILED,
        f"the restore failed: {str(error) or type(error).__name__}",
        {"baseline_id": files.baseline_id, "error": type(error).__name__},
    )


def main() -> None:
    """Keep prints of other code out of the answers, and leave an interrupt to the caller."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _work(sys.stdin.buffer, answers)
    with suppress(BrokenPipeError):
        answers.close()
