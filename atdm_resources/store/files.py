"""The store: files under one URL, on disk (``file://``) or in an object store (``s3://``)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePosixPath
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.store.s3 import S3Options, raised_by_store
from atdm_resources.store.staging import is_abandoned, is_staged, staged_name

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_ROWS = 100_000
"""Rows of a Parquet row group: fixed, so that the bytes do not depend on the size of batches."""

_COMPRESSION = "zstd"
_COMPRESSION_LEVEL = 1
_DICTIONARY_SAMPLE = 10_000


class Store:
    """Files below ``url``. ``s3`` says how an object store is reached; on disk it means nothing.

    It can be sent to other processes, which open the same store anew.

    Paths are relative, with ``/`` between their parts. Every method raises AtdmError STORE_FAILED,
    naming the file and the reason, when the store refuses.
    """

    def __init__(self, url: str, *, s3: S3Options | None = None) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self.s3 = s3 or S3Options()
        options = self.s3.for_s3fs() if url.startswith("s3://") else {}
        with _failing(self.url):
            self._files, self._root = fsspec.core.url_to_fs(self.url, **options)
        self._local = url.startswith("file://")

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Store, s3=self.s3), (self.url,)

    def uri(self, path: str) -> str:
        """The full URL of a file, for people and metadata."""
        return f"{self.url}/{_checked(path)}"

    def _full(self, path: str) -> str:
        return f"{self._root}/{_checked(path)}"

    @contextmanager
    def write_atomic(self, path: str) -> Iterator[IO[bytes]]:
        """A file to write to that appears under its name as a whole when the block ends.

        Where the block raises, nothing is left and what was there before stays.
        """
        writer = self._write_local(path) if self._local else self._write_object(path)
        with _failing(self.uri(path)), writer as handle:
            yield handle

    @contextmanager
    def _write_local(self, path: str) -> Iterator[IO[bytes]]:
        full = self._full(path)
        folder = os.path.dirname(full)
        os.makedirs(folder, exist_ok=True)
        staged = f"{folder}/{staged_name(os.path.basename(full))}"
        try:
            with open(staged, "xb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(staged, full)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(staged)
            raise

    @contextmanager
    def _write_object(self, path: str) -> Iterator[IO[bytes]]:
        # An object appears when its upload is completed, which is what closing does.
        handle = self._files.open(self._full(path), "wb")
        try:
            yield handle
            handle.close()
        except BaseException as error:
            _discard(handle, error)
            raise

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write a whole file atomically."""
        with self.write_atomic(path) as handle:
            handle.write(content)

    def write_new(self, path: str, content: bytes) -> bool:
        """Write a whole file unless there is one of that name; False when there is.

        Of several who try at once, one succeeds: a hard link on disk, a conditional upload in an
        object store.
        """
        full = self._full(path)
        with _failing(self.uri(path)):
            if self._local:
                folder = os.path.dirname(full)
                os.makedirs(folder, exist_ok=True)
                staged = f"{folder}/{staged_name(os.path.basename(full))}"
                try:
                    with open(staged, "xb") as handle:
                        handle.write(content)
                        handle.flush()
                        os.fsync(handle.fileno())
                    os.link(staged, full)
                except FileExistsError:
                    return False
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(staged)
                return True
            if self._files.exists(full):
                return False
            handle = self._files.open(full, "xb")
            try:
                handle.write(content)
                handle.close()
            except BaseException as error:
                _discard(handle, error)
                if not isinstance(error, FileExistsError):
                    raise
                # An upload whose answer was lost is sent again, and refused: it was ours then.
                return self.read_bytes(path) == content
            return True

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        """A file to read."""
        with _failing(self.uri(path)), self._files.open(self._full(path), "rb") as handle:
            yield handle

    def read_bytes(self, path: str) -> bytes:
        """A whole file."""
        with self.open(path) as handle:
            return handle.read()

    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder of that name."""
        with _failing(self.uri(path)):
            return bool(self._files.exists(self._full(path)))

    def size(self, path: str) -> int:
        """The size of a file in bytes."""
        with _failing(self.uri(path)):
            return int(self._files.size(self._full(path)))

    def modified(self, path: str) -> datetime:
        """When a file was written last, in UTC."""
        with _failing(self.uri(path)):
            moment: datetime = self._files.modified(self._full(path))
        return moment.astimezone(UTC)

    def files(self, prefix: str) -> list[str]:
        """Every file below a folder, sorted, as paths of this store."""
        with _failing(self.uri(prefix)):
            found = self._files.find(self._full(prefix))
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    def sizes(self, prefix: str) -> dict[str, int]:
        """The sizes in bytes of every whole file below a folder, by path, from one listing.

        Files that are being written, or go while this looks, are none.
        """
        with _failing(self.uri(prefix)):
            found = self._files.find(self._full(prefix), detail=True)
        return {
            path.removeprefix(f"{self._root}/"): int(about["size"])
            for path, about in sorted(found.items())
            if not is_staged(os.path.basename(path))
        }

    def delete_prefix(self, prefix: str) -> int:
        """Delete a folder with everything in it; returns how many files went."""
        found = self.files(prefix)
        if found or self.exists(prefix):
            with _failing(self.uri(prefix)), suppress(FileNotFoundError):
                self._files.rm(self._full(prefix), recursive=True)
        return len(found)

    def sweep(self, prefix: str) -> int:
        """Delete what killed writers have left half-written below a folder; returns how many files.

        Files of writers that are alive stay, and so do whole files. An object store has none: what
        is uploaded there in part is no file, and goes by the bucket's own rule.
        """
        if not self._local:
            return 0
        gone = [path for path in self.files(prefix) if is_abandoned(os.path.basename(path))]
        for path in gone:
            with _failing(self.uri(path)), suppress(FileNotFoundError):
                os.unlink(self._full(path))
        return len(gone)

    def batches(self, path: str, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The rows of a Parquet file, in batches of at most ``rows``."""
        import pyarrow.parquet as pq

        with self.open(path) as handle, pq.ParquetFile(handle) as parquet:
            yield from parquet.iter_batches(batch_size=rows)


