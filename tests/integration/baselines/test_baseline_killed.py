"""kill -9 in every phase of a capture and a restore, and captures while others write."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_resources.catalog import leases
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services.baselines import listing
from atdm_services.baselines.capture import capture
from atdm_services.baselines.restore import restore
from tests.support.baseline_zoo import make_zoo, state
from tests.support.made_requests import seeded

ACTOR = Actor("human:tester", "test")

_CHILD = """
import os, signal, sys
from atdm_services.baselines import capture as capturing, contained_runs
from atdm_services.baselines import restore as restoring
from atdm_resources.catalog import baselines
from atdm_resources.catalog.events import Actor
from atdm_resources.store.files import Store
what, phase, url, store, domain, name = sys.argv[1:]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def progress(text, done, of):
    if text.startswith(phase):
        die()

def dies_after(function):
    def call(*arguments, **options):
        function(*arguments, **options)
        die()
    return call

patched = {
    "started": (baselines, "begin_capture"),
    "files found": (restoring, "require_files"),
    "published": (capturing, "publish_manifest"),
    "runs written": (contained_runs, "written"),
    "sequences set": (restoring._Restore, "_set_sequences"),
    "runs in line": (contained_runs, "reconcile"),
    "recorded": (baselines, "set_restored"),
}
if phase in patched:
    owner, attribute = patched[phase]
    setattr(owner, attribute, dies_after(getattr(owner, attribute)))
actor = Actor("human:killed", "test")
run = capturing.capture if what == "capture" else restoring.restore
run(url, Store(store), domain, name, actor=actor, progress=progress)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((tmp_path / "store").as_uri())


@pytest.fixture
def conn(target: str) -> Any:
    with connect(target) as connection:
        yield connection


def killed(what: str, phase: str, url: str, store: Store, domain: str, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, what, phase, url, store.url, domain, name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)


@pytest.mark.parametrize("phase", ["started", "copied", "runs written", "published"])
def test_a_killed_capture_leaves_no_half_baseline(
    conn: psycopg.Connection[Any],
    target: str,
    store: Store,
    tmp_path: Path,
    registry: Registry,
    phase: str,
) -> None:
    seeded(conn, tmp_path, registry, runs=50)
    killed("capture", phase, target, store, "healthcare", "one")
    if phase == "published":
        # The manifest is in the store: the baseline exists, whatever became of its process.
        assert listing.verify(store, "healthcare", "one") == []
        capture(target, store, "healthcare", "two", actor=ACTOR)
        expected = "complete"
    else:
        assert listing.baselines(store, "healthcare") == []
        assert capture(target, store, "healthcare", "one", actor=ACTOR).rows > 250
        expected = "complete"
        assert listing.verify(store, "healthcare", "one") == []
    row = conn.execute("SELECT status FROM atdm.baseline WHERE baseline_id = 'one'").fetchone()
    assert row == (expected,)
    manifest = next(
        item.manifest
        for item in listing.baselines(store, "healthcare")
        if item.baseline_id == "one" and item.manifest
    )
    named = {file.path for file in manifest.files} | {"manifest.json"}
    folder = tmp_path / "store" / "baselines" / "healthcare" / "one"
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {path for path in there if not Path(path).name.startswith(".")} == named
    failed = conn.execute(
        "SELECT count(*) FROM atdm.audit_event WHERE action = 'snapshot_failed'"
    ).fetchone()
    assert failed == (0 if phase == "published" else 1,)


@pytest.mark.parametrize(
    "phase",
    [
        "files found",
        "loaded egg",
        "loaded node",
        "making keys",
        "checking references",
        "sequences set",
        "runs in line",
        "recorded",
    ],
)
def test_a_killed_restore_leaves_the_old_state_whole(
    conn: psycopg.Connection[Any], target: str, store: Store, phase: str
) -> None:
    make_zoo(conn)
    captured = state(conn)
    capture(target, store, "zoo", "one", actor=ACTOR)
    conn.execute("DELETE FROM zoo.note")
    conn.execute("INSERT INTO zoo.node (parent, label) VALUES (5, 'since')")
    conn.execute("SELECT setval('zoo.lonely', 8), setval('zoo.untouched', 9, false)")
    before = state(conn)
    killed("restore", phase, target, store, "zoo", "one")
    assert state(conn) == before
    restore(target, store, "zoo", "one", actor=ACTOR)
    assert state(conn) == captured
    started = conn.execute(
        "SELECT invoker FROM atdm.audit_event WHERE action = 'restore_started' ORDER BY event_id"
    ).fetchall()
    assert started == [("human:killed",), ("human:tester",)]


def test_every_capture_is_one_moment_while_others_write(
    conn: psycopg.Connection[Any], target: str, store: Store
) -> None:
    """Two tables that always change together, one that is emptied and refilled."""
    conn.execute("CREATE SCHEMA pairs; INSERT INTO atdm.domain (domain) VALUES ('pairs')")
    conn.execute("CREATE TABLE pairs.one (id integer PRIMARY KEY, value integer)")
    conn.execute("CREATE TABLE pairs.other (id integer PRIMARY KEY, value integer)")
    conn.execute("INSERT INTO pairs.one SELECT g, 0 FROM generate_series(1, 20000) AS g")
    conn.execute("INSERT INTO pairs.other SELECT * FROM pairs.one")
    stop = threading.Event()

    def write(number: int) -> None:
        with connect(target) as own:
            while not stop.is_set():
                with own.transaction():
                    if number:
                        own.execute("UPDATE pairs.one SET value = value + 1 WHERE id % 997 = 3")
                        own.execute("UPDATE pairs.other SET value = value + 1 WHERE id % 997 = 3")
                    else:
                        own.execute("LOCK TABLE pairs.one, pairs.other")
                        own.execute("CREATE TEMP TABLE kept ON COMMIT DROP AS TABLE pairs.one")
                        own.execute("TRUNCATE pairs.one, pairs.other")
                        own.execute("INSERT INTO pairs.one SELECT * FROM kept")
                        own.execute("INSERT INTO pairs.other SELECT * FROM kept")

    writers = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for writer in writers:
        writer.start()
    try:
        made = [capture(target, store, "pairs", f"at-{n}", actor=ACTOR) for n in range(6)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    for manifest in made:
        tables = {table.name: table for table in manifest.tables}
        one, other = tables["one"], tables["other"]
        assert (one.rows, other.rows) == (20000, 20000)
        assert one.content_hash == other.content_hash
    assert len({manifest.content_hash for manifest in made}) > 1


def test_a_lease_during_a_restore_is_told_to_try_again(
    conn: psycopg.Connection[Any], target: str, store: Store, tmp_path: Path, registry: Registry
) -> None:
    from atdm_engine.errors import AtdmError, ErrorCode

    seeded(conn, tmp_path, registry, runs=10)
    capture(target, store, "healthcare", "one", actor=ACTOR)
    answers: list[object] = []

    def lease_now(what: str, done: int, of: int) -> None:
        if what == "making keys and indexes":
            with connect(target) as own:
                try:
                    answers.append(leases.lease(own, None, "active_member_clean"))
                except AtdmError as error:
                    answers.append(error.code)

    restore(target, store, "healthcare", "one", actor=ACTOR, progress=lease_now)
    assert answers == [ErrorCode.BUSY]
    assert leases.lease(conn, None, "active_member_clean")["token"]
