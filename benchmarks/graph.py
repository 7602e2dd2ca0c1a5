"""How long a scenario's graph takes in a warm process, and how long the code location loads.

Run: ``python benchmarks/graph.py``. Asks for single test runs in this process, in a Dagster
instance on an embedded PostgreSQL, against three empty steps in the same instance; then loads the
definitions of 40 scenarios, against ``import dagster`` alone. Target: 0.5 s for a graph.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from atdm_assets.definitions import build_defs
from atdm_assets.instance.local_instance import instance
from atdm_assets.requests.job import materialise_request
from atdm_assets.requests.resource import RequestsResource
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_resources.local import postgres_server
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import Settings
from atdm_resources.store.bundle import read_bundle, shipped_root
from atdm_services.requests.request import DataRequest
from atdm_services.target.init import initialise

SCENARIO = "active_member_clean"
TARGET_SECONDS = 0.5
SCENARIOS = 40


def empty_graph(steps: int) -> dg.JobDefinition:
    """A job of ``steps`` empty steps one after the other: what orchestration alone costs."""

    @dg.op(ins={"before": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
    def nothing() -> None:
        pass

    @dg.op(out=dg.Out(dg.Nothing))
    def start() -> None:
        pass

    @dg.job(executor_def=dg.in_process_executor)
    def empty() -> None:
        done = start()
        for number in range(1, steps):
            done = nothing.alias(f"step_{number}")(before=done)

    return empty


def seconds_of(action: Callable[[], object], rounds: int) -> list[float]:
    """How long each call takes, after one that does not count."""
    action()
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return sorted(found)


def time_graph(home: Path, rounds: int) -> None:
    os.environ["ATDM_HOME"] = str(home)
    settings = Settings.from_environment()
    url = postgres_server.start(home)
    registry = Registry.build(read_bundle([shipped_root()]))
    with connect(url) as conn:
        initialise(conn, registry)
    target = TargetResource(database_url=url)
    store = StoreResource(store_url=(home / "store").as_uri(), endpoint_url=None)
    requests = RequestsResource(target=target, store=store)
    overrides = {"target": target, "store": store, "requests": requests}
    defs = build_defs(scenarios=registry, resource_overrides=overrides)
    with instance(settings) as opened:

        def ask() -> None:
            outcome = materialise_request(
                DataRequest(SCENARIO),
                registry=registry,
                instance=opened,
                resolve_job=defs.resolve_job_def,
                requests=requests,
                log_level="CRITICAL",
            )
            assert outcome.succeeded, outcome.error

        empty = empty_graph(3)
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        graph = seconds_of(ask, rounds)
        bare = seconds_of(
            lambda: empty.execute_in_process(instance=opened, run_config=quiet), rounds
        )
    median, yardstick = statistics.median(graph), statistics.median(bare)
    print(f"graph of {SCENARIO}, warm: best {graph[0]:.3f} s, median {median:.3f} s", end="")
    print(f"  (target {TARGET_SECONDS} s)")
    print(f"  three empty steps in the same instance: median {yardstick:.3f} s")
    print(f"  ratio {median / yardstick:.2f}")


def time_loading(rounds: int) -> None:
    files = read_bundle([shipped_root()])
    text = next(file.text for file in files if file.name.endswith(f"/{SCENARIO}.yaml"))
    there = len(Registry.build(files).scenarios)
    copies = [
        SpecFile("copy", f"healthcare/copy_{n}.yaml", text.replace(SCENARIO, f"copy_{n}"))
        for n in range(SCENARIOS - there)
    ]

    def load() -> None:
        registry = Registry.build([*files, *copies])
        build_defs(scenarios=registry).get_repository_def().load_all_definitions()

    def import_dagster() -> None:
        subprocess.run([sys.executable, "-c", "import dagster"], check=True)

    loading = statistics.median(seconds_of(load, rounds))
    importing = statistics.median(seconds_of(import_dagster, rounds))
    print(f"definitions of {SCENARIOS} scenarios: {loading:.3f} s after the imports (target 3 s)")
    print(f"  import dagster as a process: {importing:.3f} s")
    print(f"  ratio {loading / importing:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="atdm-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        try:
            time_graph(home, rounds)
        finally:
            postgres_server.stop(home)
    time_loading(min(rounds, 3))


if __name__ == "__main__":
    main()
