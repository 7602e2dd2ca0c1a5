"""The Parquet files of a baseline: written with their checksum, read back in bounded batches."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.store.files import Store
from atdm_services.baselines.manifest import BaselineFiles, PartFile

GROUP_ROWS: Final = 65_536
GROUP_BYTES: Final = 32 * 1024 * 1024
"""A row group ends at whichever comes first: it is what must fit into memory to read it."""

_BLOCK = 1024 * 1024
_SAMPLE_ROWS = 10_000
_COMPRESSION_LEVEL = 1


class PartWriter:
    """Writes one file, which appears when the block ends without an exception.

    Afterwards ``part`` describes it. Memory is bounded by GROUP_BYTES and the largest batch.
    """

    def __init__(self, store: Store, files: BaselineFiles, path: str, schema: pa.Schema) -> None:
        self._store = store
        self._files = files
        self._path = path
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._rows = 0
        self._opened = store.write_atomic(path)
        self._writer: pq.ParquetWriter | None = None
        self.part: PartFile | None = None

    def __enter__(self) -> Self:
        self._sink = _Hashed(self._opened.__enter__())
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
            self._write_group()

    def _started(self, first: pa.Table) -> pq.ParquetWriter:
        """A dictionary for the columns whose values repeat; for others it only costs time."""
        sample = first.slice(0, _SAMPLE_ROWS)
        repeating = [
            name
            for name in first.schema.names
            if len(sample.column(name).unique()) <= sample.num_rows // 4
        ]
        return pq.ParquetWriter(
            self._sink,
            self._schema,
            compression="zstd",
            compression_level=_COMPRESSION_LEVEL,
            write_statistics=False,
            use_dictionary=repeating,
        )

    def _write_group(self) -> None:
        group = pa.Table.from_batches(self._waiting, self._schema)
        if self._writer is None:
            self._writer = self._started(group)
        self._writer.write_table(group, row_group_size=max(1, group.num_rows))
        self._rows += group.num_rows
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                if self._waiting_rows or self._writer is None:
                    self._write_group()
                assert self._writer is not None
                self._writer.close()
            except BaseException as problem:
                self._opened.__exit__(type(problem), problem, problem.__traceback__)
                raise
            self._opened.__exit__(None, None, None)
            self.part = PartFile(
                path=self._files.relative(self._path),
                rows=self._rows,
                bytes=self._sink.tell(),
                sha256=self._sink.digest.hexdigest(),
            )
            return
        # The writer would finish its file when it is collected, into a handle that is closed.
        self._sink.discard()
        if self._writer is not None:
            self._writer.close()
        self._opened.__exit__(kind, error, traceback)


class _Hashed(io.RawIOBase):
    """Passes bytes on and takes their checksum."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._size = 0
        self._discarded = False
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self._discarded:
            self._handle.write(data)
            self.digest.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def discard(self) -> None:
        """Take what still comes and throw it away."""
        self._discarded = True


def part_batches(store: Store, files: BaselineFiles, part: PartFile) -> Iterator[pa.RecordBatch]:
    """The rows of a file, a row group at a time."""
    path = files.full(part)
    with store.open(path) as handle:
        try:
            with pq.ParquetFile(handle) as parquet:
                for number in range(parquet.num_row_groups):
                    yield from parquet.read_row_group(number, use_threads=False).to_batches()
        except pa.ArrowException as error:
            raise damaged(store, files, part, str(error)) from error


def table_batches(
    store: Store, files: BaselineFiles, parts: tuple[PartFile, ...]
) -> Iterator[pa.RecordBatch]:
    """The rows of a table's files, in order."""
    for part in parts:
        yield from part_batches(store, files, part)


def file_problem(store: Store, files: BaselineFiles, part: PartFile) -> str | None:
    """What is wrong with a file (missing, cut off, changed), None when it is as it was written."""
    path = files.full(part)
    if not store.exists(path):
        return f"{part.path}: the file is missing"
    digest = hashlib.sha256()
    size = 0
    with store.open(path) as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
            size += len(block)
    if size != part.bytes:
        return f"{part.path}: {size} bytes, {part.bytes} were written"
    if digest.hexdigest() != part.sha256:
        return f"{part.path}: the checksum does not match"
    return None


def damaged(store: Store, files: BaselineFiles, part: PartFile, reason: str) -> AtdmError:
    """A file that cannot be read."""
    uri = store.uri(files.full(part))
    return AtdmError(
        ErrorCode.BASELINE_INVALID,
        f"{uri}: {reason}",
        {"baseline_id": files.baseline_id, "path": uri, "reason": reason},
    )
