"""Files that are being written: whose they are, and whether he is still there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atdm_resources.store.files import Store
from atdm_resources.store.staging import is_abandoned, is_staged, staged_name

_PRINTS = (
    "from atdm_resources.store.staging import staged_name; print(staged_name('a.parquet'), end='')"
)


def of_the_dead() -> str:
    """What a process that has ended called its file."""
    done = subprocess.run([sys.executable, "-c", _PRINTS], capture_output=True, check=True)
    return done.stdout.decode()


def test_a_file_of_this_process_is_not_abandoned() -> None:
    name = staged_name("a.parquet")
    assert is_staged(name)
    assert not is_abandoned(name)
    assert name != staged_name("a.parquet")


def test_a_file_of_a_process_that_ended_is_abandoned() -> None:
    name = of_the_dead()
    assert is_staged(name)
    assert is_abandoned(name)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_pid_that_somebody_else_has_now_does_not_keep_a_file() -> None:
    head, _, tail = staged_name("a").rpartition(".")
    place, _, _, random = tail.split("-")
    assert is_abandoned(f"{head}.{place}-{os.getpid()}-1-{random}")


def test_nothing_is_known_of_writers_elsewhere() -> None:
    head, _, tail = of_the_dead().rpartition(".")
    elsewhere = f"{head}.{'0' * 8}{tail[8:]}"
    assert is_staged(elsewhere)
    assert not is_abandoned(elsewhere)


@pytest.mark.parametrize("name", ["a.parquet", ".hidden", ".a.parquet.0123456789ab", ""])
def test_other_files_are_nobody_s_business(name: str) -> None:
    assert not is_staged(name)
    assert not is_abandoned(name)


def test_a_sweep_deletes_what_killed_writers_left(tmp_path: Path) -> None:
    store = Store(tmp_path.as_uri())
    store.write_bytes("a/whole.bin", b"1")
    (tmp_path / "a" / of_the_dead()).write_bytes(b"half")
    with store.write_atomic("a/other.bin") as handle:
        handle.write(b"2")
        assert store.sweep("a") == 1
        assert list(store.sizes("a")) == ["a/whole.bin"]
    assert store.sweep("a") == 0
    assert store.sizes("a") == {"a/other.bin": 1, "a/whole.bin": 1}
