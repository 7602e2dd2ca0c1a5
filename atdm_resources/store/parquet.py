"""Parquet files of the store: written as a whole with their checksum, read in bounded batches."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from atdm_resources.store.files import Store, store_errors

ROW_GROUP_ROWS: Final = 100_000
"""Rows of a row group: fixed, so that the bytes of a file do not depend on the size of batches."""

_COMPRESSION = "zstd"
_COMPRESSION_LEVEL = 1
_DICTIONARY_SAMPLE = 10_000
_BLOCK = 1024 * 1024


class ParquetWriter:
    """Appends rows to the file of a ``parquet_writer`` block.

    ``rows``, ``bytes`` and ``sha256`` describe the finished file once the block has ended.
    """

    def __init__(
        self,
        file: _HashedFile,
        path: str,
        schema: pa.Schema,
        group_rows: int,
        group_bytes: int | None,
    ) -> None:
        self.path = path
        self.rows = 0
        self._file = file
        self._schema = schema
        self._group_rows = group_rows
        self._group_bytes = group_bytes
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._writer: pq.ParquetWriter | None = None

    @property
    def bytes(self) -> int:
        return self._file.tell()

    @property
    def sha256(self) -> str:
        return self._file.digest.hexdigest()

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows. Raises AtdmError STORE_FAILED; ValueError when the columns differ."""
        if rows.schema.names != self._schema.names:
            raise ValueError(f"columns {rows.schema.names}, expected {self._schema.names}")
        if isinstance(rows, pa.RecordBatch):
            rows = pa.Table.from_batches([rows])
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        self._waiting_bytes += rows.nbytes
        while self._waiting_rows >= self._group_rows:
            self._write_group(self._group_rows)
        if self._group_bytes is not None and self._waiting_bytes >= self._group_bytes:
            self._write_group(self._waiting_rows)

    def finish(self) -> None:
        """Write what is left and the end of the file; called when the block ends."""
        if self._waiting_rows or self._writer is None:
            self._write_group(self._waiting_rows)
        assert self._writer is not None
        self._writer.close()

    def discard(self) -> None:
        """Give the file up; called when the block raises."""
        # Arrow's writer completes its file when it is closed or collected.
        self._file.discarded = True
        if self._writer is not None:
            self._writer.close()

    def _write_group(self, rows: int) -> None:
        waiting = pa.concat_tables(self._waiting or [self._schema.empty_table()])
        # One chunk a column: where chunks end shows in the pages.
        group = waiting.slice(0, rows).combine_chunks()
        rest = waiting.slice(rows)
        self._waiting = [rest] if rest.num_rows else []
        self._waiting_rows = rest.num_rows
        self._waiting_bytes = rest.nbytes
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._file,
                self._schema,
                compression=_COMPRESSION,
                compression_level=_COMPRESSION_LEVEL,
                use_dictionary=_repeating(group) or False,
            )
        if rows:
            self._writer.write_table(group, row_group_size=rows)
        self.rows += rows


def _repeating(rows: pa.Table) -> list[str]:
    """The columns whose values repeat: for others a dictionary costs time and space."""
    sample = rows.slice(0, _DICTIONARY_SAMPLE)
    return [
        field.name
        for field in sample.schema
        if not pa.types.is_nested(field.type)
        and len(sample[field.name].unique()) * 2 <= sample.num_rows
    ]


@contextmanager
def parquet_writer(
    store: Store,
    path: str,
    schema: pa.Schema,
    *,
    group_rows: int = ROW_GROUP_ROWS,
    group_bytes: int | None = None,
) -> Iterator[ParquetWriter]:
    """Write one Parquet file, which appears when the block ends without an exception.

    Equal rows give equal bytes, however they are cut into batches. With ``group_bytes`` a row group
    also ends when the rows in memory reach that size: the bytes then depend on the batches, and
    wide rows do not fill the memory of a writer or a reader.
    """
    with store.write_atomic(path) as handle:
        writer = ParquetWriter(
            _HashedFile(handle, store.uri(path)), path, schema, group_rows, group_bytes
        )
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.discard()
            raise


def write_table(store: Store, path: str, rows: pa.Table) -> None:
    """Write one table as one Parquet file."""
    with parquet_writer(store, path, rows.schema) as writer:
        writer.write(rows)


def read_batches(store: Store, path: str, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, in batches of at most ``rows``."""
    with store.open(path) as handle, pq.ParquetFile(handle) as parquet:
        yield from parquet.iter_batches(batch_size=rows)


class DamagedFileError(Exception):
    """The content of a file is not what was written."""


def read_checked(
    store: Store, path: str, sha256: str, rows: int = 65_536
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, whose bytes are read once and compared with their checksum.

    Rows come before the last byte is read, so only a caller that takes all of them may rely on
    them. Memory is bounded by a row group.

    Raises:
        DamagedFileError: the checksum differs, or Arrow cannot read the file.
    """
    digest = hashlib.sha256()
    with store.open(path) as handle:
        metadata = _metadata(handle)
        start = handle.seek(0)
        for number in range(metadata.num_row_groups):
            content = handle.read(max(0, _end(metadata.row_group(number)) - start))
            digest.update(content)
            yield from _decoded(_Part(content, start), metadata, number, rows)
            start += len(content)
        while content := handle.read(_BLOCK):
            digest.update(content)
    if digest.hexdigest() != sha256:
        raise DamagedFileError("the checksum does not match")


def _metadata(handle: IO[bytes]) -> pq.FileMetaData:
    """What the end of a Parquet file says: its length stands in the last eight bytes."""
    size = handle.seek(0, io.SEEK_END)
    handle.seek(max(0, size - 8))
    length = 8 + int.from_bytes(handle.read(4), "little")
    handle.seek(max(0, size - length))
    footer = handle.read()
    with _damage():
        return pq.read_metadata(pa.BufferReader(footer))


def _end(group: pq.RowGroupMetaData) -> int:
    """Where the columns of a row group end in the file."""
    columns = [group.column(place) for place in range(group.num_columns)]
    ends = [
        (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
        for column in columns
    ]
    return int(max(ends))


def _decoded(
    part: _Part, metadata: pq.FileMetaData, group: int, rows: int
) -> Iterator[pa.RecordBatch]:
    with _damage(), pq.ParquetFile(part, metadata=metadata) as parquet:
        yield from parquet.iter_batches(rows, row_groups=[group])


@contextmanager
def _damage() -> Iterator[None]:
    """Around code that reads from memory only: whatever it raises, the content is damaged."""
    try:
        yield
    except Exception as error:
        raise DamagedFileError(str(error)) from error


class _Part(io.RawIOBase):
    """A part of a file in memory, read by the places that it has in the file."""

    def __init__(self, content: bytes, start: int) -> None:
        self._content = memoryview(content)
        self._start = start
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._start + len(self._content)
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: end}[whence]
        return self._place

    def read(self, size: int = -1) -> Any:
        first = self._place - self._start
        found = self._content[first : first + size]
        self._place += len(found)
        return found


class _HashedFile(io.RawIOBase):
    """Passes bytes on to a file of the store, counts them and takes their checksum."""

    def __init__(self, handle: IO[bytes], uri: str) -> None:
        self._handle = handle
        self._uri = uri
        self._size = 0
        self.discarded = False
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.discarded:
            with store_errors(self._uri):
                self._handle.write(data)
            self.digest.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size
