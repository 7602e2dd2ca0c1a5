"""Many at once, for a while: leases, resets, requests, snapshots and restores; then a judge.

    python -m tests.torture.concurrency --seconds 60 --processes 16

Of the processes one restores, one or two capture, two ask for runs, the rest lease and give back.
Afterwards a reader with SQL of its own looks at what is there: that no run was leased again before
it came back, that no row is lost or left, that every snapshot is whole and its rows refer to each
other, that catalog and data agree, and that the trail tells of every lease that a client got.

Refusals (BUSY, nothing ready, a lease that a restore took) are counted and are no failure; a
process that came to nothing for long is one. Exit status 1 when anything did not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.torture.clients import PATIENCE, ROLES, SCENARIO
from tests.torture.operations import World
from tests.torture.places import own_world
from tests.torture.reader import Reader, contents


@dataclass
class Result:
    """What all processes did together, and what was wrong with it."""

    seconds: float
    taken: dict[str, list[float]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    waits: dict[str, float] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    leased: list[str] = field(default_factory=list)

    @property
    def operations(self) -> int:
        """Those that did something: what was refused is not counted."""
        return sum(len(times) for times in self.taken.values()) - self.refused.total()

    def add(self, role: str, notes: dict[str, Any], needed: Sequence[str]) -> None:
        for what, times in notes["taken"].items():
            self.taken.setdefault(what, []).extend(times)
        self.refused.update(notes["refused"])
        self.violations += notes["wrong"]
        if role == "leaser":
            self.leased += notes["made"]
        for what in needed:
            wait = notes["longest_wait"].get(what)
            if wait is None:
                self.violations.append(f"a {role} came to no {what} at all")
                continue
            self.waits[what] = max(self.waits.get(what, 0.0), wait)
            if wait > PATIENCE:
                self.violations.append(f"a {role} waited {wait:.1f} s for a {what}")

    def table(self) -> Table:
        shown = Table(title=f"{self.operations:,} operations in {self.seconds:.0f} s",
                      title_justify="left")  # fmt: skip
        shown.add_column("operation")
        for column in ("done", "refused", "p50, ms", "p99, ms", "longest without, s"):
            shown.add_column(column, justify="right", no_wrap=True)
        for what, times in self.taken.items():
            ordered = sorted(times)
            refused = sum(
                count for name, count in self.refused.items() if name.startswith(f"{what} ")
            )
            shown.add_row(
                what,
                f"{len(times) - refused:,}",
                f"{refused:,}",
                f"{ordered[len(ordered) // 2] * 1000:.1f}",
                f"{ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000:.1f}",
                f"{self.waits.get(what, 0.0):.1f}",
            )
        shown.caption = ", ".join(f"{name}: {n}" for name, n in sorted(self.refused.items()))
        return shown


def cast(processes: int) -> list[str]:
    """Who does what."""
    others = ["restorer", "snapshotter", *["requester"] * (2 if processes > 8 else 1)]
    return [*others, *["leaser"] * (processes - len(others))]


def run(world: World, seconds: float, processes: int, runs: int = 3000) -> Result:
    """Let them all work, then judge. ``runs`` are ready when they begin."""
    world.must("request", SCENARIO, "--runs", str(runs), "--no-lease")
    # Whoever restores the newest brings these back, and whatever was made until then.
    world.must("baseline-snapshot", "-b", "start")
    roles = cast(processes)
    began = time.monotonic()
    with ThreadPoolExecutor(processes) as pool:
        ended = list(
            pool.map(
                lambda item: world.children.run(
                    "client", [item[1], str(seconds), world.reader.url, f"{item[1]}-{item[0]}"]
                ),
                enumerate(roles),
            )
        )
    result = Result(time.monotonic() - began)
    for number, (role, one) in enumerate(zip(roles, ended, strict=True)):
        if one.status != 0:
            result.violations.append(f"{role} {number} ended with {one.status}: {one.said}")
            continue
        result.add(role, json.loads(one.out), ROLES[role])
    for number, role in enumerate(roles):
        if role == "leaser":
            world.must("reset", "--owner", f"{role}-{number}")
    # What was begun in the last moment is over; what was left by leasers is given back.
    world.must("baseline-snapshot", "-b", "last")
    world.reader.quiet()
    result.violations += world.reader.left()
    result.violations += leased_twice(world.reader)
    result.violations += unlike_the_trail(world.reader, result.leased)
    for path, manifest in world.reader.manifests():
        result.violations += contents(world.reader, path, manifest)
    return result


def leased_twice(reader: Reader) -> Iterator[str]:
    """Between two leases of a run a restore has to have brought it back.

    Leases do not happen while a restore has the domain for itself, so the order of events is the
    order in which things happened.
    """
    rows = reader.conn.execute(
        "SELECT test_run_id, event_id, earlier FROM (SELECT test_run_id, event_id,"
        " lag(event_id) OVER (PARTITION BY test_run_id ORDER BY event_id) AS earlier"
        " FROM atdm.audit_event WHERE action = 'leased') AS e WHERE earlier IS NOT NULL"
        " AND NOT EXISTS (SELECT FROM atdm.audit_event AS r WHERE r.action = 'restore_completed'"
        "  AND r.event_id BETWEEN e.earlier AND e.event_id)"
    ).fetchall()
    for run_id, event, earlier in rows:
        yield f"{run_id} was leased twice: events {earlier} and {event}"


def unlike_the_trail(reader: Reader, leased: Sequence[str]) -> Iterator[str]:
    """What clients were given and what the trail says that they were given."""
    told = Counter(
        str(run_id)
        for (run_id,) in reader.conn.execute(
            "SELECT test_run_id FROM atdm.audit_event WHERE action = 'leased' AND source IS NOT"
            " NULL AND invoker IS NOT NULL AND inputs ->> 'owner' LIKE 'leaser-%%'"
        ).fetchall()
    )
    if told != Counter(leased):
        yield (
            f"clients were given {len(leased)} leases, the trail tells of {told.total()};"
            f" {len((told - Counter(leased)) + (Counter(leased) - told))} differ"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture.concurrency",
        description="Many processes at once, judged by a separate reader.",
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=16)
    options = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    with own_world(40) as world:
        result = run(world, options.seconds, options.processes)
    console.print(result.table())
    for violation in result.violations:
        console.print(f"VIOLATION {violation}", markup=False, highlight=False)
    console.print("nothing out of place" if not result.violations else "")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
