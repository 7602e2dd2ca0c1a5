"""The person who launched a run, as an authenticating proxy names them."""

from __future__ import annotations

import re

from dagster import DagsterRun
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.run_coordinator.sync_in_memory_run_coordinator import SyncInMemoryRunCoordinator

from atdm_assets import names
from atdm_resources.settings import Settings

MOST_CHARACTERS = 96


class AttributingRunCoordinator(SyncInMemoryRunCoordinator):
    """Launches a run at once, as Dagster's default does, and tags it with the user who asked.

    ATDM_USER_HEADER names the header with the user's name; the proxy must overwrite it in each
    request. Without the variable no header is read. A run without the header keeps its tags.
    """

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Tag and launch the run; returns its new state."""
        header = Settings.from_environment().user_header
        user = context.get_request_header(header) if header else None
        if user:
            invoker = invoker_of(user)
            tags = {names.INVOKER_TAG: invoker, names.USER_TAG: invoker}
            self._instance.add_run_tags(context.dagster_run.run_id, tags)
        return super().submit_run(context)


def invoker_of(user: str) -> str:
    """The invoker ``human:<name>`` for a user of the proxy (requirement A-AUD-13)."""
    return f"human:{re.sub(r'[^!-~]', '-', user.strip())[:MOST_CHARACTERS]}"
