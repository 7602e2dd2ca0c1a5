"""Fixtures of the Dagster tests: one embedded PostgreSQL, a fresh Dagster database each.

Belongs here: servers, databases and instances that several test modules use. Does not belong here:
expectations.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from atdm_assets.storage import close_pools
from atdm_resources import embedded


@pytest.fixture(scope="session")
def server_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The ATDM_HOME of an embedded server that lives as long as the tests."""
    home = tmp_path_factory.mktemp("dagster-home")
    embedded.start(home)
    yield home
    close_pools()
    embedded.stop(home)


@pytest.fixture
def database(server_home: Path) -> Iterator[str]:
    """The URL of a new, empty database."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = embedded.start(server_home, "postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield embedded.start(server_home, name)
    close_pools()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def dagster_instance(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """An instance over the project's own dagster.yaml and a new database."""
    from atdm_assets.instance import shipped_config

    monkeypatch.setenv("ATDM_DAGSTER_DATABASE_URL", database)
    (tmp_path / "dagster.yaml").write_text(shipped_config(), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance
