"""The environment in which plain Dagster commands work on the same instance and target."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from atdm_resources.local import processes
from atdm_resources.local.processes import AUDIT, HOST
from atdm_services.extras import server_part
from atdm_services.target import access

AUDIT_VARIABLE = "ATDM_AUDIT_URL"

if TYPE_CHECKING:
    from atdm_resources.settings import Settings
    from atdm_services.progress import Reporter


def dagster_exports(settings: Settings, reporter: Reporter) -> dict[str, str]:
    """The variables by name; starts the embedded server if the settings name no database."""
    with server_part("running Dagster"):
        from atdm_assets.instance import local_instance

    resolved = with_target(settings, reporter)
    with reporter.working("starting PostgreSQL for Dagster's own tables"):
        exports = dict(local_instance.environment(resolved))
    exports["ATDM_HOME"] = str(resolved.home)
    exports["ATDM_DATABASE_URL"] = str(resolved.database_url)
    exports["ATDM_STORE_URL"] = resolved.store_url
    exports |= audit_pages(resolved.home)
    if resolved.scenario_path:
        # A relative path means another folder in a process that starts elsewhere.
        exports["ATDM_SCENARIO_PATH"] = os.pathsep.join(map(str, resolved.scenario_path))
    return exports


def audit_pages(home: Path) -> dict[str, str]:
    """ATDM_AUDIT_URL, which Dagster's metadata links to: the variable, else the address of the
    server that `atdm up` started; empty without either.
    """
    given = os.environ.get(AUDIT_VARIABLE)
    server = None if given else processes.running(home, AUDIT)
    url = given or (f"http://{HOST}:{server.port}" if server else None)
    return {AUDIT_VARIABLE: url} if url else {}


def dagster_environment(settings: Settings, reporter: Reporter) -> Mapping[str, str]:
    """The environment of a child process: this one's, with the exports."""
    return {**os.environ, **dagster_exports(settings, reporter)}


def with_target(settings: Settings, reporter: Reporter) -> Settings:
    """The settings with the URL of the target: the embedded server's if none was given."""
    return dataclasses.replace(settings, database_url=access.database_url(settings, reporter))
