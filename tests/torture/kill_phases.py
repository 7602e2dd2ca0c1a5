"""kill -9 in every phase of every operation, and a look at what is left each time.

    python -m tests.torture.kill_phases --list
    python -m tests.torture.kill_phases --rounds 5 --phases all
    python -m tests.torture.kill_phases --phases restore,"clone/copy the template" --seed 7

Every round starts the operation in a process of its own, kills it with SIGKILL at a random moment
of the phase, and lets a reader with SQL of its own judge: first what may never be (half of a state,
rows of nobody, a lost baseline, a foreign key that does not hold), then, after the next command,
that this worked, that nothing is left over (files, databases, pending rows, sessions) and that the
audit trail tells of everything that began how it ended. In half of the rounds the next command
comes at once, while the server still works for the process that is gone.

Exit status 1 when anything did not hold.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from tests.torture.operations import OPERATIONS, Operation, World
from tests.torture.places import own_world

_RUNS = 40


@dataclass
class Tally:
    """What was killed where, and what was wrong then."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    moments: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def table(self, lengths: dict[tuple[str, str], float]) -> Table:
        """The histogram of phases hit."""
        shown = Table(title="SIGKILL by phase", title_justify="left")
        for column in ("operation", "phase"):
            shown.add_column(column, no_wrap=True)
        for column in ("lasts, ms", "kills", "after, ms"):
            shown.add_column(column, justify="right", no_wrap=True)
        shown.add_column("", no_wrap=True)
        before = ""
        for place, count in self.kills.items():
            operation, phase = place
            moments = [round(moment * 1000, 1) for moment in sorted(self.moments[place])]
            shown.add_row(
                operation if operation != before else "",
                phase,
                f"{lengths.get(place, 0) * 1000:.1f}",
                str(count),
                f"{moments[0]:g} to {moments[-1]:g}",
                "#" * count,
                end_section=False,
            )
            before = operation
        shown.caption = f"{sum(self.kills.values())} kills, {len(self.kills)} phases, " + (
            f"{len(self.violations)} violations" if self.violations else "nothing out of place"
        )
        return shown


class Torture:
    """Rounds of kills in one world."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.tally = Tally()
        self.lengths: dict[tuple[str, str], float] = {}
        self._rng = rng
        self._told: set[str] = set()
        self._definitions = world.reader.definitions()

    def measure(self, operation: Operation) -> None:
        """Let the operation run to its end: how long its phases take, and that it has them all.

        Raises AssertionError naming a phase that never began: its mark has gone out of the code.
        """
        world = self.world
        operation.prepare(world)
        arguments = operation.arguments(world)
        ended = world.children.run(operation.process, arguments, operation.marks)
        if ended.status != 0:
            raise AssertionError(f"{operation.name} fails unharmed: {ended.said}")
        names = [mark.phase for mark in operation.marks]
        missing = [name for name in names if name not in ended.phases]
        if missing:
            raise AssertionError(f"{operation.name} has no phase {', '.join(missing)}")
        moments = [ended.phases[name] for name in names] + [ended.phases["(ended)"]]
        for name, begin, end in zip(names, moments[:-1], moments[1:], strict=True):
            self.lengths[operation.name, name] = max(0.0, end - begin)
        self._judge(operation, "(not killed)", world.reader.left())
        self._judge(operation, "(not killed)", operation.again(world, arguments))

    def kill(self, operation: Operation, phase: str, *, at_once: bool | None = None) -> None:
        """One round."""
        world = self.world
        operation.prepare(world)
        arguments = operation.arguments(world)
        before = world.reader.fingerprint()
        place = (operation.name, phase)
        ended = world.children.run(
            operation.process,
            arguments,
            operation.marks,
            kill_in=phase,
            within=self.lengths.get(place, 0.05),
            rng=self._rng,
        )
        if ended.killed_in is None:
            self._judge(operation, phase, [f"the phase was not reached: {ended.said}"])
            return
        self.tally.kills[place] += 1
        self.tally.moments.setdefault(place, []).append(ended.after)
        if at_once if at_once is not None else self._rng.random() < 0.5:
            where = f"{phase}, next command at once"
        else:
            where = phase
            world.reader.quiet()
            self._judge(operation, where, operation.torn(world, before))
            self._judge(operation, where, world.reader.torn())
        self._judge(operation, where, operation.again(world, arguments))
        world.reader.quiet()
        self._judge(operation, where, world.reader.left())
        if world.reader.definitions() != self._definitions:
            self._judge(
                operation, where, ["constraints, indexes or triggers are not what they were"]
            )

    def _judge(self, operation: Operation, where: str, found: Iterator[str] | list[str]) -> None:
        try:
            # What is out of place stays so, and is to be told where it was seen first.
            fresh = [one for one in found if one not in self._told]
        except AssertionError as error:
            fresh = [str(error)]
        self._told.update(fresh)
        self.tally.violations += [f"{operation.name} / {where}: {one}" for one in fresh]


def phases_of(wanted: str) -> list[tuple[Operation, str]]:
    """``all``, or operations and ``operation/phase`` with commas between them."""
    found = []
    for part in wanted.split(","):
        name, _, phase = part.strip().partition("/")
        for operation in OPERATIONS.values():
            for mark in operation.marks:
                if name in ("all", operation.name) and phase in ("", mark.phase):
                    found.append((operation, mark.phase))
        if part.strip() and not any(
            name in ("all", operation.name)
            and (not phase or phase in [mark.phase for mark in operation.marks])
            for operation in OPERATIONS.values()
        ):
            raise SystemExit(f"there is no phase {part.strip()!r}; --list shows them")
    return found


def listed() -> Table:
    """Which phases there are."""
    shown = Table(title="Phases", title_justify="left")
    for column in ("operation", "what it is", "phases, in their order"):
        shown.add_column(column)
    for operation in OPERATIONS.values():
        phases = "\n".join(mark.phase for mark in operation.marks)
        shown.add_row(operation.name, operation.summary, phases, end_section=True)
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture.kill_phases",
        description="Kill -9 in every phase of every operation; judge what is left.",
    )
    parser.add_argument("--rounds", type=int, default=5, help="kills in each phase (default 5)")
    parser.add_argument(
        "--phases", default="all", help="all, or OPERATION or OPERATION/PHASE, by commas"
    )
    parser.add_argument("--list", action="store_true", help="say which phases there are")
    parser.add_argument("--runs", type=int, default=_RUNS, help="test runs an operation works on")
    parser.add_argument("--seed", type=int, default=None, help="of the random moments")
    options = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    if options.list:
        console.print(listed())
        return 0
    places = phases_of(options.phases)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    began = time.monotonic()
    with own_world(options.runs, rng) as world:
        torture = Torture(world, rng)
        for operation in dict.fromkeys(operation for operation, _ in places):
            with console.status(f"{operation.name}: measuring"):
                torture.measure(operation)
        rounds = [place for place in places for _ in range(options.rounds)]
        for done, (operation, phase) in enumerate(rounds, start=1):
            with console.status(f"{done} of {len(rounds)}: {operation.name} / {phase}"):
                known = len(torture.tally.violations)
                torture.kill(operation, phase)
            for violation in torture.tally.violations[known:]:
                console.print(f"VIOLATION {violation}", markup=False, highlight=False)
    console.print(torture.tally.table(torture.lengths))
    console.print(f"{time.monotonic() - began:.0f} s, seed {seed}", highlight=False)
    for violation in torture.tally.violations:
        console.print(f"VIOLATION {violation}", markup=False, highlight=False)
    return 1 if torture.tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
