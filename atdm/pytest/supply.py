"""Makes the runs that a session lacks, once for all its processes.

Every worker of pytest-xdist collects the same tests. The first one that has collected makes the
missing runs while the others wait for its lock. If it dies, the lock is released and the next
worker makes what is still missing.
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
"""Errors of one scenario; all other errors concern the target."""


@dataclass(frozen=True, slots=True)
class Need:
    """A number of leases of one kind."""

    wanted: Wanted
    count: int


@dataclass
class Supply:
    """The supply of one session, in one of its processes.

    ``say`` prints progress; a text may end a line or leave it open.
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
        """Make the runs that these leases lack; the first process of the session does it for all.

        Raises:
            AtdmError: an error that every lease would meet, in every process. Errors of single
                scenarios are kept for their tests.
        """
        self._planned = {need.wanted.pair: need.count for need in needs}
        with self.folder.locked("supply"):
            before = self.folder.stored(_PREPARED)
            if before is None:
                before = {"stop": None}
                try:
                    self.tidy()
                    self._make([need for need in map(self._missing, needs) if need.count])
                except AtdmError as error:
                    before["stop"] = error.envelope()["error"]
                self.folder.store(_PREPARED, before)
        if before["stop"]:
            stop = before["stop"]
            raise AtdmError(ErrorCode(stop["code"]), stop["message"], stop["details"])

    def _missing(self, need: Need) -> Need:
        """The part of a need that is not ready."""
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
                return need  # its file may be newer than the published version
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
            self.folder.store("unprivileged", {})
        return Need(wanted, need.count - ready.runs)

    @property
    def _may_initialise(self) -> bool:
        """Whether the target is the database of the embedded server."""
        return self.target.settings.database_url is None and self._makes_itself

    @property
    def _makes_itself(self) -> bool:
        """Whether a process of this session makes the runs, instead of the queue."""
        return self.target.can_make and self.folder.stored("unprivileged") is None

    def stocked(self, wanted: Wanted) -> Mapping[str, Any] | None:
        """An entry of the stock for this kind of lease, or None."""
        if wanted.isolation == "database":
            return self.folder.stored(_template_of(wanted))
        return self.folder.take(wanted.pair)

    def restock(self, wanted: Wanted, lease: Callable[[], Any]) -> Any:
        """The result of ``lease``, after runs were made for it.

        A test may lease runs that no marker announced, or another session was faster. Then as many
        runs are made as are still expected here, or twice as many as the time before.

        Raises:
            AtdmError: the error of ``lease``, or why no run could be made.
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
                self.folder.store("unprivileged", {})
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
        self.folder.store(_failure_of(wanted), {"why": why})

    def _refuse_failed(self, wanted: Wanted) -> None:
        known = self.folder.stored(_failure_of(wanted))
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
                self.folder.store(_template_of(need.wanted), kept)
            elif order["reserved"]:
                self.folder.stock(need.wanted.pair, {"request_id": answer["request_id"]})

    def _orders(self, need: Need) -> Iterator[dict[str, Any]]:
        """The orders for the maker process, recorded in the session folder before they are sent."""
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
        """The answer to each order as it arrives. Raises AtdmError if the maker process dies."""
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
                pass  # the process died at once; its log has the reason
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
        """Submit the missing runs to the queue, wait, lease them and put them into stock."""
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
                        f"no run is ready, and the queue made none in {self.queue_seconds:g} s: "
                        "does the daemon run (atdm up)? No daemon is needed where the server part "
                        "is installed and the URL is that of the catalog's owner",
                    )
                return
            if waiting:
                time.sleep(_POLL_SECONDS)


def counted(wants: Iterable[tuple[Wanted, int]]) -> list[Need]:
    """Needs of the same kind added up, in the order of the tests."""
    totals: dict[str, Need] = {}
    for wanted, count in wants:
        before = totals.get(wanted.pair)
        totals[wanted.pair] = Need(wanted, count + (before.count if before else 0))
    return list(totals.values())


def _what(order: Mapping[str, Any]) -> str:
    """An order as text for the progress line."""
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
    """The environment of this process with the current settings."""
    named = {
        "ATDM_HOME": str(settings.home),
        "ATDM_DATABASE_URL": settings.database_url or "",
        "ATDM_DAGSTER_DATABASE_URL": settings.dagster_database_url or "",
        "ATDM_STORE_URL": settings.store_url,
        "ATDM_INVOKER": settings.invoker,
        "ATDM_SCENARIO_PATH": os.pathsep.join(map(str, settings.scenario_path)),
    }
    return {**os.environ, **named}
