"""The resources as Dagster configures them.

The only module of this package that imports Dagster.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
from pydantic import Field

from atdm_engine.bundle.registry import Registry
from atdm_resources.postgres.target import connect, database_url
from atdm_resources.settings import Settings
from atdm_resources.store.bundle import read_bundle, shipped_root
from atdm_resources.store.files import Store

_HASTY_SECONDS = 5.0


class TargetResource(dg.ConfigurableResource[Any]):
    """The PostgreSQL database under test."""

    database_url: str | None = Field(
        None, description="Default: ATDM_DATABASE_URL, else the embedded server in ATDM_HOME."
    )

    def url(self) -> str:
        """The URL to connect to; the embedded server is started if that is what it means."""
        return self.database_url or database_url(Settings.from_environment())

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection in autocommit mode, closed at the end. AtdmError TARGET_UNREACHABLE."""
        with connect(self.url()) as conn:
            yield conn


class StoreResource(dg.ConfigurableResource[Any]):
    """Where staged Parquet and quarantined rows are."""

    store_url: str | None = Field(None, description="Default: ATDM_STORE_URL.")
    endpoint_url: str | None = Field(None, description="Default: ATDM_S3_ENDPOINT_URL.")

    def store(self, *, hasty: bool = False) -> Store:
        """The store, opened; ``hasty`` gives up on one that does not answer within half a minute.

        A tick of a sensor has a minute in all.
        """
        settings = Settings.from_environment()
        options = settings.s3
        if self.endpoint_url:
            options = replace(options, endpoint_url=self.endpoint_url)
        if hasty:
            options = replace(options, attempts=1, read_seconds=_HASTY_SECONDS)
        return Store(self.store_url or settings.store_url, s3=options)


class RegistryResource(dg.ConfigurableResource[Any]):
    """The specification files."""

    scenario_path: list[str] | None = Field(
        None, description="Further folders of specification files; default: ATDM_SCENARIO_PATH."
    )

    def registry(self) -> Registry:
        """The registry. Raises SpecError with every problem in every file."""
        given = self.scenario_path
        extra = (
            Settings.from_environment().scenario_path
            if given is None
            else tuple(Path(part) for part in given)
        )
        return Registry.build(read_bundle((shipped_root(), *extra)))
