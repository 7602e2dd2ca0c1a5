"""The marker: what a test says about the data it needs.

Loaded by every pytest of the environment: the standard library and pytest alone.
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
    """What a marker asks for. ``as_of`` and ``ttl`` are texts as the command line takes them."""

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
        """Whether its data is made for it alone and never taken from a pool."""
        return self.seed is not None or self.as_of is not None

    @property
    def plain_constraints(self) -> dict[str, str | int | float]:
        """The constraints as JSON takes them; dates and decimals are texts, which ATDM types."""
        return {
            name: value if isinstance(value, str | int | float) else str(value)
            for name, value in self.constraints.items()
        }

    @property
    def pair(self) -> str:
        """Equal for tests that the same runs can serve."""
        asked = [
            self.scenario, dict(self.constraints), self.seed, self.as_of, self.isolation,
            self.baseline,
        ]  # fmt: skip
        return json.dumps(asked, sort_keys=True, default=str)

    @property
    def shared_as(self) -> str:
        """Equal for tests of one scope that share a lease."""
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
    """Say which scenario a test needs (requirement A-PYT-01); the same as the marker.

    Args:
        name: a scenario, with or without its domain.
        constraints: its knobs; unknown or wrong ones fail the test by name.
        per: who shares the lease: ``test`` (the default: nobody), ``class``, ``module`` or
            ``session``; under pytest-xdist each worker has its own.
        isolation: ``rows``, or ``database``: a database of the test's own with the scenario's data
            in it, whose URL is ``atdm_data["database_url"]``.
        baseline: with ``isolation="database"``, the baseline that the database starts from.
        seed: pins the data, so it is made for this test alone and never taken from a pool.
        as_of: the same for the clock; ISO 8601.
        ttl: how long the lease holds (``30m``, ``4h``).
        cleanup: when its rows go (requirement A-OPS-16): ``after_test`` (the default; of the last
            test where several share it), ``after_suite`` when the session ends, ``leave`` when the
            lease ends.
    """
    given = {
        "per": per, "isolation": isolation, "baseline": baseline, "seed": seed, "as_of": as_of,
        "ttl": ttl, "cleanup": cleanup,
    }  # fmt: skip
    pinned = {key: value for key, value in given.items() if value is not None}
    mark: pytest.MarkDecorator = getattr(pytest.mark, MARKER)
    return mark(name, constraints, **pinned)


def wanted_by(item: pytest.Item) -> Wanted:
    """What a test's closest marker asks for. Raises UsageError without one or for a bad one."""
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
