"""Baselines: snapshot against ``pg_dump -Fd -j2``, restore against ``pg_restore -1`` and ``-j2``.

The rows are those of healthcare/golden, some times as many. All sides work on the same rows of the
same server, in turns; each restore fills empty tables. Ours also verifies every file before and
every row after. Every process is measured with its start; ours prints its peak memory. Beside the
seconds on the wall stand processor seconds, of the process and of the server: on a machine that
does other things too, only these can be compared. For the size of the targets: ``python
benchmarks/baselines.py --times 10``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from _database import initialised_database
from datasets import DATASET, registry_of
from load import psql_path
from psycopg import sql

from atdm_engine.bundle.registry import Registry
from atdm_resources.catalog.events import Actor
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services.baselines.restore import restore
from atdm_services.datasets.build import build_dataset
from atdm_services.datasets.runners import Processes
from atdm_services.datasets.shards import ShardWork
from atdm_services.target.init import initialise

DOMAIN = "healthcare"
GOLDEN_RUNS = 100_000
RUNS_PER_SHARD = 25_000
AS_OF = datetime(2026, 6, 1, tzinfo=UTC)
MEMORY_MIB = 512

_OURS = """
import json, sys
from atdm_services.baselines.capture import capture
from atdm_resources.catalog.events import Actor
from atdm_services.baselines.restore import restore
from atdm_resources.store.files import Store
what, url, store, domain, name = sys.argv[1:]
actor = Actor("human:benchmark", "benchmark")
if what == "capture":
    size = capture(url, Store(store), domain, name, actor=actor).bytes
else:
    size = sum(restore(url, Store(store), domain, name, actor=actor).tables.values())
print(json.dumps({"size": size}))
"""


@dataclass(frozen=True)
class Measured:
    """Seconds on the wall, and processor seconds of the process and of the server.

    ``size`` are bytes of a snapshot; ``peak`` is the memory in MiB of the process and all that it
    has started, together.
    """

    wall: float
    client: float
    server: float
    size: int = 0
    peak: int = 0

    @property
    def work(self) -> float:
        return self.client + self.server

    def __str__(self) -> str:
        return f"{self.wall:6.2f} s (processor {self.client:5.2f} + server {self.server:5.2f})"


class Server:
    """The server's processor seconds, as far as this machine can see them (0 elsewhere)."""

    def __init__(self, url: str) -> None:
        with connect(url) as conn:
            row = conn.execute("SHOW data_directory").fetchone()
        self._stat: Path | None = None
        with suppress(OSError, ValueError):
            pid = (Path(row[0] if row else "") / "postmaster.pid").read_text().split()[0]
            self._stat = Path("/proc") / str(int(pid)) / "stat"

    def seconds(self) -> float:
        """Those of all processes of the server that have ended."""
        if self._stat is None:
            return 0.0
        time.sleep(0.2)
        fields = self._stat.read_text().rsplit(")", 1)[1].split()
        return (int(fields[13]) + int(fields[14])) / 100


