"""The calls into Dagster that faces pass to services. Each loads Dagster when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atdm_services.extras import server_part

if TYPE_CHECKING:
    import psycopg

    from atdm_resources.settings import Settings
    from atdm_services.baselines.manifest import Manifest
    from atdm_services.baselines.restore import Restored
    from atdm_services.baselines.service import Baselines
    from atdm_services.progress import Reporter
    from atdm_services.requests.request import LeaseRequest, Outcome


def make(
    settings: Settings,
    reporter: Reporter,
    connection: psycopg.Connection[Any],
    request: LeaseRequest,
) -> Outcome:
    """Make the runs of a request in this process (``atdm_assets.in_process.requests``)."""
    from atdm_assets.in_process import requests

    return requests.materialise(settings, reporter, connection, request)


def read_run(settings: Settings, run_id: str) -> dict[str, Any]:
    """Dagster's record of a run (``atdm_assets.instance.run_record``)."""
    with server_part("reading Dagster's record"):
        from atdm_assets.instance import run_record

    return run_record.read_run(settings, run_id)


def baselines(settings: Settings, reporter: Reporter, source: str, domain: str | None) -> Baselines:
    """The baselines of a domain (None: the default one). Raises AtdmError MISSING_EXTRA."""
    from atdm_services.baselines.service import Baselines
    from atdm_services.clones import teardown

    return Baselines(settings, reporter, BaselineRecord(), teardown.drop_made_from, source, domain)


class BaselineRecord:
    """Records baselines in Dagster (``atdm_assets.baselines.record``)."""

    def captured(self, settings: Settings, uri: str, made: Manifest) -> None:
        from atdm_assets.baselines import record

        record.captured(settings, uri, made)

    def restored(self, settings: Settings, done: Restored, reason: str) -> None:
        from atdm_assets.baselines import record

        record.restored(settings, done, reason)

    def deleted(self, settings: Settings, domain: str, baseline_id: str) -> None:
        from atdm_assets.baselines import record

        record.deleted(settings, domain, baseline_id)
