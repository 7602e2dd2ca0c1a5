"""Notes and progress that a service reports to the face that called it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from atdm_engine.progress import Progress

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def reporting(progress: Progress | None) -> Iterator[None]:
    """Make ``progress`` the callback of this thread inside the block."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


def current_progress() -> Progress | None:
    """Progress callback of this thread, or None."""
    return _progress.get()


@dataclass(slots=True)
class Step:
    """The step in progress. Call it with (what, done, of) to report progress."""

    what: str
    detail: str = ""

    def __call__(self, what: str, done: int, of: int) -> None:
        self.detail = f"{what} {done:,} of {of:,}" if of > 1 else what

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}" if self.detail else self.what


class Reporter(Protocol):
    """Receives notes and progress from a service.

    ``debug`` asks for the details of what Dagster does.
    """

    @property
    def debug(self) -> bool: ...

    def note(self, text: str) -> None:
        """Report a side effect that the user should know about."""

    def working(self, what: str) -> AbstractContextManager[Step]:
        """Report that ``what`` is in progress until the context ends."""


class Silent:
    """A ``Reporter`` that reports nothing."""

    debug = False

    def note(self, text: str) -> None:
        del text

    @contextmanager
    def working(self, what: str) -> Iterator[Step]:
        yield Step(what)
