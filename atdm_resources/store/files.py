"""The store: files under one URL, on disk (``file://``) or in an object store (``s3://``)."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any, cast

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.settings import S3Settings
from atdm_resources.store.s3 import raised_by_store, s3fs_options
from atdm_resources.store.staging import is_abandoned, is_staged, staged_name


class Store:
    """Files below ``url``. ``s3`` is for object stores and has no effect on disk.

    A store can be pickled: another process opens the same store again. Paths are relative, with
    ``/`` between their parts. Every method raises AtdmError STORE_FAILED with the file and the
    reason if the store refuses.
    """

    def __init__(self, url: str, *, s3: S3Settings | None = None) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self.s3 = s3 or S3Settings()
        options = s3fs_options(self.s3) if url.startswith("s3://") else {}
        with store_errors(self.url):
            self._files, self._root = fsspec.core.url_to_fs(self.url, **options)
        self._local = url.startswith("file://")

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Store, s3=self.s3), (self.url,)

    def uri(self, path: str) -> str:
        """The full URL of a file, for messages and metadata."""
        return f"{self.url}/{_checked(path)}"

    def _full(self, path: str) -> str:
        return f"{self._root}/{_checked(path)}"

    @contextmanager
    def write_atomic(self, path: str) -> Iterator[IO[bytes]]:
        """A file to write to that appears under its name as a whole when the block ends.

        If the block raises, an earlier file of that name stays as it is. STORE_FAILED is for
        errors of opening and of completing the file; an OSError of the block stays an OSError.
        """
        write = self._staged if self._local else self._uploaded
        with write(path) as handle:
            yield handle

    @contextmanager
    def _staged(
        self, path: str, publish: Callable[[str, str], None] = os.replace
    ) -> Iterator[IO[bytes]]:
        """Write beside the file's name, then ``publish`` under it."""
        # Not fsspec's transaction: it stages in the temporary folder, often another file system,
        # from where a file is copied and not renamed.
        full = self._full(path)
        folder, name = os.path.split(full)
        staged = f"{folder}/{staged_name(name)}"
        with store_errors(self.uri(path)):
            os.makedirs(folder, exist_ok=True)
            handle = open(staged, "xb")  # noqa: SIM115
        try:
            yield handle
            with store_errors(self.uri(path)):
                handle.flush()
                os.fsync(handle.fileno())
                handle.close()
                publish(staged, full)
        finally:
            with suppress(OSError):
                handle.close()
            with suppress(FileNotFoundError):
                os.unlink(staged)

    @contextmanager
    def _uploaded(self, path: str) -> Iterator[IO[bytes]]:
        """Upload an object, which appears when the upload is completed: when it is closed."""
        with store_errors(self.uri(path)):
            handle = self._files.open(self._full(path), "wb")
        try:
            yield handle
            with store_errors(self.uri(path)):
                handle.close()
        except BaseException as error:
            try:
                handle.discard()
            except Exception as problem:
                # The first error is the one to report; the store's own rule drops the upload.
                error.add_note(f"The upload could not be cancelled: {problem}")
            # Otherwise the upload is completed when the handle is collected.
            handle.closed = True
            raise

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write a whole file atomically."""
        with store_errors(self.uri(path)), self.write_atomic(path) as handle:
            handle.write(content)

    def write_new(self, path: str, content: bytes) -> bool:
        """Write a whole file unless there is one of that name; False when there is.

        Of several callers at the same time one succeeds: on disk by a hard link, in an object
        store by a conditional upload.
        """
        new = True

        def link(staged: str, full: str) -> None:
            nonlocal new
            try:
                os.link(staged, full)
            except FileExistsError:
                new = False

        full = self._full(path)
        with store_errors(self.uri(path)):
            if self._local:
                with self._staged(path, link) as handle:
                    handle.write(content)
            elif self._files.exists(full):
                new = False
            else:
                try:
                    self._files.pipe_file(full, content, mode="create")
                except FileExistsError:
                    # s3fs repeats an upload whose answer was lost: then the file is our own.
                    new = self.read_bytes(path) == content
        return new

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        """A file to read."""
        with store_errors(self.uri(path)), self._files.open(self._full(path), "rb") as handle:
            yield handle

    def read_bytes(self, path: str) -> bytes:
        """A whole file."""
        with self.open(path) as handle:
            return handle.read()

    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder of that name."""
        with store_errors(self.uri(path)):
            return bool(self._files.exists(self._full(path)))

    def sha256(self, path: str) -> str:
        """The checksum of a file's content, in hexadecimal digits."""
        with self.open(path) as handle:
            return hashlib.file_digest(cast("io.BufferedReader", handle), "sha256").hexdigest()

    def size(self, path: str) -> int:
        """The size of a file in bytes."""
        with store_errors(self.uri(path)):
            return int(self._files.size(self._full(path)))

    def modified(self, path: str) -> datetime:
        """The time of the last change of a file, in UTC."""
        with store_errors(self.uri(path)):
            moment: datetime = self._files.modified(self._full(path))
        return moment.astimezone(UTC)

    def files(self, prefix: str) -> list[str]:
        """Every file below a folder, sorted, as paths of this store."""
        with store_errors(self.uri(prefix)):
            found = self._files.find(self._full(prefix))
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    def sizes(self, prefix: str) -> dict[str, int]:
        """The sizes in bytes of every whole file below a folder, by path, from one listing.

        Files that are being written, or deleted meanwhile, are left out.
        """
        with store_errors(self.uri(prefix)):
            found = self._files.find(self._full(prefix), detail=True)
        return {
            path.removeprefix(f"{self._root}/"): int(about["size"])
            for path, about in sorted(found.items())
            if not is_staged(os.path.basename(path))
        }

    def delete_prefix(self, prefix: str) -> int:
        """Delete a folder with everything in it; returns the number of deleted files."""
        found = self.files(prefix)
        if found or self.exists(prefix):
            with store_errors(self.uri(prefix)), suppress(FileNotFoundError):
                self._files.rm(self._full(prefix), recursive=True)
        return len(found)

    def sweep(self, prefix: str) -> int:
        """Delete the partial files of killed writers below a folder; returns their number.

        Whole files stay, and partial ones whose writer is alive. An object store has no partial
        files: the bucket's own rule removes uploads that were not completed.
        """
        if not self._local:
            return 0
        gone = [path for path in self.files(prefix) if is_abandoned(os.path.basename(path))]
        for path in gone:
            with store_errors(self.uri(path)), suppress(FileNotFoundError):
                os.unlink(self._full(path))
        return len(gone)


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Turn errors of the file system into STORE_FAILED with the file and the reason."""
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
