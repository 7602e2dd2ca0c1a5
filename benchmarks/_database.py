"""A PostgreSQL server for one benchmark, and how its figures are printed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from psycopg import sql

from atdm_engine.bundle.registry import Registry
from atdm_resources.local import postgres_server
from atdm_resources.postgres.connection import connect
from atdm_resources.store.bundle import read_bundle, shipped_root
from atdm_services.target.init import initialise


def shipped_registry() -> Registry:
    """The registry of the shipped specification files."""
    return Registry.build(read_bundle([shipped_root()]))


@contextmanager
def initialised_database(registry: Registry, url: str | None) -> Iterator[str]:
    """The URL of a new database with catalog and tables, dropped at the end.

    ``url`` names a server (a database on it) to use; None: an embedded one in a temporary folder.
    """
    home = None
    if url is None:
        home = Path(tempfile.mkdtemp(prefix="atdm-bench-"))
        home.chmod(0o755)
        url = postgres_server.start(home, "postgres")
    name = f"atdm_bench_{os.getpid()}"
    try:
        with connect(url) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        database = urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        with connect(database) as conn:
            initialise(conn, registry)
        yield database
        with connect(url) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    finally:
        if home is not None:
            postgres_server.stop(home)
            shutil.rmtree(home, ignore_errors=True)


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0..1) of the values lie."""
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def latency_line(name: str, seconds: Sequence[float], baseline: float | None = None) -> str:
    """Name, p50, p95 and p99 in milliseconds, and p50 over the baseline's (seconds)."""
    ordered = sorted(seconds)
    shown = "  ".join(
        f"p{share:<3g}{percentile(ordered, share / 100) * 1000:8.3f} ms" for share in (50, 95, 99)
    )
    ratio = "" if baseline is None else f"  {percentile(ordered, 0.5) / baseline:6.2f} x"
    return f"{name:<58}{shown}{ratio}"
