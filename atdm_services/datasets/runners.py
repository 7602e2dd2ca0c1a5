"""Where shards are made: in this process or in several others."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

import pyarrow as pa

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_services.datasets.shards import ShardReport, ShardWork, make_shard

_AHEAD = 2


class ShardRunner(Protocol):
    """Makes shards somewhere.

    An implementation calls ``make_shard(work, number)`` once for each number, anywhere that can
    reach the store, in any order, and yields the reports as they come. It may call it again after a
    failure. It raises what ``make_shard`` raises, and AtdmError DATASET_FAILED when a worker is
    lost. When the caller stops reading, it begins no more shards.
    """

    def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[ShardReport]:
        """Make the shards of these numbers."""
        ...


class InProcess:
    """One shard after the other, in this process."""

    def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[ShardReport]:
        for shard in shards:
            yield make_shard(work, shard)


class Processes:
    """A pool of processes on this machine.

    They are spawned, so they inherit neither threads nor connections. ``processes``: how many;
    default: one for each core that this process may use.
    """

    def __init__(self, processes: int | None = None) -> None:
        self.processes = processes or usable_cores()

    def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[ShardReport]:
        processes = min(self.processes, len(shards))
        if processes <= 1:
            yield from InProcess().run(work, shards)
            return
        pool = ProcessPoolExecutor(
            processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(work,),
        )
        waiting = iter(shards)
        running: set[Future[ShardReport]] = set()
        try:
            while True:
                # A few ahead and not all, so that the work ends soon when the caller stops early.
                room = processes + _AHEAD - len(running)
                for shard in itertools.islice(waiting, room):
                    running.add(pool.submit(_make, shard))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise AtdmError(
                ErrorCode.DATASET_FAILED,
                f"a process that made shards of {work.version} is gone (killed, or out of "
                "memory?); finished shards are kept: build it again to go on",
                {"version": work.version, "processes": processes},
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_work: ShardWork | None = None


def _begin(work: ShardWork) -> None:
    """Set up a process of the pool: it gets the work once, as it is large."""
    global _work
    _work = work
    # Other processes of the pool use the other cores.
    pa.set_cpu_count(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches every process of the group; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_parent() -> None:
    """End with the parent: when it is killed, a process of the pool would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(shard: int) -> ShardReport:
    assert _work is not None
    return make_shard(_work, shard)
