"""Processes that run one operation and can be killed anywhere in it."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from tests.torture.marks import Mark, Watch

PRELOADED = ("tests.torture.preloaded",)
_LONGEST_SECONDS = 180.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, the phases that it came to and when, what it said.

    ``killed_in`` is the phase that it was in when it was killed, None when it was not.
    """

    status: int
    phases: Mapping[str, float]
    seconds: float
    out: str
    err: str
    killed_in: str | None = None
    after: float = 0.0

    @property
    def said(self) -> str:
        """The end of what it said, for people."""
        return (self.out + self.err)[-2000:]


class Children:
    """Runs operations in processes of their own. ``environment`` is all of theirs that counts."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self._environment = dict(environment)
        self._folder = folder
        self._number = 0

    def run(
        self,
        operation: str,
        arguments: Sequence[str],
        marks: Sequence[Mark] = (),
        *,
        kill_in: str | None = None,
        within: float = 0.0,
        rng: random.Random | None = None,
    ) -> Ended:
        """Run it to its end; or kill it at a random moment of phase ``kill_in``, which takes about
        ``within`` seconds."""
        self._number += 1
        log = self._folder / f"child-{self._number}"
        receiver, sender = os.pipe()
        began = time.monotonic()
        with os.fdopen(receiver, "rb", buffering=0) as reader:
            what = (operation, list(arguments), tuple(marks), kill_in)
            where = (self._environment, str(log), multiprocessing.reduction.DupFd(sender))
            process = self._context.Process(target=_child, args=(*what, *where))
            process.start()
            os.close(sender)
            phases: dict[str, float] = {}
            killed_in = None
            delay = 0.0
            buffer = b""
            while piece := reader.read(4096):
                buffer += piece
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    phases.setdefault(line.decode(), time.monotonic() - began)
                if kill_in in phases and killed_in is None:
                    delay = (rng or random).uniform(0, within)
                    # It stands still when the phase ends, so late is as good as early.
                    time.sleep(delay)
                    assert process.pid is not None
                    os.kill(process.pid, signal.SIGKILL)
                    killed_in = kill_in
            process.join(_LONGEST_SECONDS)
        status = _status(process)
        out, err = (_taken(log.with_suffix(suffix)) for suffix in (".out", ".err"))
        return Ended(status, phases, time.monotonic() - began, out, err, killed_in, delay)


def _taken(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


def _status(process: BaseProcess) -> int:
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError("a process did not end")
    return process.exitcode


def _child(
    operation: str,
    arguments: list[str],
    marks: tuple[Mark, ...],
    target: str | None,
    environment: dict[str, str],
    log: str,
    pipe: Any,
) -> NoReturn:
    """In the new process: become what a command is, run, end like one."""
    descriptor = pipe.detach()
    os.environ.clear()
    os.environ.update(environment)
    for number, suffix in ((1, ".out"), (2, ".err")):
        with open(log + suffix, "wb") as sink:
            os.dup2(sink.fileno(), number)
    # Those of the process that it is forked from are of the parent's terminal.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    from tests.torture import operations

    watch = Watch(marks, target, descriptor)
    watch.install()
    status = 1
    try:
        status = operations.perform(operation, arguments)
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    watch.ended()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
