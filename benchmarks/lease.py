"""How long a lease takes, and a lease with its reset, against a bare one-row INSERT + COMMIT.

Both sides run on the same server, from as many client processes. The pool is measured small, large,
after many leases, and beside many rows of other runs. Run: ``python benchmarks/lease.py``.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from _database import (
    initialised_database,
    latency_line,
    percentile,
    shipped_registry,
)
from _loading import seed_runs

from atdm_resources.catalog import leases as leasing
from atdm_resources.postgres.connection import connect

SCENARIO = "active_member_clean"
OTHER_SCENARIO = "expired_eligibility"

WARM_UP = 20
_fillings = itertools.count(1)

Operation = Callable[[psycopg.Connection[Any]], None]


def insert_row(conn: psycopg.Connection[Any]) -> None:
    """The yardstick: what any change of one row costs on this server."""
    conn.execute("INSERT INTO public.yardstick (text) VALUES ('x')")


def lease_run(conn: psycopg.Connection[Any]) -> None:
    leasing.lease(conn, "healthcare", SCENARIO, owner="bench")


def lease_and_reset(conn: psycopg.Connection[Any]) -> None:
    lease = leasing.lease(conn, "healthcare", SCENARIO, owner="bench")
    leasing.reset_run(conn, lease["test_run_id"], lease["token"])


def measured(
    url: str, operation: Operation, clients: int, times: int
) -> tuple[list[float], list[float]]:
    """Seconds of each call and of each INSERT, from ``clients`` processes at once.

    The two take turns, so that whatever else the machine does falls on both alike.
    """
    if clients == 1:
        return _one_client(url, operation, times)
    context = multiprocessing.get_context("spawn")
    with context.Pool(clients) as pool:
        share = times // clients
        parts = pool.starmap(_one_client, [(url, operation, share)] * clients)
    return [s for calls, _ in parts for s in calls], [s for _, rows in parts for s in rows]


def _one_client(url: str, operation: Operation, times: int) -> tuple[list[float], list[float]]:
    calls, inserts = [], []
    with connect(url) as conn:
        for turn in range(times + WARM_UP):
            started = time.perf_counter()
            operation(conn)
            between = time.perf_counter()
            insert_row(conn)
            ended = time.perf_counter()
            if turn >= WARM_UP:
                calls.append(between - started)
                inserts.append(ended - between)
    return calls, inserts


def _lease_only(url: str, times: int) -> None:
    with connect(url) as conn:
        for _ in range(times):
            lease_run(conn)


def lease_many(url: str, leases: int) -> None:
    """So many leases, by eight clients."""
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        pool.starmap(_lease_only, [(url, leases // 8)] * 8)


def fill_pool(conn: psycopg.Connection[Any], ready: int) -> None:
    """Bring the pool of SCENARIO to ``ready`` runs without rows: a lease does not look at them."""
    conn.execute(
        "WITH asked AS (SELECT left(request_id, 14) AS head FROM atdm.request"
        "  WHERE scenario_id = %(scenario)s ORDER BY request_id LIMIT 1)"
        " INSERT INTO atdm.test_run (test_run_id, pool_key, as_of)"
        " SELECT q.request_id_head || lpad((n %% 900000 + 100000)::text, 6, '0'),"
        "  s.default_pool_key, now()"
        " FROM generate_series(1, %(missing)s) AS n"
        " CROSS JOIN LATERAL (SELECT (SELECT head FROM asked)"
        "  || lpad((%(batch)s + n / 900000)::text, 6, '0') AS request_id_head) AS q"
        " CROSS JOIN (SELECT default_pool_key FROM atdm.scenario"
        "  WHERE scenario_id = %(scenario)s AND current) AS s",
        {
            "scenario": SCENARIO,
            "missing": max(0, ready - _ready(conn)),
            "batch": 1000 * next(_fillings),
        },
    )
    # Runs are leased together with the seed of their request.
    conn.execute(
        "INSERT INTO atdm.request (request_id, label, domain, scenario_id, scenario_version, given,"
        " effective, seed, seed_given, as_of, as_of_given, runs, number_base, pooled, status,"
        " invoker, source)"
        " SELECT n.request_id, n.request_id, q.domain, q.scenario_id, q.scenario_version, q.given,"
        " q.effective, q.seed, false, q.as_of, false, 1, 0, true, 'ready', q.invoker, q.source"
        " FROM (SELECT DISTINCT request_id FROM atdm.test_run) AS n"
        " CROSS JOIN (SELECT * FROM atdm.request WHERE scenario_id = %s"
        " ORDER BY request_id LIMIT 1) AS q ON CONFLICT DO NOTHING",
        (SCENARIO,),
    )


def _ready(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute(
        "SELECT count(*) FROM atdm.test_run AS r JOIN atdm.scenario AS s"
        " ON s.default_pool_key = r.pool_key AND s.scenario_id = %s"
        " WHERE r.status = 'ready'",
        (SCENARIO,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server to use; default: an embedded one")
    parser.add_argument("--times", type=int, default=2000, help="calls a figure")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--ready", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--leases", type=int, default=100_000, help="leases before the last figure")
    parser.add_argument("--other-rows", type=int, default=5_000_000, help="rows of other runs")
    asked = parser.parse_args()
    registry = shipped_registry()
    with (
        initialised_database(registry, asked.url) as url,
        tempfile.TemporaryDirectory(prefix="atdm-bench-store-") as folder,
        connect(url) as conn,
    ):
        conn.execute(
            "CREATE TABLE public.yardstick"
            " (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text)"
        )
        calls = asked.times + WARM_UP * max(asked.clients)
        seed_runs(conn, registry, SCENARIO, 2 * len(asked.clients) * calls, Path(folder))

        def report(name: str, operation: Operation) -> None:
            for clients in asked.clients:
                calls, inserts = measured(url, operation, clients, asked.times)
                who = f"{clients} client" + ("s" if clients > 1 else "")
                yardstick = percentile(sorted(inserts), 0.5)
                print(latency_line(f"{name}, {who}", calls, yardstick))
                print(latency_line("    INSERT + COMMIT meanwhile", inserts), flush=True)

        report("lease + reset_run", lease_and_reset)
        if asked.other_rows:
            seed_runs(conn, registry, OTHER_SCENARIO, asked.other_rows // 5, Path(folder))
            report(f"lease + reset_run, beside {asked.other_rows:,} rows", lease_and_reset)
        for ready in asked.ready:
            fill_pool(conn, max(ready, 3 * calls))
            report(f"lease, {_ready(conn):,} ready", lease_run)
        fill_pool(conn, max(_ready(conn), asked.leases + 3 * calls * len(asked.clients)))
        lease_many(url, asked.leases)
        report(f"lease, {_ready(conn):,} ready after {asked.leases:,} leases", lease_run)


if __name__ == "__main__":
    main()
