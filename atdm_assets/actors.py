"""Who a Dagster run acts for, as the audit trail records it."""

from __future__ import annotations

import dagster as dg

from atdm_assets import names
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog.events import Actor
from atdm_resources.settings import Settings, is_invoker


def run_actor(run: dg.DagsterRun, invoker: str | None = None, reason: str = "") -> Actor:
    """The actor of a run: ``invoker`` of its config, else its tags, else ATDM_INVOKER.

    Raises:
        AtdmError: REQUEST_INVALID, the invoker is no ``human:<name>`` or ``agent:<id>``.
    """
    given = invoker or run.tags.get(names.INVOKER_TAG)
    if given is not None and not is_invoker(given):
        raise AtdmError(
            ErrorCode.REQUEST_INVALID,
            f"invoker is {given!r}; allowed: human:<name> or agent:<id>",
            {"field": "invoker", "found": given},
        )
    return Actor(
        given or Settings.from_environment().invoker,
        run.tags.get(names.SOURCE_TAG, "dagster"),
        reason,
    )
