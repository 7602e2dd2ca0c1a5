"""Files that the processes of a test session share and that survive a kill.

Only their user can read them: they hold secrets.

A process locks its journal as long as it lives. The kernel releases the lock when the process dies,
so an unlocked journal belongs to a dead process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = "sessions"
_JOURNAL = ".journal"
_SUPPLY = "supply.jsonl"

Entry = dict[str, Any]


class Journal:
    """An append-only file of one process, locked while it is open."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def started(cls, path: Path, **header: Any) -> Journal | None:
        """A new journal of this process, with ``header`` as first entry.

        None if a process that clears up dead sessions removed it before it was locked.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not path.exists():
            os.close(descriptor)
            return None
        journal = cls(path, descriptor)
        journal.write(**header)
        return journal

    @classmethod
    def left_behind(cls, path: Path) -> Journal | None:
        """The journal of a dead process; None while the process lives or another one reads it."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if not path.exists():  # another process removed it between the two steps
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    def write(self, **entry: Any) -> None:
        """Add an entry. It stays even if this process is killed right after."""
        os.write(self._descriptor, json.dumps(entry).encode() + b"\n")

    def entries(self) -> list[Entry]:
        """The entries, without a last line that was cut off."""
        return read_entries(self.path)

    def close(self, *, remove: bool) -> None:
        """Unlock it, and delete it if ``remove``."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


class SessionFolder:
    """The folder of one test session: one for the controller and all workers of pytest-xdist."""

    def __init__(self, home: Path, session_id: str) -> None:
        self.path = home / FOLDER / session_id
        self.session_id = session_id

    def create(self) -> None:
        """Make the folder if it is missing. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        ignored = self.path.parent / ".gitignore"
        if not ignored.exists():
            ignored.write_text("*\n", encoding="utf-8")

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Only one process of the session is in the block. A dead process holds no lock."""
        descriptor = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def marked(self, name: str) -> Iterator[None]:
        """A file shows the other processes that the block is in progress."""
        mark = self.path / f"{name}.mark"
        mark.touch(mode=0o600)
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def is_marked(self, name: str) -> bool:
        return (self.path / f"{name}.mark").exists()

    def unmark(self, name: str) -> None:
        """Remove the mark of a process that died in its block."""
        (self.path / f"{name}.mark").unlink(missing_ok=True)

    def journal(self, worker: str, **header: Any) -> Journal:
        """A new journal for this process; makes the folder. Raises OSError."""
        while True:
            self.create()
            path = self.path / f"{worker}-{os.getpid()}{_JOURNAL}"
            journal = Journal.started(path, **header)
            if journal is not None:
                return journal

    def journals(self) -> list[Path]:
        return sorted(self.path.glob(f"*{_JOURNAL}"))

    def note(self, **entry: Any) -> None:
        """Record an order of the session before it is sent."""
        with self.locked("supply-file"):
            descriptor = os.open(self.path / _SUPPLY, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, json.dumps(entry).encode() + b"\n")
            finally:
                os.close(descriptor)

    def notes(self) -> list[Entry]:
        return read_entries(self.path / _SUPPLY)

    def store(self, name: str, value: Mapping[str, Any]) -> None:
        """Store a value for the other processes, atomically."""
        draft = self.path / f"{name}.{os.getpid()}.draft"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, json.dumps(value).encode())
        finally:
            os.close(descriptor)
        draft.replace(self.path / f"{name}.json")

    def stored(self, name: str) -> Entry | None:
        """The value that a process has stored, or None."""
        try:
            said: Entry = json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return said

    def stock(self, pair: str, entry: Mapping[str, Any]) -> None:
        """Put an entry into stock for the first process that takes ``pair``."""
        shelf = self._shelf(pair)
        shelf.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = sum(1 for _ in shelf.iterdir())
        name = f"{shelf.name}/{number:06d}-{os.getpid()}"
        self.store(str(Path("stock") / name), entry)

    def take(self, pair: str) -> Entry | None:
        """Take an entry for ``pair`` out of stock, or None. No other process gets it."""
        shelf = self._shelf(pair)
        if not shelf.is_dir():
            return None
        for path in sorted(shelf.glob("*.json")):
            mine = path.with_suffix(f".{os.getpid()}")
            try:
                path.rename(mine)
            except FileNotFoundError:
                continue
            entry: Entry = json.loads(mine.read_text(encoding="utf-8"))
            mine.unlink()
            return entry
        return None

    def _shelf(self, pair: str) -> Path:
        return self.path / "stock" / hashlib.sha256(pair.encode()).hexdigest()[:24]

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def sessions_of(home: Path) -> list[SessionFolder]:
    """Every session that has a folder in ``home``, the oldest first."""
    folders = sorted((home / FOLDER).glob("*/"))
    return [SessionFolder(home, folder.name) for folder in folders]


def read_entries(path: Path) -> list[Entry]:
    """The entries of a journal, without a last line that was cut off; none if it is missing."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    # What follows the last end of line was cut off by a kill.
    return [json.loads(line) for line in lines[:-1] if line]