class ParquetSink:
    """Writes one Parquet file; equal rows give equal bytes, however they are cut into batches.

    A context manager: the file appears when the block ends without an exception. ``rows`` and
    ``bytes`` (of the finished file) are known then.
    """

    def __init__(
        self, store: Store, path: str, schema: pa.Schema, *, row_group_rows: int = ROW_GROUP_ROWS
    ) -> None:
        self.path = path
        self.rows = 0
        self.bytes = 0
        self._store = store
        self._schema = schema
        self._group = row_group_rows
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._writer: Any = None
        self._opened = store.write_atomic(path)

    def __enter__(self) -> Self:
        self._handle = self._opened.__enter__()
        return self

    def _begin(self, first: pa.Table) -> None:
        """Open the writer. A dictionary of values that all differ costs time and space."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sample = first.slice(0, _DICTIONARY_SAMPLE)
        repeating = [
            name
            for name in sample.column_names
            if not pa.types.is_nested(sample.schema.field(name).type)
            and len(sample[name].unique()) * 2 <= sample.num_rows
        ]
        self._writer = pq.ParquetWriter(
            self._handle,
            self._schema,
            compression=_COMPRESSION,
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=repeating or False,
            store_schema=True,
        )

    def write(self, table: pa.Table) -> None:
        """Append rows. Raises AtdmError STORE_FAILED; ValueError when the columns differ."""
        if table.schema.names != self._schema.names:
            raise ValueError(f"columns {table.schema.names}, expected {self._schema.names}")
        self._waiting.append(table)
        self._waiting_rows += table.num_rows
        while self._waiting_rows >= self._group:
            self._write_group(self._group)

    def _write_group(self, rows: int) -> None:
        import pyarrow as pa

        waiting = pa.concat_tables(self._waiting)
        # One chunk a column: where chunks end would show in the pages.
        group = waiting.slice(0, rows).combine_chunks()
        rest = waiting.slice(rows)
        self._waiting = [rest] if rest.num_rows else []
        self._waiting_rows = rest.num_rows
        with _failing(self._store.uri(self.path)):
            if self._writer is None:
                self._begin(group)
            self._writer.write_table(group, row_group_size=rows)
        self.rows += rows

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                if self._waiting_rows:
                    self._write_group(self._waiting_rows)
                with _failing(self._store.uri(self.path)):
                    if self._writer is None:
                        self._begin(self._schema.empty_table())
                    self._writer.close()
                    self.bytes = self._handle.tell()
            except BaseException as problem:
                self._abandon(problem)
                raise
            self._opened.__exit__(None, None, None)
        else:
            self._abandon(error)

    def _abandon(self, error: BaseException) -> None:
        # The writer wants to finish its file when it is closed, into a handle that is discarded.
        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()
        with suppress(type(error), AtdmError):
            self._opened.__exit__(type(error), error, error.__traceback__)


def _discard(handle: Any, error: BaseException) -> None:
    """Give an upload up: what is there under its name stays as it was."""
    try:
        handle.discard()
    except Exception as problem:
        # The first error is the one to report; the store drops unfinished uploads by its own rule.
        error.add_note(f"The upload could not be cancelled: {problem}")
    # Or it would be completed after all when the handle is collected.
    handle.closed = True


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Turn what a file system raises into STORE_FAILED with the file and the reason."""
    try:
        yield
    except AtdmError:
        raise
    except Exception as error:
        met = error if isinstance(error, OSError | ImportError) else raised_by_store(error)
        if met is None:
            raise
        reason = _reason(met)
        raise AtdmError(
            ErrorCode.STORE_FAILED, f"{what}: {reason}", {"path": what, "reason": reason}
        ) from error


def _reason(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS) or isinstance(error, PermissionError):
        return "this user may not write there"
    if number == errno.ENOENT or isinstance(error, FileNotFoundError):
        return "no such file"
    return str(error) or type(error).__name__


def _checked(path: str) -> str:
    """``path`` if it stays below the store's URL."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise AtdmError(
            ErrorCode.STORE_FAILED,
            f"{path!r} is no path inside the store",
            {"path": path},
        )
    return str(PurePosixPath(path))
