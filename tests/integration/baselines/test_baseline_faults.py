"""Baselines when something is in the way: the store, the disk, rights, the network.

Each time: an error that says what it is, the target as it was, nothing half visible, and the same
command works once the way is free. Files that are damaged and tables that differ are in
``test_baseline_refusals``, processes that are killed in ``tests/torture``.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from atdm.cli.output import ADVICE
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import S3Settings
from atdm_resources.store.files import Store
from atdm_services.baselines import listing
from atdm_services.baselines.capture import capture
from atdm_services.baselines.restore import restore
from tests.support.baseline_zoo import state
from tests.support.s3_server import BUCKET, Fault, Faults

pytest_plugins = ["tests.support.s3_server"]

ACTOR = Actor("human:tester", "test")
DOMAIN = "shop"

DOWN = {"answers 500": Fault(status=500), "cuts connections": Fault(cut_request=True)}


_SCHEMA = f"""
CREATE SCHEMA {DOMAIN};
INSERT INTO atdm.domain (domain) VALUES ('{DOMAIN}');
CREATE TABLE {DOMAIN}.item (id integer PRIMARY KEY, name text, sold date);
CREATE TABLE {DOMAIN}.sale (id integer PRIMARY KEY, item integer REFERENCES {DOMAIN}.item);
INSERT INTO {DOMAIN}.item SELECT g, md5(g::text), '2026-01-01' FROM generate_series(1, 50) AS g;
INSERT INTO {DOMAIN}.sale SELECT g, g FROM generate_series(1, 50) AS g
"""
"""Small: each file is some requests to a store that fails."""


@pytest.fixture
def conn(target: str) -> Iterator[psycopg.Connection[Any]]:
    """The target, with a domain of two tables."""
    with connect(target) as connection:
        connection.execute(_SCHEMA.encode())
        yield connection


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    return Store((tmp_path / "store").as_uri())


@pytest.fixture
def attempts() -> int:
    """How often the client of the object store tries: here, it does not wait for better times."""
    return 1


@pytest.fixture
def s3_store(faults: Faults, monkeypatch: pytest.MonkeyPatch, attempts: int) -> Store:
    """In an object store."""
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    options = S3Settings(endpoint_url=faults.url, read_seconds=2, attempts=attempts)
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex}", s3=options)


def ids(store: Store) -> list[str]:
    return [item.baseline_id for item in listing.baselines(store, DOMAIN)]


def last_actions(conn: psycopg.Connection[Any]) -> list[str]:
    rows = conn.execute(
        "SELECT action FROM atdm.audit_event WHERE action ~ '^(snapshot|restore|baseline)_'"
        " ORDER BY event_id DESC LIMIT 2"
    ).fetchall()
    return [action for (action,) in reversed(rows)]


def changed(conn: psycopg.Connection[Any]) -> None:
    conn.execute(f"UPDATE {DOMAIN}.item SET sold = sold - 1".encode())


# The object store.


@pytest.mark.parametrize("fault", DOWN.values(), ids=DOWN)
def test_a_store_that_goes_down_during_a_snapshot(
    conn: psycopg.Connection[Any], target: str, s3_store: Store, faults: Faults, fault: Fault
) -> None:
    capture(target, s3_store, DOMAIN, "one", actor=ACTOR)
    before = state(conn, DOMAIN)

    def goes_down(_what: str, done: int, _of: int) -> None:
        if done > 20:
            faults.inject(fault)

    with pytest.raises(AtdmError) as caught:
        capture(target, s3_store, DOMAIN, "two", actor=ACTOR, progress=goes_down)
    assert caught.value.code is ErrorCode.STORE_FAILED
    assert "/baselines/shop/two/" in caught.value.message
    assert state(conn, DOMAIN) == before
    assert last_actions(conn) == ["snapshot_started", "snapshot_failed"]
    faults.clear()
    assert ids(s3_store) == ["one"]
    assert listing.verify(s3_store, DOMAIN, "one") == []
    capture(target, s3_store, DOMAIN, "two", actor=ACTOR)
    assert listing.verify(s3_store, DOMAIN, "two") == []
    manifest = listing.latest(s3_store, DOMAIN)
    assert manifest is not None
    named = {f"baselines/{DOMAIN}/two/{file.path}" for file in manifest.files}
    there = set(s3_store.files(f"baselines/{DOMAIN}/two"))
    assert there == {*named, f"baselines/{DOMAIN}/two/manifest.json"}


@pytest.mark.parametrize("fault", DOWN.values(), ids=DOWN)
def test_a_manifest_that_cannot_be_written_is_no_baseline(
    conn: psycopg.Connection[Any], target: str, s3_store: Store, faults: Faults, fault: Fault
) -> None:
    faults.inject(fault, method="PUT", path="manifest.json")
    with pytest.raises(AtdmError) as caught:
        capture(target, s3_store, DOMAIN, "one", actor=ACTOR)
    assert caught.value.code is ErrorCode.STORE_FAILED
    assert "manifest.json" in caught.value.message
    faults.clear()
    assert ids(s3_store) == []
    assert s3_store.files("baselines") == []


@pytest.mark.parametrize(
    ("when", "fault"),
    [
        ("manifest.json", Fault(status=500)),
        ("manifest.json", Fault(cut_body=40)),
        ("loaded", Fault(status=503)),
        ("loaded", Fault(cut_body=40)),
    ],
)
def test_a_store_that_goes_down_during_a_restore(
    conn: psycopg.Connection[Any],
    target: str,
    s3_store: Store,
    faults: Faults,
    fault: Fault,
    when: str,
) -> None:
    capture(target, s3_store, DOMAIN, "one", actor=ACTOR)
    captured = state(conn, DOMAIN)
    changed(conn)
    before = state(conn, DOMAIN)

    def goes_down(what: str, _done: int, _of: int) -> None:
        if what.startswith(when):
            faults.inject(fault)

    if when == "manifest.json":
        faults.inject(fault, method="GET", path=when)
    with pytest.raises(AtdmError) as caught:
        restore(target, s3_store, DOMAIN, "one", actor=ACTOR, progress=goes_down)
    assert caught.value.code is ErrorCode.STORE_FAILED
    assert "/baselines/shop/one/" in caught.value.message
    assert state(conn, DOMAIN) == before
    assert last_actions(conn) == ["restore_started", "restore_failed"]
    faults.clear()
    restore(target, s3_store, DOMAIN, "one", actor=ACTOR)
    assert state(conn, DOMAIN) == captured


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(cut_request=True)])
@pytest.mark.parametrize(
    "call",
    [
        lambda conn, store: listing.baselines(store, DOMAIN),
        lambda conn, store: listing.verify(store, DOMAIN, "one"),
        lambda conn, store: listing.delete(conn, store, DOMAIN, "one", confirm=True, actor=ACTOR),
    ],
    ids=["list", "verify", "delete"],
)
def test_looking_and_deleting_say_that_the_store_is_down(
    conn: psycopg.Connection[Any],
    target: str,
    s3_store: Store,
    faults: Faults,
    fault: Fault,
    call: Callable[[psycopg.Connection[Any], Store], Any],
) -> None:
    for name in ("one", "two"):
        capture(target, s3_store, DOMAIN, name, actor=ACTOR)
    faults.inject(fault)
    with pytest.raises(AtdmError) as caught:
        call(conn, s3_store)
    assert caught.value.code is ErrorCode.STORE_FAILED
    faults.clear()
    assert sorted(ids(s3_store)) == ["one", "two"]
    assert listing.verify(s3_store, DOMAIN, "one") == []
    assert call(conn, s3_store) is not None


@pytest.mark.parametrize(
    ("allowed", "fault"), [(0, Fault(status=500)), (1, Fault(cut_request=True))]
)
def test_a_deletion_that_is_cut_short_is_finished_by_the_next_command(
    conn: psycopg.Connection[Any],
    target: str,
    s3_store: Store,
    faults: Faults,
    fault: Fault,
    allowed: int,
) -> None:
    for name in ("one", "two"):
        capture(target, s3_store, DOMAIN, name, actor=ACTOR)
    deletions = {"POST": "?delete", "DELETE": "/one/"}
    for method, path in deletions.items():
        faults.let_pass(allowed, method=method, path=path)
        faults.inject(fault, method=method, path=path)
    with pytest.raises(AtdmError) as caught:
        listing.delete(conn, s3_store, DOMAIN, "one", confirm=True, actor=ACTOR)
    assert caught.value.code is ErrorCode.STORE_FAILED
    faults.clear()
    capture(target, s3_store, DOMAIN, "three", actor=ACTOR)
    assert sorted(ids(s3_store)) == ["three", "two"]
    assert s3_store.files(f"baselines/{DOMAIN}/one") == []
    told = conn.execute(
        "SELECT invoker FROM atdm.audit_event WHERE action = 'baseline_deleted'"
    ).fetchall()
    assert told == [("human:tester",)]


@pytest.mark.parametrize("mark", [b"", b"[]", b'{"invoker": 1}'], ids=["empty", "list", "number"])
def test_a_baseline_that_is_being_removed_is_none(
    conn: psycopg.Connection[Any], target: str, folder_store: Store, mark: bytes
) -> None:
    """Not counted as the last intact one, and removed whatever its mark says."""
    for name in ("one", "two"):
        capture(target, folder_store, DOMAIN, name, actor=ACTOR)
    folder_store.write_bytes(f"baselines/{DOMAIN}/one/removed.json", mark)
    assert ids(folder_store) == ["two"]
    with pytest.raises(AtdmError) as caught:
        listing.delete(conn, folder_store, DOMAIN, "two", confirm=True, actor=ACTOR)
    assert caught.value.code is ErrorCode.REQUEST_CONFLICT
    capture(target, folder_store, DOMAIN, "three", actor=ACTOR)
    assert folder_store.files(f"baselines/{DOMAIN}/one") == []


@pytest.mark.parametrize("attempts", [3])
@pytest.mark.parametrize("fault", [*DOWN.values(), Fault(seconds=0.01)], ids=[*DOWN, "is slow"])
def test_passing_failures_change_nothing(
    conn: psycopg.Connection[Any], target: str, s3_store: Store, faults: Faults, fault: Fault
) -> None:
    for method in ("PUT", "HEAD", "GET"):
        faults.inject(fault, method=method, path="part-", times=1)
        faults.inject(fault, method=method, path="manifest.json", times=1)
    made = capture(target, s3_store, DOMAIN, "one", actor=ACTOR)
    captured = state(conn, DOMAIN)
    changed(conn)
    for path in ("part-", "manifest.json"):
        faults.inject(fault, method="GET", path=path, times=1)
    done = restore(target, s3_store, DOMAIN, "one", actor=ACTOR)
    assert done.content_hash == made.content_hash
    assert state(conn, DOMAIN) == captured


# Disk and folder.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_leaves_nothing(
    conn: psycopg.Connection[Any], target: str, small_disk: Path
) -> None:
    store = Store((small_disk / "store").as_uri())
    capture(target, store, DOMAIN, "one", actor=ACTOR)
    conn.execute(
        f"INSERT INTO {DOMAIN}.item SELECT g, md5(g::text) || md5((-g)::text), '2026-01-01'"
        " FROM generate_series(51, 5000) AS g".encode()
    )
    before = state(conn, DOMAIN)
    with pytest.raises(AtdmError) as caught:
        capture(target, store, DOMAIN, "two", actor=ACTOR)
    assert caught.value.code is ErrorCode.STORE_FAILED
    assert caught.value.details["reason"] == "the disk is full"
    assert "space left" in ADVICE[ErrorCode.STORE_FAILED]
    assert state(conn, DOMAIN) == before
    assert ids(store) == ["one"]
    assert listing.verify(store, DOMAIN, "one") == []
    assert not any(path.is_file() for path in small_disk.glob("store/baselines/*/two/**/*"))
    assert last_actions(conn) == ["snapshot_started", "snapshot_failed"]
    restore(target, store, DOMAIN, "one", actor=ACTOR)


def _captures_little(target: str, url: str, told: Any) -> None:
    """In a process of its own: a capture by somebody who may write two kilobytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        capture(target, Store(url), DOMAIN, "two", actor=ACTOR)
    except AtdmError as error:
        told.put((str(error.code), error.message))
    except BaseException as error:
        told.put(("", repr(error)))
    else:
        told.put(("", "it worked"))


