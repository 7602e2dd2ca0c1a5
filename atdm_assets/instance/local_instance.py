"""The Dagster instance: its home folder and opening it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import dagster as dg

from atdm_assets.instance.storage import (
    close_connections,
    keep_connections,
    psycopg2_url,
)
from atdm_resources.local import postgres_server
from atdm_resources.settings import Settings

CONFIG_FILE = "dagster.yaml"
DATABASE_VARIABLE = "ATDM_DAGSTER_DATABASE_URL"


def shipped_config() -> str:
    """The text of ``dagster.yaml``: of the checkout, else of the installed package."""
    checkout = Path(__file__).resolve().parents[2] / CONFIG_FILE
    if checkout.is_file():
        return checkout.read_text(encoding="utf-8")
    return resources.files("atdm_resources").joinpath(CONFIG_FILE).read_text(encoding="utf-8")


def prepare_home(settings: Settings) -> Path:
    """Make ``$ATDM_HOME/dagster`` hold the current ``dagster.yaml``; returns the folder.

    The file is written when it is absent or different (of an earlier version of ATDM), and as a
    whole: other processes may be reading it.
    """
    folder = (settings.home / "dagster").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = shipped_config()
    path = folder / CONFIG_FILE
    if not path.is_file() or path.read_text(encoding="utf-8") != wanted:
        staged = folder / f".{CONFIG_FILE}.{os.getpid()}"
        staged.write_text(wanted, encoding="utf-8")
        staged.replace(path)
    return folder


def environment(settings: Settings) -> Mapping[str, str]:
    """The variables that plain ``dagster`` and ``dg`` commands need to use this instance.

    Without ATDM_DAGSTER_DATABASE_URL, Dagster's database is on the embedded server, which is
    started.

    Raises:
        AtdmError: MISSING_EXTRA, TARGET_UNREACHABLE: the embedded server does not start.
    """
    url = settings.dagster_database_url or postgres_server.start(
        settings.home, postgres_server.DAGSTER_DATABASE
    )
    return {
        "DAGSTER_HOME": str(prepare_home(settings)),
        DATABASE_VARIABLE: psycopg2_url(url),
    }


@contextmanager
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of these settings, closed at the end.

    ``dagster.yaml`` takes its database from the environment, as child processes of a run do, so the
    variable is set for this process.
    """
    variables = environment(settings)
    os.environ[DATABASE_VARIABLE] = variables[DATABASE_VARIABLE]
    with dg.DagsterInstance.from_config(variables["DAGSTER_HOME"]) as opened:
        keep_connections(opened)
        try:
            yield opened
        finally:
            close_connections(opened)
