"""Leasing a database per test: cold, from the template and from the pool.

Against ``CREATE DATABASE ... TEMPLATE`` alone, on the same server and the same rows, in turns. A
lease of ours is one call on an open connection and includes its row, its event, its token and, for
copies, the mark in the new database; a cold one makes the template first. Run: ``python
benchmarks/clones.py``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from _database import initialised_database, shipped_registry
from _loading import seed_runs
from psycopg import sql

from atdm_engine.spec.domain import ClonePool
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres.connection import connect
from atdm_resources.settings import Settings
from atdm_resources.store.files import Store
from atdm_services.baselines.capture import capture
from atdm_services.clones import pool, teardown
from atdm_services.clones.creation import CloneLease
from atdm_services.clones.lease import lease_clone

DOMAIN = "healthcare"
SCENARIO = "claim_denial_active_member"
ACTOR = Actor("human:benchmark", "benchmark")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done


def template_of(conn: psycopg.Connection[Any]) -> str:
    """The database that clones are copied from."""
    row = conn.execute(
        "SELECT database_name FROM atdm.clone WHERE kind = 'template' AND status = 'ready'"
    ).fetchone()
    assert row is not None
    return str(row[0])


def alone(conn: psycopg.Connection[Any], template: str) -> None:
    """What PostgreSQL does for a copy, and nothing else."""
    conn.execute(
        sql.SQL("CREATE DATABASE atdm_bench_copy TEMPLATE {}").format(sql.Identifier(template))
    )


def without_database(conn: psycopg.Connection[Any], name: str) -> None:
    """Outside the clock."""
    conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def measured(url: str, runs: int, rounds: int, cold_rounds: int) -> dict[str, list[float]]:
    """Seconds of every kind of lease, and of PostgreSQL's copy alone."""
    registry = replace(shipped_registry(), clones={DOMAIN: ClonePool(ready=rounds)})
    seconds: dict[str, list[float]] = {"alone": [], "pool": [], "template": [], "cold": []}
    with tempfile.TemporaryDirectory() as home, connect(url) as conn:
        settings = Settings.from_environment({"ATDM_HOME": home})
        store = Store(settings.store_url)
        seed_runs(conn, registry, SCENARIO, runs, Path(home))
        made = capture(url, store, DOMAIN, "bench", actor=ACTOR)
        print(f"baseline: {made.rows:,} rows, {made.bytes / 2**20:.1f} MiB in the store")

        def lease(baseline: str | None) -> CloneLease:
            return lease_clone(conn, url, baseline=baseline, owner="benchmark", settings=settings)

        def given_back(leased: CloneLease, kind: str) -> None:
            assert leased.source == kind, leased
            teardown.drop(conn, leased.database, because="measured", actor=ACTOR)

        for _ in range(cold_rounds):
            took, leased = timed(lambda: lease("bench"))
            seconds["cold"].append(took)
            given_back(leased, "cold")
            last = template_of(conn)
            if len(seconds["cold"]) < cold_rounds:
                teardown.drop(conn, last, because="measured", actor=ACTOR)
        # The pool holds clones that were made for the newest baseline: this one.
        pool.fill(conn, url, store, registry, DOMAIN, actor=ACTOR)
        template = template_of(conn)
        for _ in range(rounds):
            took, _nothing = timed(lambda: alone(conn, template))
            seconds["alone"].append(took)
            without_database(conn, "atdm_bench_copy")
            took, leased = timed(lambda: lease(None))
            seconds["pool"].append(took)
            given_back(leased, "pool")
            # Held back from the pool, so that this one has to be copied.
            conn.execute("UPDATE atdm.clone SET domain = 'aside' WHERE status = 'ready'"
                         " AND kind = 'clone'")  # fmt: skip
            took, leased = timed(lambda: lease("bench"))
            seconds["template"].append(took)
            given_back(leased, "template")
            conn.execute("UPDATE atdm.clone SET domain = %s WHERE domain = 'aside'", (DOMAIN,))
        for (database,) in conn.execute(
            "SELECT database_name FROM atdm.clone WHERE status <> 'dropped'"
        ).fetchall():
            teardown.drop(conn, database, because="measured", actor=ACTOR)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000, help="test runs in the baseline")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cold-rounds", type=int, default=2)
    parser.add_argument("--url", help="a server to use; default: an embedded one")
    chosen = parser.parse_args()
    with initialised_database(shipped_registry(), chosen.url) as url:
        seconds = measured(url, chosen.runs, chosen.rounds, chosen.cold_rounds)
    baseline = statistics.median(seconds["alone"])
    print(f"{'':34}{'median':>12}{'least':>12}{'most':>12}{'ratio':>9}")
    for kind, told in (
        ("alone", "CREATE DATABASE ... TEMPLATE alone"),
        ("pool", "lease from the pool"),
        ("template", "lease from the template"),
        ("cold", "lease, cold"),
    ):
        values = seconds[kind]
        middle = statistics.median(values)
        print(
            f"{told:34}{middle * 1000:>9.1f} ms{min(values) * 1000:>9.1f} ms"
            f"{max(values) * 1000:>9.1f} ms{middle / baseline:>9.2f}"
        )


if __name__ == "__main__":
    main()
