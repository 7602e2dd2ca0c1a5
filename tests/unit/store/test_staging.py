"""Files that are being written: which process writes them, and whether it is alive."""

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


def name_by_ended_process() -> str:
    """The name that a process gave to its file before it ended."""
    done = subprocess.run([sys.executable, "-c", _PRINTS], capture_output=True, check=True)
    return done.stdout.decode()


def test_a_file_of_this_process_is_not_abandoned() -> None:
    name = staged_name("a.parquet")
    assert is_staged(name)
    assert not is_abandoned(name)
    assert name != staged_name("a.parquet")


def test_a_file_of_a_process_that_ended_is_abandoned() -> None:
    name = name_by_ended_process()
    assert is_staged(name)
    assert is_abandoned(name)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_pid_that_another_process_has_now_does_not_keep_a_file() -> None:
    head, _, tail = staged_name("a").rpartition(".")
    place, _, _, random = tail.split("-")
    assert is_abandoned(f"{head}.{place}-{os.getpid()}-00000001-{random}")


def test_writers_elsewhere_are_unknown() -> None:
    head, _, tail = name_by_ended_process().rpartition(".")
    elsewhere = f"{head}.{'0' * 8}{tail[8:]}"
    assert is_staged(elsewhere)
    assert not is_abandoned(elsewhere)


@pytest.mark.parametrize("name", ["a.parquet", ".hidden", ".a.parquet.0123456789ab", ""])
def test_other_files_are_neither(name: str) -> None:
    assert not is_staged(name)
    assert not is_abandoned(name)


def test_a_sweep_deletes_what_killed_writers_left(tmp_path: Path) -> None:
    store = Store(tmp_path.as_uri())
    store.write_bytes("a/whole.bin", b"1")
    (tmp_path / "a" / name_by_ended_process()).write_bytes(b"half")
    with store.write_atomic("a/other.bin") as handle:
        handle.write(b"2")
        assert store.sweep("a") == 1
        assert list(store.sizes("a")) == ["a/whole.bin"]
    assert store.sweep("a") == 0
    assert store.sizes("a") == {"a/other.bin": 1, "a/whole.bin": 1}
