"""Where these tests happen: databases, a store, an environment for processes."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atdm_resources.local import postgres_server
from tests.torture.children import Children
from tests.torture.operations import World, write_dataset
from tests.torture.reader import Reader


@contextmanager
def own_world(runs: int, rng: random.Random | None = None) -> Iterator[World]:
    """A home with a server of its own, stopped and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="atdm-kill-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        home = folder / "home"
        url = postgres_server.start(home)
        try:
            dagster = postgres_server.start(home, postgres_server.DAGSTER_DATABASE)
            with world_on(folder, url, dagster, runs, rng, own_server=True) as world:
                yield world
        finally:
            postgres_server.stop(home)


@contextmanager
def world_on(
    folder: Path,
    target: str,
    dagster: str,
    runs: int,
    rng: random.Random | None = None,
    *,
    own_server: bool,
) -> Iterator[World]:
    """A world on databases that are there; files go below ``folder``."""
    store = folder / "store"
    store.mkdir()
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ATDM_", "DAGSTER_", "PG"))
        },
        "ATDM_HOME": str(folder / "home"),
        "ATDM_DATABASE_URL": target,
        "ATDM_DAGSTER_DATABASE_URL": dagster,
        "ATDM_STORE_URL": store.as_uri(),
        "ATDM_SCENARIO_PATH": str(write_dataset(folder / "more")),
        "ATDM_INVOKER": "agent:torture",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    reader = Reader(target, store, own_server)
    try:
        world = World(Children(environment, folder), reader, rng or random.Random(), runs)
        world.set_up()
        yield world
    finally:
        reader.close()
