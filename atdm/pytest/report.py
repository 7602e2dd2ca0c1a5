"""Texts for the terminal: how to make a test's data again, kept data, durations."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import pytest

from atdm.pytest.suite import ActiveLease

SECTION = "atdm"


def how_to_repeat(held: ActiveLease) -> str:
    """The data of a test, and the command that makes the same data again."""
    data, wanted = held.data, held.wanted
    constraints = " ".join(f"{name}={value}" for name, value in wanted.constraints.items())
    lines = [
        f"scenario {data.scenario_id}, test run {data.test_run_id}",
        f"constraints: {constraints or 'the defaults'}",
        f"seed {data.seed}, as of {data['as_of']}",
        f"the same data again: {_again(held)}",
    ]
    return "\n".join(lines)


def _again(held: ActiveLease) -> str:
    data = held.data
    if held.database is None:
        return shlex.join(["atdm", "replay", data.test_run_id])
    # The catalog that knows this run went with its database.
    words = ["atdm", "request", f"{data['domain']}/{data.scenario_id}"]
    for name, value in held.wanted.constraints.items():
        words += ["-c", f"{name}={value}"]
    return shlex.join([*words, "--seed", str(data.seed), "--as-of", str(data["as_of"])])


def properties(held: ActiveLease) -> list[tuple[str, object]]:
    """The JUnit properties of a test's data; never a token."""
    data = held.data
    return [
        ("atdm_scenario", data.scenario_id),
        ("atdm_test_run_id", data.test_run_id),
        ("atdm_seed", data.seed),
    ]


def summary_line(seconds: Sequence[float]) -> str:
    """The number of leases and their time: lease and reset, without the test. Seconds."""
    leases = "1 lease" if len(seconds) == 1 else f"{len(seconds):,} leases"
    slow = max(seconds)
    return f"atdm: {leases}, p50 {median(seconds) * 1000:.1f} ms, slowest {slow * 1000:.1f} ms"


def kept_lines(kept: Iterable[Mapping[str, Any]], url: str | None) -> list[str]:
    """How to look at the data of failed tests and how to reset it.

    ``url`` is the target's, without a password.
    """
    from atdm_resources.catalog.suites import query_for_a_person

    lines = []
    for one in kept:
        lines += [
            f"{one['nodeid']}",
            f"  {one['scenario']}, test run {one['kept']}, until {one['expires_at']}",
            *(f"    {name} = {value}" for name, value in one["keys"].items()),
        ]
        if one["database"]:
            lines.append(f"  look:      psql {_quoted(url, one['database'])}")
            lines.append(f"  give back: atdm baseline-drop-clone {one['database']}")
            continue
        run = one["kept"]
        looks = " ".join(
            f'-c "{query_for_a_person(one["domain"], table, run)}"' for table in one["tables"]
        )
        lines.append(f"  look:      psql {_quoted(url)} {looks}".rstrip())
        lines.append(f"  give back: atdm reset {run} --token {one['token']}")
    return lines


def _quoted(url: str | None, database: str | None = None) -> str:
    if url is None:
        return '"$ATDM_DATABASE_URL"'
    if database is not None:
        from atdm_services.clones.creation import sibling

        url = sibling(url, database)
    return shlex.quote(url)


def teller(config: pytest.Config) -> Callable[[str], None]:
    """A function that prints progress; silent with ``-q``.

    The controller of pytest-xdist has the terminal; a worker has only its standard error.
    """
    if config.get_verbosity() < 0:
        return lambda text: None
    capture = config.pluginmanager.getplugin("capturemanager")
    terminal = config.pluginmanager.getplugin("terminalreporter")
    is_worker = hasattr(config, "workerinput")

    def tell(text: str) -> None:
        if terminal is not None and not is_worker:
            if text.startswith("atdm:"):
                terminal.ensure_newline()
            terminal.write(text, flush=True)
            return
        stream = sys.__stderr__
        if stream is None:
            return
        if capture is None:
            stream.write(text)
            stream.flush()
            return
        with capture.global_and_fixture_disabled():
            stream.write(text)
            stream.flush()

    return tell
