"""Leases that last for a test, a class, a module or the session, and how many a suite needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

import pytest

from atdm.pytest.marker import MARKER, Wanted, wanted_by

if TYPE_CHECKING:
    from atdm.pytest.suite import ActiveLease, Suite
    from atdm.pytest.supply import Need

_TOGETHER = ("loadscope", "loadfile")
"""Distribution modes of pytest-xdist that keep a class or a module on one worker."""


def fixture_name(scope: str) -> str:
    """The fixture that holds the leases of a scope."""
    return f"_atdm_leases_of_{scope}"


class Leases:
    """The leases of one scope, reset on exit."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._held: list[ActiveLease] = []
        self._shared: dict[str, ActiveLease] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for held in reversed(self._held):
            if held.wanted.cleanup == "after_test":
                self._suite.release(held)

    def lease(self, wanted: Wanted, nodeid: str, *, again: bool = False) -> ActiveLease:
        """The lease that tests of this scope share; a new one if ``again``.

        A test that failed and runs again gets a new one. Raises AtdmError.
        """
        known = None if again else self._shared.get(wanted.shared_as)
        if known is not None and known.failed_in == nodeid:
            self._suite.release(known)
            known = None
        if known is None:
            known = self._suite.lease(wanted, nodeid)
            self._held.append(known)
            if not again:
                self._shared[wanted.shared_as] = known
        return known


def needs_of(items: Iterable[pytest.Item], *, workers: int, dist: str) -> list[Need]:
    """The leases that the collected tests need, one ``Need`` for each kind of run.

    Skipped tests and tests with a wrong marker need none. Where several workers may run tests of
    one scope, each worker may need a lease.
    """
    tests: dict[tuple[str, str], tuple[Wanted, int]] = {}
    for item in items:
        uses = "atdm_data" in getattr(item, "fixturenames", ())
        if not uses or item.get_closest_marker(MARKER) is None or item.get_closest_marker("skip"):
            continue
        try:
            wanted = wanted_by(item)
        except pytest.UsageError:
            continue  # reported in the setup of the test
        key = (_scope_of(item, wanted), wanted.shared_as)
        tests[key] = (wanted, tests.get(key, (wanted, 0))[1] + 1)
    if not tests:
        return []
    from atdm.pytest.supply import counted

    copies = workers if dist == "each" else 1
    return counted(
        (wanted, copies * _leases(wanted, count, workers, dist)) for wanted, count in tests.values()
    )


def _scope_of(item: pytest.Item, wanted: Wanted) -> str:
    """A key that is equal for tests of one scope: class, module, session or the test itself."""
    kinds: Mapping[str, type[pytest.Item | pytest.Collector]] = {
        "class": pytest.Class, "module": pytest.Module, "session": pytest.Session,
    }  # fmt: skip
    kind = kinds.get(wanted.per)
    parent = item.getparent(kind) if kind is not None else None
    if parent is None:
        return f"test {item.nodeid}"
    return f"{wanted.per} {parent.nodeid}"


def _leases(wanted: Wanted, tests: int, workers: int, dist: str) -> int:
    """The largest number of leases that ``tests`` tests of one scope need."""
    if wanted.per == "test":
        return tests
    together = dist in _TOGETHER and wanted.per != "session"
    return 1 if workers <= 1 or together or dist == "each" else min(tests, workers)
