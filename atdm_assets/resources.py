"""The target and the store as Dagster resources."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dagster as dg
import psycopg
from pydantic import Field

from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.target import database_url
from atdm_resources.settings import Settings
from atdm_resources.store.files import Store

_HASTY_SECONDS = 5.0


class TargetResource(dg.ConfigurableResource[Any]):
    """The PostgreSQL database under test."""

    database_url: str | None = Field(
        None, description="Default: ATDM_DATABASE_URL, else the embedded server in ATDM_HOME."
    )

    def url(self) -> str:
        """The URL to connect to; starts the embedded server where no URL is set."""
        return self.database_url or database_url(Settings.from_environment())

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection in autocommit mode, closed at the end. AtdmError TARGET_UNREACHABLE."""
        with connect(self.url()) as conn:
            yield conn


class StoreResource(dg.ConfigurableResource[Any]):
    """The store of staged files and quarantined rows."""

    store_url: str | None = Field(None, description="Default: ATDM_STORE_URL.")
    endpoint_url: str | None = Field(None, description="Default: ATDM_S3_ENDPOINT_URL.")

    def store(self, *, hasty: bool = False) -> Store:
        """The store. ``hasty`` gives up after half a minute: a tick of a sensor has one minute."""
        settings = Settings.from_environment()
        options = settings.s3
        if self.endpoint_url:
            options = replace(options, endpoint_url=self.endpoint_url)
        if hasty:
            options = replace(options, attempts=1, read_seconds=_HASTY_SECONDS)
        return Store(self.store_url or settings.store_url, s3=options)
