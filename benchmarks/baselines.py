"""Baselines: snapshot against ``pg_dump -Fd -j2``, restore against ``pg_restore -1`` and ``-j2``.

All sides work on the same rows of the same server, in turns; each restore fills empty tables. Ours
also verifies every file before and every row after, and brings the catalog of runs in line. Every
process is measured with its start; ours prints its peak memory. Run: ``python
benchmarks/baselines.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from _database import initialised_database, shipped_registry
from _loading import seed_runs
from load import psql_path
from psycopg import sql

from atdm_resources.connection import connect
from atdm_resources.target import initialise

SCENARIO = "claim_denial_active_member"
DOMAIN = "healthcare"

_OURS = """
import json, resource, sys, time
from atdm_resources.baselines.capture import capture
from atdm_resources.baselines.records import Actor
from atdm_resources.baselines.restore import restore
from atdm_resources.store import Store
what, url, store, domain, name = sys.argv[1:]
actor = Actor("human:benchmark", "benchmark")
began = time.perf_counter()
if what == "capture":
    size = capture(url, Store(store), domain, name, actor=actor).bytes
else:
    size = sum(restore(url, Store(store), domain, name, actor=actor).tables.values())
print(json.dumps({"seconds": time.perf_counter() - began, "size": size,
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
"""


def ours(what: str, url: str, store: str, name: str) -> tuple[float, int, int]:
    """Seconds with the interpreter's start, size (bytes or rows), peak memory in MiB."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _OURS, what, url, store, DOMAIN, name],
        check=True,
        capture_output=True,
        text=True,
    )
    told = json.loads(done.stdout)
    return time.perf_counter() - began, told["size"], told["peak"]


def theirs(program: str, *arguments: str) -> float:
    """Seconds that a client program of PostgreSQL takes."""
    began = time.perf_counter()
    subprocess.run([str(Path(psql_path()).with_name(program)), *arguments], check=True)
    return time.perf_counter() - began


def emptied(url: str, *, dropped: bool) -> None:
    """Before a restore: no rows for ours, no tables for theirs, which makes them."""
    with connect(url) as conn:
        schema = sql.Identifier(DOMAIN)
        if dropped:
            conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))
            conn.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        else:
            names = conn.execute(
                "SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = %s::regnamespace"
                " AND c.relkind = 'r'",
                (DOMAIN,),
            ).fetchall()
            conn.execute(
                sql.SQL("TRUNCATE {}").format(
                    sql.SQL(", ").join(sql.Identifier(DOMAIN, name) for (name,) in names)
                )
            )
        conn.execute("CHECKPOINT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300_000, help="test runs, five rows each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="a server to use; default: an embedded one")
    asked = parser.parse_args()
    registry = shipped_registry()
    with (
        initialised_database(registry, asked.url) as url,
        tempfile.TemporaryDirectory(prefix="atdm-bench-store-") as folder,
    ):
        with connect(url) as conn:
            seeded = seed_runs(conn, registry, SCENARIO, asked.runs, Path(folder) / "staged")
            conn.execute("VACUUM ANALYZE")
        print(f"{seeded.rows:,} rows of {asked.runs:,} test runs", flush=True)
        store = (Path(folder) / "store").as_uri()
        other = urlunsplit(urlsplit(url)._replace(path=urlsplit(url).path + "_theirs"))
        name = sql.Identifier(urlsplit(other).path.lstrip("/"))
        with connect(url) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(name))
        try:
            with connect(other) as conn:
                initialise(conn, registry)
            compare(url, other, Path(folder), store, asked.rounds, seeded.rows)
        finally:
            with connect(url) as conn:
                conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def compare(url: str, other: str, folder: Path, store: str, rounds: int, rows: int) -> None:
    """Snapshots, then restores, in turns."""
    times: dict[str, list[float]] = {}
    peaks = []
    for number in range(rounds):
        dump = folder / f"dump-{number}"
        seconds = theirs(
            "pg_dump", "-Fd", "-j2", "-Z", "gzip:1", "-n", DOMAIN, "-f", str(dump), url
        )
        times.setdefault("pg_dump", []).append(seconds)
        seconds, size, peak = ours("capture", url, store, f"bench-{number}")
        times.setdefault("snapshot", []).append(seconds)
        peaks.append(peak)
        dumped = sum(file.stat().st_size for file in dump.iterdir())
        print(
            f"round: pg_dump {times['pg_dump'][-1]:.2f} s ({dumped / 2**20:.0f} MiB),"
            f" snapshot {seconds:.2f} s ({size / 2**20:.0f} MiB, peak {peak} MiB)",
            flush=True,
        )
    for number in range(rounds):
        dump = folder / f"dump-{number}"
        for side, arguments in (("pg_restore -1", ["-1"]), ("pg_restore -j2", ["-j2"])):
            emptied(other, dropped=True)
            seconds = theirs("pg_restore", *arguments, "-n", DOMAIN, "-d", other, str(dump))
            times.setdefault(side, []).append(seconds)
        emptied(url, dropped=False)
        seconds, _, peak = ours("restore", url, store, f"bench-{number}")
        times.setdefault("restore", []).append(seconds)
        peaks.append(peak)
        print(
            f"round: pg_restore -1 {times['pg_restore -1'][-1]:.2f} s,"
            f" -j2 {times['pg_restore -j2'][-1]:.2f} s, restore {seconds:.2f} s (peak {peak} MiB)",
            flush=True,
        )
    middle = {side: statistics.median(seconds) for side, seconds in times.items()}
    for side, seconds in middle.items():
        print(f"{side:<16} {seconds:8.2f} s  {rows / seconds:>12,.0f} rows/s")
    for side, against, target in (
        ("snapshot", "pg_dump", 1.0),
        ("restore", "pg_restore -1", 1.0),
        ("restore", "pg_restore -j2", 1.5),
    ):
        ratio = middle[side] / middle[against]
        print(f"{side} / {against}: {ratio:.2f} (target {target})")
    print(f"peak memory {max(peaks)} MiB (target 512)")


if __name__ == "__main__":
    main()
