"""The store on an object store: files whole or not at all, whatever the network does."""

from __future__ import annotations

import hashlib
import pickle
import uuid
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.settings import S3Settings
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import read_batches, write_table
from atdm_resources.store.s3 import s3fs_options
from tests.support.s3_server import BUCKET, Fault, Faults

pytest_plugins = ["tests.support.s3_server"]

LARGE = b"0123456789abcdef" * (12 * 1024 * 1024 // 16)
"""Twelve megabytes: s3fs uploads it in parts."""


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def client(s3_server: str) -> Any:
    return boto3.client("s3", endpoint_url=f"http://{s3_server}")


@pytest.fixture
def store(faults: Faults, prefix: str) -> Store:
    options = S3Settings(endpoint_url=faults.url, read_seconds=2)
    return Store(f"s3://{BUCKET}/{prefix}", s3=options)


def keys(client: Any, prefix: str) -> list[str]:
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", [])
    return [one["Key"].removeprefix(f"{prefix}/") for one in found]


def unfinished(client: Any, prefix: str) -> list[str]:
    found = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [one["Key"] for one in found if one["Key"].startswith(prefix)]


def test_does_what_a_folder_does(store: Store) -> None:
    assert not store.exists("a/b.bin")
    store.write_bytes("a/b.bin", b"one")
    store.write_bytes("a/c/d.bin", b"two")
    store.write_bytes("e.bin", b"")
    assert store.exists("a/b.bin")
    assert store.exists("a")
    assert store.size("a/b.bin") == 3
    assert store.read_bytes("a/c/d.bin") == b"two"
    assert store.read_bytes("e.bin") == b""
    assert store.files("a") == ["a/b.bin", "a/c/d.bin"]
    store.write_bytes("a/b.bin", b"changed")
    assert store.read_bytes("a/b.bin") == b"changed"
    assert store.delete_prefix("a") == 2
    assert not store.exists("a/b.bin")
    assert store.read_bytes("e.bin") == b""
    with pytest.raises(AtdmError) as caught:
        store.read_bytes("a/b.bin")
    assert caught.value.code == ErrorCode.STORE_FAILED
    assert caught.value.details["reason"] == "no such file"


def test_parquet_has_the_bytes_that_it_has_in_a_folder(store: Store, tmp_path: Path) -> None:
    rows = pa.table({"id": range(250_000), "name": [f"n{i % 97}" for i in range(250_000)]})
    local = Store(tmp_path.as_uri())
    for one in (store, local):
        write_table(one, "t.parquet", rows)
    digests = {hashlib.sha256(one.read_bytes("t.parquet")).hexdigest() for one in (store, local)}
    assert len(digests) == 1
    assert sum(batch.num_rows for batch in read_batches(store, "t.parquet")) == 250_000


def test_a_file_appears_when_it_is_complete(store: Store, client: Any, prefix: str) -> None:
    with store.write_atomic("large.bin") as handle:
        handle.write(LARGE)
        assert keys(client, prefix) == []
        assert not store.exists("large.bin")
    assert store.read_bytes("large.bin") == LARGE
    assert unfinished(client, prefix) == []


@pytest.mark.parametrize("size", [100, len(LARGE)])
def test_a_writer_that_fails_leaves_what_was_there(
    store: Store, client: Any, prefix: str, size: int
) -> None:
    store.write_bytes("f.bin", b"old")

    def fail() -> None:
        with store.write_atomic("f.bin") as handle:
            handle.write(LARGE[:size])
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fail()
    assert store.read_bytes("f.bin") == b"old"
    assert unfinished(client, prefix) == []


def test_of_two_who_write_a_new_file_one_succeeds(store: Store) -> None:
    assert store.write_new("m.json", b"mine")
    assert not store.write_new("m.json", b"yours")
    assert store.read_bytes("m.json") == b"mine"


def test_a_file_written_elsewhere_is_there_at_once(store: Store, client: Any, prefix: str) -> None:
    """Not taken from a listing that was made before (upstream caches listings by default)."""
    store.write_bytes("a/one.bin", b"1")
    assert store.files("a") == ["a/one.bin"]
    assert not store.exists("a/two.bin")
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/a/two.bin", Body=b"2")
    assert store.exists("a/two.bin")
    assert store.files("a") == ["a/one.bin", "a/two.bin"]
    client.delete_object(Bucket=BUCKET, Key=f"{prefix}/a/one.bin")
    assert not store.exists("a/one.bin")


def test_a_file_that_is_not_listed_exists_all_the_same(store: Store, faults: Faults) -> None:
    store.write_bytes("a/one.bin", b"1")
    faults.inject(Fault(status=500), path="list-type")
    assert store.exists("a/one.bin")
    assert store.read_bytes("a/one.bin") == b"1"


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=503), Fault(cut_request=True)])
@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
def test_a_passing_failure_is_not_seen(
    store: Store, faults: Faults, client: Any, prefix: str, fault: Fault, content: bytes
) -> None:
    for method in ("PUT", "POST", "GET", "HEAD"):
        faults.inject(fault, method=method, times=1)
    store.write_bytes("f.bin", content)
    assert store.read_bytes("f.bin") == content
    assert unfinished(client, prefix) == []


@pytest.mark.parametrize("cut", [0, 10, 70_000])
def test_a_body_that_is_cut_is_read_again(store: Store, faults: Faults, cut: int) -> None:
    content = LARGE[:200_000]
    store.write_bytes("f.bin", content)
    faults.inject(Fault(cut_body=cut), method="GET", path="f.bin", times=2)
    assert store.read_bytes("f.bin") == content
    gets = [asked for asked in faults.asked if asked.startswith("GET") and "f.bin" in asked]
    assert len(gets) == 3


