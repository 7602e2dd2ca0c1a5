"""Fixtures of the Dagster tests: instances over new databases, and a world to ask in.

A plugin (``pytest_plugins``) and not a conftest: only the Dagster tests pay for loading Dagster.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from psycopg import sql

from atdm_assets.instance.local_instance import shipped_config
from atdm_assets.instance.storage import close_connections, keep_connections, psycopg2_url
from atdm_engine.bundle.registry import Registry
from atdm_resources.postgres.connection import connect
from tests.conftest import new_database, with_database
from tests.support.dagster_world import World


@contextmanager
def opened_instance(url: str, home: Path) -> Iterator[dg.DagsterInstance]:
    """An instance over the project's own dagster.yaml."""
    home.mkdir()
    (home / "dagster.yaml").write_text(shipped_config(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATDM_DAGSTER_DATABASE_URL", psycopg2_url(url))
        patch.setenv("DAGSTER_HOME", os.fspath(home))
        with dg.DagsterInstance.from_config(os.fspath(home)) as instance:
            keep_connections(instance)
            yield instance
            close_connections(instance)


@pytest.fixture
def dagster_instance(empty_database: str, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance of the test's own."""
    with opened_instance(empty_database, tmp_path / "dagster") as instance:
        yield instance


@pytest.fixture(scope="session")
def dagster_template(
    postgres_server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of a database with Dagster's tables, to be copied from; one for each worker."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with connect(postgres_server_url) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    home = tmp_path_factory.mktemp("instance") / "dagster"
    with opened_instance(with_database(postgres_server_url, name), home):
        pass
    yield name
    with connect(postgres_server_url) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def shared_instance(
    postgres_server_url: str, dagster_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dg.DagsterInstance]:
    """An instance that the tests of a module share."""
    home = tmp_path_factory.mktemp("instance") / "dagster"
    with (
        new_database(postgres_server_url, template=dagster_template) as url,
        opened_instance(url, home) as instance,
    ):
        yield instance


@pytest.fixture
def world(
    target: str, shared_instance: dg.DagsterInstance, registry: Registry, tmp_path: Path
) -> World:
    """Everything a request needs; the target and the store are empty."""
    store = tmp_path / "store"
    store.mkdir()
    return World(target, store, shared_instance, registry)
