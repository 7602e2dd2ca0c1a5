"""Where the phases of an operation begin, seen from inside the process that is to be killed.

A phase begins at its mark and lasts until the next mark, so the phases of an operation have no gap
between them. Nothing in the product knows of any of this.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mark:
    """The beginning of a phase.

    ``statement``: a regular expression over a statement that is about to be sent, its parameters
    behind it. ``call``: ``module:Class.function`` that is about to be called; with ``()`` at its
    end, that has just returned.
    """

    phase: str
    statement: str | None = None
    call: str | None = None


class Watch:
    """Follows the marks in their order and tells of each in a pipe, a line a phase.

    The process stands still as soon as phase ``target`` is over: whoever kills it after the line of
    ``target`` kills it in that phase.
    """

    def __init__(self, marks: Sequence[Mark], target: str | None, pipe: int) -> None:
        self._marks = marks
        self._target = target
        self._pipe = pipe
        self._place = -1
        self._lock = threading.Lock()

    def install(self) -> None:
        """From here on the marks are seen."""
        if any(mark.statement for mark in self._marks):
            self._watch_statements()
        for place, mark in enumerate(self._marks):
            if mark.call:
                self._watch_call(place, mark.call)

    def ended(self) -> None:
        """The operation is over."""
        with self._lock:
            self._leave()
            os.write(self._pipe, b"(ended)\n")

    def _leave(self) -> None:
        if self._place >= 0 and self._marks[self._place].phase == self._target:
            os.write(self._pipe, b"(end of phase)\n")
            time.sleep(3600)

    def _reached(self, place: int) -> None:
        with self._lock:
            if place <= self._place:
                return
            self._leave()
            self._place = place
            os.write(self._pipe, f"{self._marks[place].phase}\n".encode())

    def _watch_statements(self) -> None:
        import psycopg
        from psycopg import sql

        patterns = [
            (place, re.compile(mark.statement, re.DOTALL))
            for place, mark in enumerate(self._marks)
            if mark.statement
        ]

        def watched(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(cursor: Any, query: Any, params: Any = None, **options: Any) -> Any:
                if isinstance(query, sql.Composable):
                    text = query.as_string(cursor)
                else:
                    text = query if isinstance(query, str) else bytes(query).decode()
                text = f"{text} -- {params!r}"
                for place, pattern in patterns:
                    if place > self._place and pattern.search(text):
                        self._reached(place)
                        break
                return original(cursor, query, params, **options)

            return call

        psycopg.Cursor.execute = watched(psycopg.Cursor.execute)  # type: ignore[method-assign]
        psycopg.Cursor.copy = watched(psycopg.Cursor.copy)  # type: ignore[method-assign]

    def _watch_call(self, place: int, where: str) -> None:
        module, _, path = where.removesuffix("()").partition(":")
        owner: Any = importlib.import_module(module)
        *classes, name = path.split(".")
        for part in classes:
            owner = getattr(owner, part)
        original = getattr(owner, name)
        after = where.endswith("()")

        def call(*arguments: Any, **options: Any) -> Any:
            if not after:
                self._reached(place)
                return original(*arguments, **options)
            result = original(*arguments, **options)
            # Many things are called often: this is the end of the phase before it, or nothing.
            if place == self._place + 1:
                self._reached(place)
            return result

        setattr(owner, name, call)
        if not classes:
            # Others have imported it by name.
            for other in list(sys.modules.values()):
                if getattr(other, "__dict__", {}).get(name) is original:
                    setattr(other, name, call)
