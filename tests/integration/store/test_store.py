"""The store: files appear whole or not at all, equal rows are equal bytes, errors are named."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import parquet_writer, read_batches


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((tmp_path / "store").as_uri())


def rows(first: int, last: int) -> pa.Table:
    numbers = list(range(first, last))
    return pa.table(
        {
            "id": numbers,
            "name": [f"name {number % 97}" for number in numbers],
            "maybe": [None if number % 3 else number * 0.5 for number in numbers],
        }
    )


def written(store: Store, path: str, cuts: list[int], group: int) -> str:
    with parquet_writer(store, path, rows(0, 1).schema, group_rows=group) as writer:
        for first, last in itertools.pairwise(cuts):
            writer.write(rows(first, last))
    assert writer.rows == cuts[-1]
    assert writer.bytes == store.size(path)
    assert writer.sha256 == store.sha256(path)
    return hashlib.sha256(store.read_bytes(path)).hexdigest()


@pytest.mark.parametrize("total", [0, 1, 999, 1000, 1001, 2500])
def test_equal_rows_give_equal_bytes_however_they_are_cut(store: Store, total: int) -> None:
    digests = {
        written(store, "a/one.parquet", [0, total], 1000),
        written(store, "b/small.parquet", [*range(0, total, 7), total], 1000),
        written(store, "c/uneven.parquet", sorted({0, total // 3, total // 2, total}), 1000),
    }
    assert len(digests) == 1
    with store.open("b/small.parquet") as handle:
        file = pq.ParquetFile(handle)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        assert groups == [1000] * (total // 1000) + ([total % 1000] if total % 1000 else [])
        assert file.read().to_pylist() == rows(0, total).to_pylist()
    assert sum(batch.num_rows for batch in read_batches(store, "a/one.parquet", 64)) == total


def test_a_file_appears_when_it_is_complete(store: Store) -> None:
    store.write_bytes("x/y.bin", b"before")
    with store.write_atomic("x/y.bin") as handle:
        handle.write(b"af")
        assert store.read_bytes("x/y.bin") == b"before"
        handle.write(b"ter")
    assert store.read_bytes("x/y.bin") == b"after"
    assert store.files("x") == ["x/y.bin"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_what_was_there(
    store: Store, failure: type[BaseException]
) -> None:
    store.write_bytes("x/y.bin", b"before")

    def fail_in_a_file() -> None:
        with store.write_atomic("x/y.bin") as handle:
            handle.write(b"after")
            raise failure

    def fail_in_a_table() -> None:
        schema = rows(0, 1).schema
        with parquet_writer(store, "x/z.parquet", schema, group_rows=10) as writer:
            writer.write(rows(0, 25))
            raise failure

    for attempt in (fail_in_a_file, fail_in_a_table):
        with pytest.raises(failure):
            attempt()
    assert store.files("x") == ["x/y.bin"]
    assert store.read_bytes("x/y.bin") == b"before"


def test_a_prefix_is_deleted_with_everything_in_it(store: Store) -> None:
    for path in ("a/1", "a/b/2", "ab/3"):
        store.write_bytes(path, b"x")
    assert store.delete_prefix("a") == 2
    assert store.files("ab") == ["ab/3"]
    assert not store.exists("a/1")
    assert store.delete_prefix("a") == 0


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\0b", "a\\b"])
def test_paths_stay_inside_the_store(store: Store, path: str) -> None:
    for attempt in (store.read_bytes, store.exists, store.delete_prefix):
        with pytest.raises(AtdmError) as caught:
            attempt(path)
        assert caught.value.code is ErrorCode.STORE_FAILED


def test_a_missing_file_is_named(store: Store) -> None:
    with pytest.raises(AtdmError) as caught:
        store.read_bytes("no/such.parquet")
    assert caught.value.code is ErrorCode.STORE_FAILED
    assert "no/such.parquet" in caught.value.message
    assert "no such file" in caught.value.message


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "this user may not write there"),
        (errno.EROFS, "this user may not write there"),
    ],
)
def test_a_store_that_refuses_says_why(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    for write in (
        lambda: store.write_bytes("a/full.bin", b"x"),
        lambda: written(store, "a/full.parquet", [0, 10], 100),
    ):
        with pytest.raises(AtdmError) as caught:
            write()
        assert caught.value.code is ErrorCode.STORE_FAILED
        assert said in caught.value.message
        assert "a/full" in caught.value.details["path"]
    assert store.files("a") == []


def test_a_disk_that_fills_up_while_rows_are_written(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the kernel refuses in mid-write."""
    script = """
        import resource, signal, sys
        import pyarrow as pa
        from atdm_engine.errors import AtdmError
        from atdm_resources.store.files import Store
        from atdm_resources.store.parquet import parquet_writer

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        store = Store(sys.argv[1])
        table = pa.table({"id": [str(n * 7919 % 100_003) for n in range(100_000)]})
        try:
            with parquet_writer(store, "big.parquet", table.schema, group_rows=10_000) as writer:
                for _ in range(10):
                    writer.write(table)
        except AtdmError as error:
            print(error.code, error.details["path"].rpartition("/")[2])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), (tmp_path / "s").as_uri()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["STORE_FAILED", "big.parquet"]
    assert list((tmp_path / "s").iterdir()) == []


def test_wide_rows_end_a_row_group(store: Store) -> None:
    wide = pa.table({"text": ["x" * 1000] * 10})
    with parquet_writer(store, "w.parquet", wide.schema, group_bytes=25_000) as writer:
        for batch in [*wide.to_batches(), *wide.to_batches(), *wide.to_batches()] * 2:
            writer.write(batch)
    with store.open("w.parquet") as handle:
        file = pq.ParquetFile(handle)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        assert groups == [30, 30]
        assert file.read().to_pylist() == wide.to_pylist() * 6


def test_an_error_of_the_block_is_not_the_store_s(store: Store) -> None:
    def fail() -> None:
        with parquet_writer(store, "a.parquet", rows(0, 1).schema) as writer:
            writer.write(rows(0, 1))
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        fail()
    assert not store.exists("a.parquet")


def test_rows_of_other_columns_are_refused(store: Store) -> None:
    with (
        pytest.raises(ValueError, match="expected"),
        parquet_writer(store, "a.parquet", rows(0, 1).schema) as writer,
    ):
        writer.write(pa.table({"other": [1]}))
    assert not store.exists("a.parquet")


class Upload(AbstractBufferedFile):
    """A file that becomes an object when its last chunk is there, as in an object store."""

    def _initiate_upload(self) -> None:
        self.parts: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        self.parts.append(self.buffer.getvalue())
        if final:
            Bucket.objects[self.path] = b"".join(self.parts)
        return True

    def _fetch_range(self, start: int, end: int) -> bytes:
        return Bucket.objects[self.path][start:end]

    def discard(self) -> None:
        self.parts = []


class Bucket(AbstractFileSystem):
    """An object store without folders and without rename, in memory."""

    protocol = "bucket"
    objects: ClassVar[dict[str, bytes]] = {}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Upload:
        if mode == "rb" and path not in self.objects:
            raise FileNotFoundError(path)
        return Upload(self, path, mode, block_size=1000, **self._size(path, mode))

    def _size(self, path: str, mode: str) -> dict[str, int]:
        return {"size": len(self.objects[path])} if mode == "rb" else {}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path in self.objects:
            return {"name": path, "size": len(self.objects[path]), "type": "file"}
        if any(name.startswith(path + "/") for name in self.objects):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def find(self, path: str, *args: Any, **options: Any) -> list[str]:
        return sorted(name for name in self.objects if name.startswith(path + "/"))

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        for name in self.find(path):
            del self.objects[name]


def test_an_object_store_works_through_the_same_methods() -> None:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    store = Store("bucket://b")
    store.write_bytes("a/b.bin", b"x" * 5000)
    written(store, "a/c.parquet", [0, 10, 30], 20)
    assert store.files("a") == ["a/b.bin", "a/c.parquet"]
    assert store.read_bytes("a/b.bin") == b"x" * 5000
    assert store.exists("a")
    assert not store.exists("a/d")

    def fail() -> None:
        with store.write_atomic("a/d.bin") as handle:
            handle.write(b"y" * 5000)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.files("a") == ["a/b.bin", "a/c.parquet"]
    assert store.delete_prefix("a") == 2
    assert Bucket.objects == {}