def test_a_slow_body_is_waited_for(store: Store, faults: Faults) -> None:
    store.write_bytes("f.bin", LARGE[:10_000])
    faults.inject(Fault(seconds=0.1), method="GET", path="f.bin")
    assert store.read_bytes("f.bin") == LARGE[:10_000]


def test_a_body_that_stalls_is_an_error_in_the_end(
    store: Store, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    store.write_bytes("f.bin", LARGE[:10_000])
    faults.inject(Fault(seconds=30.0), method="GET", path="f.bin")
    with pytest.raises(AtdmError) as caught:
        store.read_bytes("f.bin")
    assert caught.value.code == ErrorCode.STORE_FAILED
    assert "f.bin" in caught.value.message


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(cut_request=True)])
@pytest.mark.parametrize("content", [b"new", LARGE], ids=["small", "large"])
def test_a_store_that_stays_down_is_named_and_nothing_changes(
    store: Store, faults: Faults, monkeypatch: pytest.MonkeyPatch, fault: Fault, content: bytes
) -> None:
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    store.write_bytes("f.bin", b"old")
    faults.inject(fault, method="PUT")
    faults.inject(fault, method="POST")
    with pytest.raises(AtdmError) as caught:
        store.write_bytes("f.bin", content)
    assert caught.value.code == ErrorCode.STORE_FAILED
    assert caught.value.details["path"].endswith("/f.bin")
    faults.clear()
    assert store.read_bytes("f.bin") == b"old"


def test_an_upload_that_fails_at_its_end_is_cancelled(
    store: Store,
    faults: Faults,
    client: Any,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    faults.inject(Fault(status=500), method="POST", path="uploadId=")
    with pytest.raises(AtdmError) as caught:
        store.write_bytes("f.bin", LARGE)
    assert caught.value.code == ErrorCode.STORE_FAILED
    faults.clear()
    assert not store.exists("f.bin")
    assert unfinished(client, prefix) == []


def test_a_new_file_whose_answer_was_lost_is_ours(store: Store, faults: Faults) -> None:
    faults.inject(Fault(lose_answer=True), method="PUT", path="m.json", times=1)
    assert store.write_new("m.json", b"mine")
    assert store.read_bytes("m.json") == b"mine"
    assert not store.write_new("m.json", b"yours")


def test_an_object_that_vanishes_while_it_is_read_is_an_error(
    store: Store, client: Any, prefix: str
) -> None:
    store.write_bytes("f.bin", LARGE)

    def read() -> bytes:
        with store.open("f.bin") as handle:
            first = handle.read(1000)
            client.delete_object(Bucket=BUCKET, Key=f"{prefix}/f.bin")
            handle.seek(11_000_000)
            return first + handle.read()

    with pytest.raises(AtdmError) as caught:
        read()
    assert caught.value.code == ErrorCode.STORE_FAILED


def test_no_reader_sees_half_of_one_file_and_half_of_another(
    store: Store, client: Any, prefix: str
) -> None:
    store.write_bytes("f.bin", LARGE)

    def read() -> bytes:
        with store.open("f.bin") as handle:
            first = handle.read(1000)
            store.write_bytes("f.bin", LARGE[::-1])
            handle.seek(11_000_000)
            return first + handle.read()

    with pytest.raises(AtdmError) as caught:
        read()
    assert caught.value.code == ErrorCode.STORE_FAILED


def test_permission_is_named(store: Store, faults: Faults) -> None:
    faults.inject(Fault(status=403))
    with pytest.raises(AtdmError) as caught:
        store.write_bytes("f.bin", b"x")
    assert caught.value.details["reason"] == "this user may not write there"


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    closed = Store(f"s3://{BUCKET}/x", s3=S3Settings(endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(AtdmError) as caught:
        closed.exists("f.bin")
    assert caught.value.code == ErrorCode.STORE_FAILED
    assert "127.0.0.1:1" in caught.value.message


@pytest.mark.parametrize(("encryption", "key"), [("AES256", None), ("aws:kms", "alias/test-data")])
@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
def test_encryption_is_asked_for(
    faults: Faults, client: Any, prefix: str, encryption: Any, key: str | None, content: bytes
) -> None:
    options = S3Settings(
        endpoint_url=faults.url, region="eu-central-1", encryption=encryption, kms_key_id=key
    )
    store = Store(f"s3://{BUCKET}/{prefix}", s3=options)
    store.write_bytes("f.bin", content)
    head = client.head_object(Bucket=BUCKET, Key=f"{prefix}/f.bin")
    assert head["ServerSideEncryption"] == encryption
    assert head.get("SSEKMSKeyId") == key
    assert store.read_bytes("f.bin") == content


def test_the_bucket_is_in_the_path_where_the_endpoint_is_ones_own(
    store: Store, faults: Faults
) -> None:
    store.write_bytes("f.bin", b"x")
    assert all(asked.split()[1].startswith(f"/{BUCKET}") for asked in faults.asked)
    other = s3fs_options(S3Settings(endpoint_url="http://localhost:1", path_style=False))
    assert "s3" not in other["config_kwargs"]


def test_goes_to_other_processes(store: Store) -> None:
    store.write_bytes("f.bin", b"x")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.read_bytes("f.bin") == b"x"
    assert (copy.url, copy.s3) == (store.url, store.s3)
