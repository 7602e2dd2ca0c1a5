"""kill -9 in the middle of every operation, judged by a reader of its own: the short version.

``python -m tests.torture.kill_phases`` is the long one: every phase of every operation, many times.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.kill_phases import Torture
from tests.torture.operations import OPERATIONS, World
from tests.torture.places import world_on

pytestmark = pytest.mark.long

WORST = {
    "load": "copy rows",
    "replay": "stage the files",
    "snapshot": "copy rows",
    "delete": "delete the files",
    "restore": "load rows",
    "reset_all": "delete rows",
    "publish": "make shards",
    "top_up": "register and start the run",
    "clone": "fill the template",
}
"""The phase of each operation in which most is half done."""


@pytest.fixture
def world(target: str, empty_database: str, tmp_path: Path) -> Iterator[World]:
    with world_on(tmp_path, target, empty_database, 20, own_server=False) as made:
        yield made


def test_whatever_is_killed_in_the_middle_leaves_nothing_half_done(world: World) -> None:
    seed = random.SystemRandom().randrange(10**6)
    torture = Torture(world, random.Random(seed))
    for number, (name, phase) in enumerate(WORST.items()):
        # By turns the next command waits until the server has noticed, and comes at once.
        torture.kill(OPERATIONS[name], phase, at_once=number % 2 == 1)
    assert torture.tally.violations == [], f"seed {seed}"
    assert set(torture.tally.kills) == set(WORST.items())


def test_every_operation_has_its_worst_phase() -> None:
    assert set(WORST) == set(OPERATIONS)
    for name, phase in WORST.items():
        assert phase in [mark.phase for mark in OPERATIONS[name].marks]
