"""Many at once, judged by a reader of its own: the short version.

``python -m tests.torture.concurrency`` is the long one. ``ATDM_STRESS_SECONDS=30`` makes this one
longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atdm_resources.catalog import queue as queueing
from atdm_resources.postgres.connection import connect
from tests.torture import concurrency
from tests.torture.operations import OTHER, SCENARIO, World
from tests.torture.places import world_on

pytestmark = pytest.mark.long

SECONDS = float(os.environ.get("ATDM_STRESS_SECONDS", "5"))
PROCESSES = 8


@pytest.fixture
def world(target: str, empty_database: str, tmp_path: Path) -> Iterator[World]:
    with world_on(tmp_path, target, empty_database, 20, own_server=False) as made:
        yield made


def test_eight_processes_lease_reset_request_capture_and_restore(world: World) -> None:
    result = concurrency.run(world, SECONDS, PROCESSES, runs=500)
    assert result.violations == []
    assert set(result.taken) == {"lease", "reset", "request", "snapshot", "restore"}
    assert result.operations > 100


def test_two_daemons_in_two_processes_do_everything_once(world: World) -> None:
    """Both tick at once on one pool that is empty and thirty submissions that wait."""
    with connect(world.reader.url) as conn:
        for number in range(30):
            queueing.submit(conn, {"idempotency_key": f"k-{number}", "scenario": SCENARIO})
    with ThreadPoolExecutor(2) as both:
        ended = list(both.map(lambda _: world.children.run("daemon", ["40"]), range(2)))
    assert [one.status for one in ended] == [0, 0], [one.said for one in ended]
    made = world.reader.conn.execute(
        "SELECT scenario_id, count(*), sum(runs) FROM atdm.request WHERE source IN"
        " ('pool', 'queue') GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert made == [(SCENARIO, 1, 30), (OTHER, 1, 40)]
    waiting = "SELECT count(*) FROM atdm.submission WHERE status = 'waiting'"
    assert world.reader.number(waiting) == 0
    world.reader.quiet()
    assert list(world.reader.left()) == []
