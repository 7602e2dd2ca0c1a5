"""Who launched a run, where a proxy before the webserver says so."""

from __future__ import annotations

import re

from dagster import DagsterRun
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.run_coordinator.sync_in_memory_run_coordinator import SyncInMemoryRunCoordinator

from atdm_assets import names
from atdm_resources.settings import Settings

MOST_CHARACTERS = 96


class AttributingRunCoordinator(SyncInMemoryRunCoordinator):
    """Launches at once, as Dagster's default does, and tags the run with its person.

    ATDM_USER_HEADER names the header in which an authenticating proxy hands on the user's name; the
    proxy must overwrite what a client sends. Unset: no header is read. A run without the header
    keeps the tags that it came with.
    """

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Tag and launch; returns the run as it then is."""
        header = Settings.from_environment().user_header
        user = context.get_request_header(header) if header else None
        if user:
            invoker = invoker_of(user)
            tags = {names.INVOKER_TAG: invoker, names.USER_TAG: invoker}
            self._instance.add_run_tags(context.dagster_run.run_id, tags)
        return super().submit_run(context)


def invoker_of(user: str) -> str:
    """A proxy's user as ATDM names people (requirement A-AUD-13): ``human:<name>``."""
    return f"human:{re.sub(r'[^!-~]', '-', user.strip())[:MOST_CHARACTERS]}"
