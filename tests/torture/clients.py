"""What a process does that is one of many: over and over, until its time is up.

A refusal (BUSY, nothing ready, a lease that a restore took away) is an answer, and is counted.
Anything else that goes wrong is noted word for word.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from atdm_engine.errors import AtdmError

DOMAIN = "healthcare"
SCENARIO = "active_member_clean"
PATIENCE = 30.0
"""Seconds within which everybody has to come to something."""

ROLES = {
    "restorer": ("restore",),
    "snapshotter": ("snapshot",),
    "requester": ("request",),
    "leaser": ("lease", "reset"),
}
"""Who does what."""

REFUSALS = {
    "lease": {"BUSY", "NONE_READY"},
    # A restore in between has taken the run away, and perhaps somebody else has it now.
    "reset": {"BUSY", "TOKEN_MISMATCH"},
    "request": {"BUSY"},
    "snapshot": {"BUSY"},
    "restore": {"BUSY", "NO_BASELINE"},
}


class Notes:
    """What one process did: how often, how long each took, what was refused, what went wrong."""

    def __init__(self, seconds: float, needed: Sequence[str]) -> None:
        self.taken: dict[str, list[float]] = {}
        self.refused: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.made: list[str] = []
        self.longest_wait: dict[str, float] = {}
        self._done_at: dict[str, float] = {}
        self._end = time.monotonic() + seconds
        self._began = time.monotonic()
        self._needed = needed

    @property
    def goes_on(self) -> bool:
        """Until the time is up, and a while longer for whoever came to nothing until then."""
        late = time.monotonic() - self._end
        return late < 0 or (late < PATIENCE and set(self._needed) > set(self._done_at))

    def did(self, what: str, call: Callable[[], Any]) -> Any:
        """The answer, or None when it was refused or went wrong."""
        began = time.monotonic()
        answer = None
        try:
            answer = call()
        except AtdmError as error:
            if str(error.code) not in REFUSALS[what]:
                self.wrong.append(f"{what}: {error.code}: {error.message}")
            self.refused[f"{what} {error.code}"] += 1
        except Exception as error:
            self.wrong.append(f"{what}: {type(error).__name__}: {error}")
        now = time.monotonic()
        self.taken.setdefault(what, []).append(now - began)
        if answer is not None:
            since = self._done_at.get(what, self._began)
            self.longest_wait[what] = max(self.longest_wait.get(what, 0.0), now - since)
            self._done_at[what] = now
        return answer

    def told(self) -> None:
        json.dump({name: value for name, value in vars(self).items() if name[0] != "_"}, sys.stdout)


def leaser(notes: Notes, url: str, owner: str) -> None:
    """Leases and gives back; now and then keeps what it has."""
    from atdm_resources.catalog import leases
    from atdm_resources.postgres.connection import connect

    rng = random.Random(owner)
    with connect(url, application_name="torture leaser") as conn:
        while notes.goes_on:
            run = notes.did("lease", lambda: leases.lease(conn, None, SCENARIO, owner=owner))
            if run is None:
                time.sleep(0.01)
                continue
            notes.made.append(run["test_run_id"])
            if rng.random() < 0.05:
                continue
            token = run["token"]
            notes.did("reset", lambda: leases.reset_run(conn, notes.made[-1], token))  # noqa: B023


def requester(notes: Notes, url: str, runs: int) -> None:
    """Has runs made, by the scenario's own job in this process."""
    from atdm_assets.definitions import build_defs
    from atdm_assets.instance.local_instance import instance
    from atdm_assets.requests.job import materialise_request
    from atdm_assets.requests.resource import RequestsResource
    from atdm_assets.resources import StoreResource, TargetResource
    from atdm_resources.settings import Settings
    from atdm_resources.store.bundle import load_registry
    from atdm_services.requests.request import DataRequest

    settings = Settings.from_environment()
    registry = load_registry(settings)
    target = TargetResource(database_url=url)
    store = StoreResource(store_url=settings.store_url, endpoint_url=None)
    requests = RequestsResource(target=target, store=store)
    given = {"target": target, "store": store, "requests": requests}
    defs = build_defs(scenarios=registry, resource_overrides=given)

    with instance(settings) as opened:

        def ask() -> str:
            made = materialise_request(
                DataRequest(SCENARIO, runs=runs, pooled=True, source="torture"),
                registry=registry,
                instance=opened,
                resolve_job=defs.resolve_job_def,
                requests=requests,
                log_level="CRITICAL",
            )
            if made.error is not None:
                raise made.error
            return made.request_id

        while notes.goes_on:
            request = notes.did("request", ask)
            if request is None:
                time.sleep(0.1)
            else:
                notes.made.append(request)


def snapshotter(notes: Notes, url: str) -> None:
    """Captures baselines."""
    from atdm_resources.catalog.events import Actor
    from atdm_resources.settings import Settings
    from atdm_resources.store.files import Store
    from atdm_services.baselines.capture import capture

    store = Store(Settings.from_environment().store_url)
    actor = Actor("agent:torture", "torture")
    while notes.goes_on:
        made = notes.did("snapshot", lambda: capture(url, store, DOMAIN, actor=actor))
        if made is not None:
            notes.made.append(made.baseline_id)
        time.sleep(0.2)


def restorer(notes: Notes, url: str) -> None:
    """Restores the newest baseline, whoever has leased what."""
    from atdm_resources.catalog.events import Actor
    from atdm_resources.settings import Settings
    from atdm_resources.store.files import Store
    from atdm_services.baselines.restore import restore

    store = Store(Settings.from_environment().store_url)
    actor = Actor("agent:torture", "torture")
    while notes.goes_on:
        done = notes.did(
            "restore", lambda: restore(url, store, DOMAIN, actor=actor, revoke_leases=True)
        )
        if done is not None:
            notes.made.append(done.baseline_id)
        time.sleep(4.0)


def work(arguments: Sequence[str]) -> int:
    """In a process of its own: ROLE SECONDS URL NAME."""
    role, seconds, url, name = arguments
    notes = Notes(float(seconds), ROLES[role])
    if role == "leaser":
        leaser(notes, url, name)
    elif role == "requester":
        requester(notes, url, 200)
    elif role == "snapshotter":
        snapshotter(notes, url)
    else:
        restorer(notes, url)
    notes.told()
    return 0