def test_a_limit_on_files_is_named_and_leaves_nothing(
    conn: psycopg.Connection[Any], target: str, folder_store: Store, tmp_path: Path
) -> None:
    """What a quota does, wherever file systems cannot be mounted."""
    capture(target, folder_store, DOMAIN, "one", actor=ACTOR)
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    child = context.Process(target=_captures_little, args=(target, folder_store.url, told))
    child.start()
    code, message = told.get(timeout=120)
    child.join(30)
    assert code == "STORE_FAILED", message
    assert "/baselines/shop/two/" in message
    assert "File too large" in message
    assert ids(folder_store) == ["one"]
    assert not any(path.is_file() for path in tmp_path.glob("store/baselines/*/two/**/*"))
    assert last_actions(conn) == ["snapshot_started", "snapshot_failed"]


def test_a_store_that_may_only_be_read_is_named(
    conn: psycopg.Connection[Any], target: str, small_disk: Path
) -> None:
    store = Store((small_disk / "store").as_uri())
    capture(target, store, DOMAIN, "one", actor=ACTOR)
    captured = state(conn, DOMAIN)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(AtdmError) as caught:
        capture(target, store, DOMAIN, "two", actor=ACTOR)
    assert caught.value.code is ErrorCode.STORE_FAILED
    assert caught.value.details["reason"] == "this user may not write there"
    assert last_actions(conn) == ["snapshot_started", "snapshot_failed"]
    # What needs no writing goes on.
    assert listing.verify(store, DOMAIN, "one") == []
    changed(conn)
    restore(target, store, DOMAIN, "one", actor=ACTOR)
    assert state(conn, DOMAIN) == captured
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    capture(target, store, DOMAIN, "two", actor=ACTOR)


