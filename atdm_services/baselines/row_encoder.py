"""Making the rows of a baseline ready for COPY, beside the process that sends them.

The server takes rows faster than one Python process can make them ready and send them: the thread
that sends would wait for the one that computes. The other process is a plain program that knows
nothing but the store: it is told what to do through its input and answers through its output, and
ends when either is closed. ``multiprocessing`` would run the caller's own script a second time.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Final, Protocol, Self

import pyarrow as pa

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.hashing.content import RowHash
from atdm_resources.postgres.copy_binary import has_binary_form
from atdm_resources.postgres.prefetch import prefetch
from atdm_resources.postgres.stored_hash import NotComparableError, SentHash, expression
from atdm_resources.postgres.table_rows import CHUNK_ROWS, arrow_schema, encoded
from atdm_resources.store.files import Store
from atdm_services.baselines.manifest import BaselineFiles, BaselineTable
from atdm_services.baselines.part_files import table_batches

WORTH_A_PROCESS: Final = 200_000
"""Below so many rows starting a process takes longer than it saves."""

_PIPE_BYTES = 1024 * 1024
_HEADER = struct.Struct("!cQQ")
# Not as a script: what a script's classes are called nobody else can import.
_PROGRAM = f"from {__name__} import main; main()"
_ROWS, _SUMMARY, _ERROR = b"r", b"s", b"e"


@dataclass(frozen=True, slots=True)
class Summary:
    """What all rows of a table were. ``total`` is the server's number for them, None: none."""

    rows: int
    content_hash: str
    total: int | None


Piece = tuple[int, Any] | Summary
"""How many rows and their bytes; after the last of them the summary of the table."""


class Feeder(Protocol):
    """Yields the pieces of each table, in the order of the tables."""

    def begin(self, tables: Sequence[BaselineTable], *, comparable: bool) -> None:
        """Get the tables ready; ``comparable``: with the server's number."""
        ...

    def pieces(self) -> Iterator[Piece]:
        """Of the next table."""
        ...


def sent_as_binary(table: BaselineTable) -> bool:
    """In which of COPY's forms the rows of a table are made ready."""
    columns = table.stored_columns
    return has_binary_form(columns, arrow_schema(columns))


def made_ready(
    store: Store, files: BaselineFiles, table: BaselineTable, *, comparable: bool
) -> Iterator[Piece]:
    """The pieces of one table."""
    columns = table.stored_columns
    digest, total = RowHash(), SentHash()
    if expression(columns, arrow_schema(columns)) is None:
        comparable = False

    def hashed() -> Iterator[pa.RecordBatch]:
        nonlocal comparable
        for batch in prefetch(table_batches(store, files, table.files)):
            for start in range(0, batch.num_rows, CHUNK_ROWS):
                part = batch.slice(start, CHUNK_ROWS)
                digest.add(part)
                if comparable:
                    try:
                        total.add(part)
                    except NotComparableError:
                        comparable = False
                yield part

    yield from encoded(hashed(), columns, binary=sent_as_binary(table))
    yield Summary(digest.rows, digest.hexdigest(), total.total if comparable else None)


class Here:
    """Made ready in this process, a piece ahead of the one that is sent."""

    def __init__(self, store: Store, files: BaselineFiles) -> None:
        self._store = store
        self._files = files
        self._comparable = False
        self._tables: Iterator[BaselineTable] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def begin(self, tables: Sequence[BaselineTable], *, comparable: bool) -> None:
        self._tables, self._comparable = iter(tables), comparable

    def pieces(self) -> Iterator[Piece]:
        table = next(self._tables)
        return prefetch(made_ready(self._store, self._files, table, comparable=self._comparable))


class Beside:
    """Made ready in another process, which starts when the block begins and ends with it."""

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
                # As much as a user may have; with less both sides wait for each other more often.
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

    def begin(self, tables: Sequence[BaselineTable], *, comparable: bool) -> None:
        work = (self._store, self._files, tuple(tables), comparable)
        try:
            pickle.dump(work, self._input)
            self._input.close()
        except OSError as problem:
            raise self._gone() from problem

    def pieces(self) -> Iterator[Piece]:
        return prefetch(self._received())

    def _received(self) -> Iterator[Piece]:
        while True:
            kind, count, size = _HEADER.unpack(self._read(_HEADER.size))
            content = self._read(size)
            if kind == _ROWS:
                yield count, content
                continue
            # What this process's own program has written, which nobody else can.
            told = pickle.loads(content)
            if kind == _ERROR:
                raise told
            yield told
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


def _work(commands: IO[bytes], answers: IO[bytes]) -> None:
    """The other process: one job, then the end."""

    def answer(kind: bytes, count: int, content: Any) -> None:
        answers.write(_HEADER.pack(kind, count, len(memoryview(content))))
        answers.write(content)

    try:
        store, files, tables, comparable = pickle.load(commands)
    except EOFError:
        return
    try:
        for table in tables:
            for piece in prefetch(made_ready(store, files, table, comparable=comparable)):
                if isinstance(piece, Summary):
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
    said = str(error) or type(error).__name__
    return AtdmError(
        ErrorCode.RESTORE_FAILED,
        f"the restore failed: {said}",
        {"baseline_id": files.baseline_id, "error": type(error).__name__},
    )


def main() -> None:
    """What other code prints must not get between the answers; an interrupt is the caller's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _work(sys.stdin.buffer, answers)
    with suppress(BrokenPipeError):
        answers.close()
