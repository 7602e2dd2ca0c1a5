"""Waiting in tests: by time, never by a number of tries."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(what: Callable[[], T], seconds: float = 120, pause: float = 0.05) -> T:
    """The first true answer of ``what``, asked every ``pause`` seconds; fails after ``seconds``.

    Transactions of other tests on the same server hold back what looks at all of them.
    """
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {seconds:g} s")
        time.sleep(pause)
    return found