def test_a_file_where_the_store_should_be_is_named(
    conn: psycopg.Connection[Any], target: str, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("in the way", encoding="utf-8")
    store = Store((tmp_path / "store").as_uri())
    with pytest.raises(AtdmError) as caught:
        capture(target, store, DOMAIN, "one", actor=ACTOR)
    assert caught.value.code is ErrorCode.STORE_FAILED
    assert (tmp_path / "store").read_text(encoding="utf-8") == "in the way"
    row = conn.execute("SELECT count(*) FROM atdm.baseline WHERE status <> 'failed'").fetchone()
    assert row == (0,)


# Rights in the database.


@pytest.fixture
def stranger(conn: psycopg.Connection[Any], target: str) -> Iterator[tuple[str, str]]:
    """A role that may do nothing but connect, and a URL that connects as it."""
    name = f"stranger_{uuid.uuid4().hex[:8]}"
    conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    parts = urlsplit(target)
    place = parts.netloc.rpartition("@")[2]
    yield name, urlunsplit(parts._replace(netloc=f"{name}@{place}"))
    conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
    conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


_CATALOG = (
    "GRANT USAGE ON SCHEMA atdm TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA atdm TO {role}",
    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA atdm TO {role}",
    "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA atdm TO {role}",
)
_ROWS = (
    f"GRANT USAGE ON SCHEMA {DOMAIN} TO {{role}}",
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {DOMAIN} TO {{role}}",
)


@pytest.mark.parametrize(
    ("rights", "operation", "code", "said"),
    [
        ((), "capture", "TARGET_NOT_INITIALISED", "may not"),
        ((), "restore", "TARGET_NOT_INITIALISED", "may not"),
        (_CATALOG, "capture", "SNAPSHOT_FAILED", "permission denied"),
        (_CATALOG, "restore", "RESTORE_FAILED", "permission denied"),
        ((*_CATALOG, *_ROWS), "restore", "RESTORE_FAILED", "must be owner"),
    ],
)
def test_a_role_without_rights_is_told_which(
    conn: psycopg.Connection[Any],
    target: str,
    folder_store: Store,
    stranger: tuple[str, str],
    rights: tuple[str, ...],
    operation: str,
    code: str,
    said: str,
) -> None:
    role, url = stranger
    capture(target, folder_store, DOMAIN, "one", actor=ACTOR)
    for right in rights:
        conn.execute(sql.SQL(right).format(role=sql.Identifier(role)))  # type: ignore[arg-type]
    before = state(conn, DOMAIN)
    call: Any = {"capture": capture, "restore": restore}[operation]
    name = {"capture": "two", "restore": "one"}[operation]
    with pytest.raises(AtdmError) as caught:
        call(url, folder_store, DOMAIN, name, actor=ACTOR)
    assert (str(caught.value.code), said in caught.value.message) == (code, True), caught.value
    assert caught.value.code in ADVICE or "hint" in caught.value.details
    assert state(conn, DOMAIN) == before
    assert ids(folder_store) == ["one"]
    if rights:
        assert last_actions(conn)[-1] in ("snapshot_failed", "restore_failed")


def test_every_error_says_what_to_do() -> None:
    """By its code, where the place that raises it does not know better."""
    own = {ErrorCode.MISSING_EXTRA, ErrorCode.CONSTRAINT_CONTRADICTION, ErrorCode.SPEC_INVALID}
    assert [code.value for code in ErrorCode if code not in ADVICE and code not in own] == []
