"""The marker ``atdm_scenario``.

Every pytest of the environment loads it: it imports only the standard library and pytest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

MARKER = "atdm_scenario"
CLEANUPS = ("after_test", "after_suite", "leave")
SCOPES = ("test", "class", "module", "session")
ISOLATIONS = ("rows", "database")
MARKER_HELP = (
    "atdm_scenario(name, constraints=None, *, per='test', isolation='rows', baseline=None, "
    "seed=None, as_of=None, ttl=None, cleanup='after_test'): the scenario whose data the fixture "
    "atdm_data gets. per: test, class, module or session share one lease; isolation: rows, or a "
    "database of the test's own (on top of baseline); cleanup: after_test, after_suite (when the "
    "session ends) or leave (when the lease ends)."
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The arguments of a marker. ``as_of`` and ``ttl`` are texts as on the command line."""

    scenario: str
    constraints: Mapping[str, Any] = field(default_factory=dict)
    per: str = "test"
    isolation: str = "rows"
    baseline: str | None = None
    seed: int | None = None
    as_of: str | None = None
    ttl: str | None = None
    cleanup: str = "after_test"

    @property
    def pinned(self) -> bool:
        """Whether the data is made for this test only and never taken from a pool."""
        return self.seed is not None or self.as_of is not None

    @property
    def plain_constraints(self) -> dict[str, str | int | float]:
        """The constraints as JSON values; dates and decimals become texts."""
        return {
            name: value if isinstance(value, str | int | float) else str(value)
            for name, value in self.constraints.items()
        }

    @property
    def pair(self) -> str:
        """A key that is equal for tests that the same runs can serve."""
        parts = [
            self.scenario, dict(self.constraints), self.seed, self.as_of, self.isolation,
            self.baseline,
        ]  # fmt: skip
        return json.dumps(parts, sort_keys=True, default=str)

    @property
    def shared_as(self) -> str:
        """A key that is equal for tests of one scope that share a lease."""
        return f"{self.pair} {self.ttl} {self.cleanup}"


def atdm_scenario(
    name: str,
    constraints: Mapping[str, object] | None = None,
    *,
    per: str | None = None,
    isolation: str | None = None,
    baseline: str | None = None,
    seed: int | None = None,
    as_of: str | None = None,
    ttl: str | None = None,
    cleanup: str | None = None,
) -> pytest.MarkDecorator:
    """The scenario that a test needs, as a marker (requirement A-PYT-01).

    Args:
        name: a scenario, with or without its domain.
        constraints: its constraints; unknown names and wrong values fail the test.
        per: which tests share the lease: ``test`` (default, not shared), ``class``, ``module`` or
            ``session``. Under pytest-xdist each worker has its own.
        isolation: ``rows``, or ``database``: a database for this test with the scenario's data. Its
            URL is ``atdm_data["database_url"]``.
        baseline: with ``isolation="database"``, the baseline that the database starts from.
        seed: pins the data: it is made for this test and never taken from a pool.
        as_of: pins the clock of the data; ISO 8601.
        ttl: how long the lease holds (``30m``, ``4h``).
        cleanup: when its rows are deleted (requirement A-OPS-16): ``after_test`` (default; after
        the last test that shares it), ``after_suite`` at the end of the session, ``leave`` at the
            end of the lease.
    """
    given = {
        "per": per, "isolation": isolation, "baseline": baseline, "seed": seed, "as_of": as_of,
        "ttl": ttl, "cleanup": cleanup,
    }  # fmt: skip
    pinned = {key: value for key, value in given.items() if value is not None}
    mark: pytest.MarkDecorator = getattr(pytest.mark, MARKER)
    return mark(name, constraints, **pinned)


def wanted_by(item: pytest.Item) -> Wanted:
    """The arguments of the closest marker. Raises UsageError if it is missing or wrong."""
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        raise pytest.UsageError(
            f"{item.nodeid} uses atdm_data: mark it with @pytest.mark.{MARKER}(NAME)"
        )
    try:
        wanted = _arguments(*marker.args, **marker.kwargs)
    except TypeError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}; write {MARKER_HELP}") from error
    problem = _problem(wanted)
    if problem:
        raise pytest.UsageError(f"{item.nodeid}: {problem}; write {MARKER_HELP}")
    return wanted


def _arguments(
    name: str,
    constraints: Mapping[str, Any] | None = None,
    *,
    per: str = "test",
    isolation: str = "rows",
    baseline: str | None = None,
    seed: int | None = None,
    as_of: str | None = None,
    ttl: str | None = None,
    cleanup: str = "after_test",
) -> Wanted:
    given = {} if constraints is None else constraints
    return Wanted(name, given, per, isolation, baseline, seed, as_of, ttl, cleanup)


def _problem(wanted: Wanted) -> str | None:
    if not isinstance(wanted.scenario, str) or not wanted.scenario:
        return f"the scenario is {wanted.scenario!r}"
    if not isinstance(wanted.constraints, Mapping):
        return f"constraints are {wanted.constraints!r}, not a mapping of name to value"
    for name, allowed in (("cleanup", CLEANUPS), ("per", SCOPES), ("isolation", ISOLATIONS)):
        found = getattr(wanted, name)
        if found not in allowed:
            return f"{name} is {found!r}; allowed: {', '.join(allowed)}"
    if wanted.baseline is not None and wanted.isolation != "database":
        return "baseline goes with isolation='database'; for the target there is atdm_baseline"
    if wanted.isolation == "database" and wanted.cleanup == "leave":
        return "a database of a test's own is dropped after it: cleanup='leave' is not possible"
    if isinstance(wanted.seed, bool) or not isinstance(wanted.seed, int | None):
        return f"seed is {wanted.seed!r}, not a whole number"
    return None
