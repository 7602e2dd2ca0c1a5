"""reset_all of many test runs against DELETE statements written by hand.

Both sides delete the same rows from the same server, each from tables that were filled anew; by
hand means one DELETE a table, in foreign-key order, without catalog, audit trail or looking for
rows that refer to them. Run: ``python benchmarks/reset.py --runs 1000000``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from _database import initialised_database, shipped_registry
from _loading import seed_runs
from psycopg import sql

from atdm_resources.catalog import leases
from atdm_resources.postgres.connection import connect

SCENARIO = "active_member_clean"


def by_hand(conn: psycopg.Connection[Any]) -> float:
    """Seconds of one DELETE a table in one transaction."""
    tables = conn.execute(
        "SELECT schema_name, table_name FROM atdm.domain_table ORDER BY load_order DESC"
    ).fetchall()
    started = time.perf_counter()
    with conn.transaction():
        for schema, table in tables:
            conn.execute(
                sql.SQL("DELETE FROM {} WHERE test_run_id IS NOT NULL").format(
                    sql.Identifier(schema, table)
                )
            )
    seconds = time.perf_counter() - started
    conn.execute("TRUNCATE atdm.test_run")
    return seconds


def reset(conn: psycopg.Connection[Any]) -> float:
    """Seconds of reset_all."""
    started = time.perf_counter()
    leases.reset_all(conn, "healthcare", confirm=True, invoker="human:bench", source="bench")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server to use; default: an embedded one")
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    registry = shipped_registry()
    taken: dict[str, list[float]] = {"DELETE by hand": [], "reset_all": []}
    with (
        initialised_database(registry, asked.url) as url,
        tempfile.TemporaryDirectory(prefix="atdm-bench-store-") as folder,
        connect(url) as conn,
    ):
        for _ in range(asked.rounds):
            for name, delete in (("DELETE by hand", by_hand), ("reset_all", reset)):
                loaded = seed_runs(conn, registry, SCENARIO, asked.runs, Path(folder))
                conn.execute("VACUUM ANALYZE")
                taken[name].append(delete(conn))
                print(f"{name:<16}{loaded.rows:>12,} rows {taken[name][-1]:8.2f} s", flush=True)
    ratio = min(taken["reset_all"]) / min(taken["DELETE by hand"])
    print(f"reset_all / DELETE by hand: {ratio:.2f} x")


if __name__ == "__main__":
    main()
