"""What a sensor's tick costs when there is nothing to do, and with a long queue: time and queries.

Both sides on the same server: each tick, and a bare ``SELECT 1`` on the same connection. Run:
``python benchmarks/ticks.py``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
from _database import initialised_database, percentile, shipped_registry
from psycopg.types.json import Jsonb

from atdm_assets.audit import sensor
from atdm_assets.leases import expiry, pools
from atdm_assets.queue import sensor as queue
from atdm_engine.bundle.registry import Registry
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services.retention import Retention

WAITING_SCENARIOS = ("active_member_clean", "claim_denial_active_member", "expired_subscription")


def queries(conn: psycopg.Connection[Any], call: Callable[[], object]) -> int:
    """Statements that ``call`` sends over ``conn``."""
    count = 0
    plain = psycopg.Cursor.execute

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return plain(self, *args, **kwargs)

    psycopg.Cursor.execute = counting  # type: ignore[assignment,method-assign]
    try:
        call()
    finally:
        psycopg.Cursor.execute = plain  # type: ignore[method-assign]
    return count


def measured(call: Callable[[], object], times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)


@contextmanager
def ephemeral_instance() -> Any:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def ticks(
    instance: dg.DagsterInstance, conn: psycopg.Connection[Any], store: Store, registry: Registry
) -> dict[str, Callable[[], object]]:
    """One tick of each sensor, by name."""
    return {
        "queue_sensor": lambda: queue.tick(instance, conn, lambda: store, registry),
        "pool_sensor": lambda: pools.tick(instance, conn, registry),
        "expiry_sensor": lambda: expiry.tick(instance, conn, store, Retention(), False),
        "expiry_sensor, thorough": lambda: expiry.tick(instance, conn, store, Retention(), True),
        "audit_sensor": lambda: sensor.tick(conn, store, registry, None),
    }


def submit_many(conn: psycopg.Connection[Any], count: int) -> float:
    """So many submissions of three scenarios; seconds."""
    started = time.perf_counter()
    with conn.transaction():
        for number in range(count):
            conn.execute(
                "SELECT atdm.submit(%s)",
                (
                    Jsonb(
                        {
                            "idempotency_key": f"bench-{number}",
                            "scenario": WAITING_SCENARIOS[number % len(WAITING_SCENARIOS)],
                        }
                    ),
                ),
            )
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server to use; default: an embedded one")
    parser.add_argument("--times", type=int, default=200, help="ticks a figure")
    parser.add_argument("--waiting", type=int, default=10_000)
    asked = parser.parse_args()
    registry = shipped_registry()
    with (
        initialised_database(registry, asked.url) as url,
        tempfile.TemporaryDirectory(prefix="atdm-bench-store-") as folder,
        connect(url) as conn,
        ephemeral_instance() as instance,
    ):
        os.environ.setdefault("ATDM_HOME", folder)
        store = Store(Path(folder).as_uri())
        conn.execute("UPDATE atdm.scenario SET pool_ready = 0")

        def report(name: str, call: Callable[[], object], times: int) -> None:
            yardstick = percentile(measured(lambda: conn.execute("SELECT 1"), times), 0.5)
            sent = queries(conn, call)
            taken = measured(call, times)
            print(
                f"{name:<44}p50{percentile(taken, 0.5) * 1000:9.3f} ms  "
                f"p95{percentile(taken, 0.95) * 1000:9.3f} ms  {sent:3} queries  "
                f"{percentile(taken, 0.5) / yardstick:7.1f} x SELECT 1",
                flush=True,
            )

        for name, call in ticks(instance, conn, store, registry).items():
            report(f"{name}, nothing to do", call, asked.times)
        seconds = submit_many(conn, asked.waiting)
        print(f"{asked.waiting:,} submissions in {seconds:.2f} s")
        call = ticks(instance, conn, store, registry)["queue_sensor"]
        started = time.perf_counter()
        first = call()
        print(
            f"queue_sensor, {asked.waiting:,} waiting: first tick "
            f"{(time.perf_counter() - started) * 1000:.0f} ms, "
            f"{len(getattr(first, 'run_requests', None) or ())} requests for them"
        )
        report(f"queue_sensor, {asked.waiting:,} being made", call, asked.times)
        conn.execute(
            "UPDATE atdm.submission SET status = 'waiting', request_id = NULL, first_run = NULL,"
            " group_key = group_key || ':' || submission_id"
        )
        queue.MOST_AT_ONCE = 0
        report(f"queue_sensor, {asked.waiting:,} waiting, no room", call, asked.times)


if __name__ == "__main__":
    main()