def measured(server: Server, command: list[str]) -> tuple[Measured, str]:
    """Run a program; what it took, and what it printed."""
    before, used = server.seconds(), resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    peak = 0
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        ThreadPoolExecutor(1) as reader,
    ):
        printed = reader.submit(process.communicate)
        while not printed.done():
            peak = max(peak, sum(map(resident, family(process.pid))))
            wait([printed], timeout=0.05)
    wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    took = Measured(wall, client, server.seconds() - before, peak=peak // 1024)
    return took, printed.result()[0]


def family(pid: int) -> list[int]:
    """A process and all that it has started, as far as they are there."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def resident(pid: int) -> int:
    """KiB of memory, with what it shares with others."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


def ours(server: Server, what: str, url: str, store: str, name: str) -> Measured:
    """A snapshot or a restore of ours, in a process of its own."""
    found, printed = measured(server, [sys.executable, "-c", _OURS, what, url, store, DOMAIN, name])
    told = json.loads(printed)
    return replace(found, size=told["size"])


def theirs(server: Server, program: str, *arguments: str) -> Measured:
    """A client program of PostgreSQL."""
    return measured(server, [str(Path(psql_path()).with_name(program)), *arguments])[0]


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


def autovacuum(url: str, *, on: bool) -> None:
    """It would clean up after one side while another is measured."""
    with connect(url) as conn:
        conn.execute("ALTER SYSTEM RESET autovacuum" if on else "ALTER SYSTEM SET autovacuum = off")
        conn.execute("SELECT pg_reload_conf()")


def filled(url: str, registry: Registry, folder: Path) -> int:
    """Build the dataset and restore it; how many rows the tables have then."""
    domain, dataset = registry.domains[DOMAIN], registry.dataset(DATASET)
    store = Store((folder / "golden").as_uri())
    built = build_dataset(
        ShardWork(domain, dataset, AS_OF, store, check=False),
        runner=Processes(2),
        invoker="human:benchmark",
        source="benchmark",
    )
    if built.manifest is None:
        raise SystemExit(f"the rows were rejected: {built.failed()}")
    restored = restore(
        url, store, DOMAIN, built.manifest.baseline_id, actor=Actor("human:benchmark", "benchmark")
    )
    with connect(url) as conn:
        conn.execute("VACUUM ANALYZE")
    return sum(restored.tables.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=float, default=2.6, help="as large as healthcare/golden")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="a server to use; default: an embedded one")
    asked = parser.parse_args()
    registry = registry_of(round(asked.times * GOLDEN_RUNS), RUNS_PER_SHARD)
    with (
        initialised_database(registry, asked.url) as url,
        tempfile.TemporaryDirectory(prefix="atdm-bench-store-") as folder,
    ):
        rows = filled(url, registry, Path(folder))
        print(f"{DATASET}, {asked.times:g} times as large: {rows:,} rows", flush=True)
        other = urlunsplit(urlsplit(url)._replace(path=urlsplit(url).path + "_theirs"))
        name = sql.Identifier(urlsplit(other).path.lstrip("/"))
        with connect(url) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(name))
        try:
            with connect(other) as conn:
                initialise(conn, registry)
            autovacuum(url, on=False)
            compare(url, other, Path(folder), asked.rounds, rows)
        finally:
            autovacuum(url, on=True)
            with connect(url) as conn:
                conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def compare(url: str, other: str, folder: Path, rounds: int, rows: int) -> None:
    """Snapshots, then restores, in turns."""
    server = Server(url)
    store = (folder / "store").as_uri()
    found: dict[str, list[Measured]] = {}

    def say(side: str, one: Measured, more: str = "") -> None:
        found.setdefault(side, []).append(one)
        print(f"  {side:<14} {one}{more}", flush=True)

    for number in range(rounds):
        dump = folder / f"dump-{number}"
        print(f"round {number + 1}", flush=True)
        arguments = ["-Fd", "-j2", "-Z", "gzip:1", "-n", DOMAIN, "-f", str(dump), url]
        taken = theirs(server, "pg_dump", *arguments)
        size = sum(file.stat().st_size for file in dump.iterdir())
        say("pg_dump", taken, f", {size / 2**20:.0f} MiB")
        made = ours(server, "capture", url, store, f"bench-{number}")
        say("snapshot", made, f", {made.size / 2**20:.0f} MiB, memory {made.peak} MiB")
        turns = ["pg_restore -1", "pg_restore -j2", "restore"]
        # Whoever comes later finds the disk busy with what the others have left to be written.
        for side in turns[number % 3 :] + turns[: number % 3]:
            if side == "restore":
                emptied(url, dropped=False)
                back = ours(server, "restore", url, store, f"bench-{number}")
                say(side, back, f", memory {back.peak} MiB")
                continue
            emptied(other, dropped=True)
            option = side.split()[1]
            say(side, theirs(server, "pg_restore", option, "-n", DOMAIN, "-d", other, str(dump)))
        with connect(url) as conn:
            # As it was for the first round, and nobody cleans up in the middle of the next.
            conn.execute("VACUUM ANALYZE")
            conn.execute("CHECKPOINT")
    wall = {side: statistics.median(one.wall for one in ones) for side, ones in found.items()}
    work = {side: statistics.median(one.work for one in ones) for side, ones in found.items()}
    for side, seconds in wall.items():
        print(f"{side:<16} {seconds:8.2f} s  {rows / seconds:>12,.0f} rows/s")
    for side, against, target in (
        ("snapshot", "pg_dump", 1.0),
        ("restore", "pg_restore -1", 1.0),
        ("restore", "pg_restore -j2", 1.5),
    ):
        ratio = wall[side] / wall[against]
        met = "met" if ratio <= target else "missed"
        print(
            f"{side} / {against}: {ratio:.2f} (target {target}: {met});"
            f" by processor seconds {work[side] / work[against]:.2f}"
        )
    peak = max(one.peak for side in ("snapshot", "restore") for one in found[side])
    met = "met" if peak <= MEMORY_MIB else "missed"
    print(f"peak memory {peak} MiB (target {MEMORY_MIB}: {met})")


if __name__ == "__main__":
    main()
