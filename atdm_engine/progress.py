"""How long work reports its progress to the caller."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, how many units of it are done, and how many there are in all.

The unit is a row or a test run, as the step says.
"""
