"""What a session's tests will lease, and having made what is missing, once for all its processes.

Every worker of pytest-xdist collects the same tests, so the first one that has collected asks for
all of them while the others wait for its lock; a worker that dies lets go of the lock, and the next
one asks for what is missing then.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atdm.pytest.client import Holder, SessionClient, in_one_line
from atdm.pytest.marker import Wanted
from atdm.pytest.session_files import SessionFolder
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.settings import Settings

_PREPARED = "prepared"
_POLL_SECONDS = 0.2
_MOST_AT_ONCE = 9_999
"""Runs of one submission to the queue."""
_LARGEST_GUESS = 32
_OF_ONE_SCENARIO = frozenset(
    {ErrorCode.SCENARIO_NOT_FOUND, ErrorCode.CONSTRAINT_INVALID, ErrorCode.CONSTRAINT_CONTRADICTION}
)
"""What is wrong with one request; anything else is wrong with the target."""


@dataclass(frozen=True, slots=True)
class Need:
    """So many leases of one kind."""

    wanted: Wanted
    count: int


@dataclass
class Supply:
    """The supply of one session, as one of its processes sees it.

    ``say`` tells a person what is going on; the text ends a line or leaves it open.
    """

    folder: SessionFolder
    target: SessionClient
    holder: Holder
    workers: int
    queue_seconds: float
    say: Callable[[str], None]
    tidy: Callable[[], None]
    _planned: dict[str, int] = field(default_factory=dict)
    _guessed: Counter[str] = field(default_factory=Counter)

    def prepare(self, needs: Sequence[Need]) -> None:
        """Have made what these leases will lack; the first process of the session does it for all.

        Raises:
            AtdmError: what keeps every lease from succeeding, also for those who only waited. What
                keeps some scenarios from being made is kept for their tests.
        """
        self._planned = {need.wanted.pair: need.count for need in needs}
        with self.folder.locked("supply"):
            before = self.folder.told(_PREPARED)
            if before is None:
                before = {"stop": None}
                try:
                    self.tidy()
                    self._make([need for need in map(self._missing, needs) if need.count])
                except AtdmError as error:
                    before["stop"] = error.envelope()["error"]
                self.folder.tell(_PREPARED, before)
        if before["stop"]:
            stop = before["stop"]
            raise AtdmError(ErrorCode(stop["code"]), stop["message"], stop["details"])

    def _missing(self, need: Need) -> Need:
        """What of a need is not ready."""
        wanted = need.wanted
        if wanted.isolation == "database":
            return Need(wanted, 1)
        if wanted.pinned:
            self._look_up_privilege(wanted)
            return need
        try:
            ready = self.target.ready(wanted, need.count)
        except AtdmError as error:
            if error.code is ErrorCode.SCENARIO_NOT_FOUND and self._makes_itself:
                return need  # its file may be newer than what is published
            if error.code is ErrorCode.TARGET_NOT_INITIALISED and self._may_initialise:
                return need
            if error.code not in _OF_ONE_SCENARIO:
                raise
            self._failed(wanted, in_one_line(error))
            return Need(wanted, 0)
        if ready.violates:
            self._failed(wanted, _made_to_be_rejected(wanted))
            return Need(wanted, 0)
        if not ready.privileged:
            self.folder.tell("unprivileged", {})
        return Need(wanted, need.count - ready.runs)

    @property
    def _may_initialise(self) -> bool:
        """Whether the target is the embedded server's own database."""
        return self.target.settings.database_url is None and self._makes_itself

    @property
    def _makes_itself(self) -> bool:
        """Whether runs are made by a process of this session, and not through the queue."""
        return self.target.can_make and self.folder.told("unprivileged") is None

    def stocked(self, wanted: Wanted) -> Mapping[str, Any] | None:
        """Something that was put by for tests that want this; None when there is nothing."""
        if wanted.isolation == "database":
            return self.folder.told(_template_of(wanted))
        return self.folder.take(wanted.pair)

    def restock(self, wanted: Wanted, lease: Callable[[], Any]) -> Any:
        """What ``lease`` returns, once there is something to lease.

        A test may lease what no marker announced, or somebody else was faster: then as many are
        made as are still expected here, or twice as many as the time before.

        Raises:
            AtdmError: what ``lease`` raises then, and why nothing could be made.
        """
        with self.folder.locked("supply"):
            self._refuse_failed(wanted)
            self._look_up_privilege(wanted)
            leased = lease()
            if leased is not None:
                return leased
            self._make([Need(wanted, self._batch(wanted))])
            self._refuse_failed(wanted)
            return lease()

    def _look_up_privilege(self, wanted: Wanted) -> None:
        try:
            if not self.target.ready(wanted, 0).privileged:
                self.folder.tell("unprivileged", {})
        except AtdmError as error:
            if error.code not in _OF_ONE_SCENARIO | {ErrorCode.TARGET_NOT_INITIALISED}:
                raise

    def _batch(self, wanted: Wanted) -> int:
        if wanted.pinned or wanted.isolation == "database":
            return 1
        expected = self._planned.pop(wanted.pair, 0) // max(self.workers, 1)
        guess = min(1 << self._guessed[wanted.pair], _LARGEST_GUESS)
        self._guessed[wanted.pair] += 1
        return max(expected, guess)

    def _failed(self, wanted: Wanted, why: str) -> None:
        self.folder.tell(_failure_of(wanted), {"why": why})

    def _refuse_failed(self, wanted: Wanted) -> None:
        known = self.folder.told(_failure_of(wanted))
        if known is not None:
            raise AtdmError(ErrorCode.NONE_READY, known["why"], {"told": True})

    def _make(self, needs: Sequence[Need]) -> None:
        if not needs:
            return
        if self._makes_itself:
            self._make_here(needs)
        else:
            self._ask_the_queue(needs)

    def _make_here(self, needs: Sequence[Need]) -> None:
        asked = [(need, order) for need in needs for order in self._orders(need)]
        for (need, order), answer in zip(
            asked, self._answers([order for _, order in asked]), strict=False
        ):
            error = answer.get("error")
            if error is not None:
                self._failed(need.wanted, f"{error['code']}: {error['message']}")
            elif answer["status"] != "ready":
                self._failed(need.wanted, _made_to_be_rejected(need.wanted))
            elif order["database"]:
                kept = {"lease": answer["lease"], "database": order["database"]}
                self.folder.tell(_template_of(need.wanted), kept)
            elif order["reserved"]:
                self.folder.stock(need.wanted.pair, {"request_id": answer["request_id"]})

    def _orders(self, need: Need) -> Iterator[dict[str, Any]]:
        """What the making process is told; noted first, so that nothing of it is ever lost."""
        wanted = need.wanted
        # Pinned runs are all the first of their requests: equal seeds give equal data.
        parts = [1] * need.count if wanted.pinned else [need.count]
        for runs in parts:
            unique = secrets.token_hex(6)
            database = f"atdm_clone_{unique}" if wanted.isolation == "database" else None
            label = f"pytest-{self.folder.session_id}-{unique}"
            self.folder.note(target=self.target.database, label=label, database=database)
            yield {
                "scenario": wanted.scenario,
                "constraints": wanted.plain_constraints,
                "runs": runs,
                "seed": wanted.seed,
                "as_of": wanted.as_of,
                "baseline": wanted.baseline,
                "reserved": wanted.pinned,
                "label": label,
                "database": database,
                "owner": self.holder.owner,
                "reason": f"test session {self.folder.session_id}",
            }

    def _answers(self, orders: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """How each order went, as it goes; raises where the making process dies."""
        command = [sys.executable, "-P", "-m", "atdm.pytest.maker"]
        with (
            open(self.folder.path / "making.log", "w+", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                env=_environment(self.target.settings),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as child,
        ):
            assert child.stdin is not None
            assert child.stdout is not None
            answered = 0
            try:
                json.dump(orders, child.stdin)
                child.stdin.close()
                for line in child.stdout:
                    answer: dict[str, Any] = json.loads(line)
                    order = orders[answer["number"]]
                    if answer.get("started"):
                        self.say(f"atdm: making {_what(order)} ... ")
                        continue
                    ended = "failed" if "error" in answer else f"{answer['seconds']:.1f} s"
                    self.say(f"{ended}\n")
                    answered += 1
                    yield answer
            except BrokenPipeError:
                pass  # it died at once; what it said is in its log
            finally:
                if answered < len(orders):
                    child.terminate()
            if answered < len(orders):
                child.wait()
                log.seek(0)
                last = [line for line in log.read().splitlines() if line.strip()][-3:]
                raise AtdmError(
                    ErrorCode.SEED_FAILED,
                    "the process that makes test runs ended early: " + " / ".join(last),
                    {"exit_status": child.returncode},
                )

    def _ask_the_queue(self, needs: Sequence[Need]) -> None:
        """Submit what is missing, wait for all of it, lease it and put it by."""
        waiting: dict[str, Need] = {}
        for need in needs:
            if need.wanted.isolation == "database":
                self._failed(
                    need.wanted,
                    "isolation='database' needs the server part and the catalog's owner: "
                    "pip install 'atdm[server]'",
                )
                continue
            runs = [1] * need.count if need.wanted.pinned else _portions(need.count)
            for portion in runs:
                key = f"pytest-{self.folder.session_id}-{secrets.token_hex(6)}"
                self.folder.note(
                    target=self.target.database, submission=key,
                    owner=self.holder.owner, secret=self.holder.secret,
                )  # fmt: skip
                self._submit(key, need.wanted, portion)
                waiting[key] = Need(need.wanted, portion)
        if waiting:
            total = sum(need.count for need in waiting.values())
            scenarios = sorted({need.wanted.scenario for need in waiting.values()})
            self.say(f"atdm: asking the queue for {total:,} runs of {', '.join(scenarios)} ... ")
            begun = time.monotonic()
            self._wait(waiting, begun + self.queue_seconds)
            self.say(f"{time.monotonic() - begun:.1f} s\n")

    def _submit(self, key: str, wanted: Wanted, runs: int) -> None:
        """Ask the queue for runs that only this process can claim."""
        self.target.submit(
            wanted.scenario, wanted.constraints, runs=runs, seed=wanted.seed, as_of=wanted.as_of,
            idempotency_key=key,
        )  # fmt: skip

    def _wait(self, waiting: dict[str, Need], deadline: float) -> None:
        while waiting:
            for key, need in list(waiting.items()):
                standing = self.target.submission(key)
                answer = standing["answer"]
                if answer is None:
                    continue
                del waiting[key]
                error = answer.get("error")
                if error is not None:
                    self._failed(need.wanted, f"{error['code']}: {error['message']}")
                elif answer.get("expected"):
                    self._failed(need.wanted, _made_to_be_rejected(need.wanted))
                else:
                    for lease in self.target.claim_leases(key, self.holder):
                        self.folder.stock(need.wanted.pair, {"lease": lease})
                    self.folder.note(claimed=key)
            if waiting and time.monotonic() > deadline:
                for need in waiting.values():
                    self._failed(
                        need.wanted,
                        f"nothing is ready, and nobody made anything in {self.queue_seconds:g} s: "
                        "does the daemon run (atdm up)? Where the server part is installed and the "
                        "URL is the catalog owner's, no daemon is needed",
                    )
                return
            if waiting:
                time.sleep(_POLL_SECONDS)


def counted(wants: Iterable[tuple[Wanted, int]]) -> list[Need]:
    """Leases added up by what the same runs can serve, in the order of the tests."""
    totals: dict[str, Need] = {}
    for wanted, count in wants:
        before = totals.get(wanted.pair)
        totals[wanted.pair] = Need(wanted, count + (before.count if before else 0))
    return list(totals.values())


def _what(order: Mapping[str, Any]) -> str:
    """What is being made, for the person who waits for it."""
    runs = "a run" if order["runs"] == 1 else f"{order['runs']:,} runs"
    if order["database"]:
        runs = "a database with a run"
    pinned = {"seed": order["seed"], "as of": order["as_of"]}
    knobs = [f"{name}={value}" for name, value in order["constraints"].items()]
    knobs += [f"{name} {value}" for name, value in pinned.items() if value is not None]
    return f"{runs} of {order['scenario']}" + (f" ({', '.join(knobs)})" if knobs else "")


def _portions(count: int) -> list[int]:
    full, rest = divmod(count, _MOST_AT_ONCE)
    return [_MOST_AT_ONCE] * full + ([rest] if rest else [])


def _template_of(wanted: Wanted) -> str:
    return f"template-{_short(wanted)}"


def _failure_of(wanted: Wanted) -> str:
    return f"failure-{_short(wanted)}"


def _short(wanted: Wanted) -> str:
    import hashlib

    return hashlib.sha256(wanted.pair.encode()).hexdigest()[:24]


def _made_to_be_rejected(wanted: Wanted) -> str:
    return f"scenario {wanted.scenario} is made to be rejected: there is no data"


def _environment(settings: Settings) -> dict[str, str]:
    """This process's environment, with the settings that are in force here."""
    named = {
        "ATDM_HOME": str(settings.home),
        "ATDM_DATABASE_URL": settings.database_url or "",
        "ATDM_DAGSTER_DATABASE_URL": settings.dagster_database_url or "",
        "ATDM_STORE_URL": settings.store_url,
        "ATDM_INVOKER": settings.invoker,
        "ATDM_SCENARIO_PATH": os.pathsep.join(map(str, settings.scenario_path)),
    }
    return {**os.environ, **named}
