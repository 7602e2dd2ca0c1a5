"""Shows in Dagster what was done to a baseline outside any of its runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from atdm_assets import names
from atdm_assets.baselines.assets import baseline_metadata
from atdm_assets.baselines.jobs import restore_observation
from atdm_assets.instance.local_instance import instance

if TYPE_CHECKING:
    from atdm_resources.settings import Settings
    from atdm_services.baselines.manifest import Manifest
    from atdm_services.baselines.restore import Restored


def captured(settings: Settings, uri: str, made: Manifest) -> None:
    """A materialisation of the baseline ``made``, whose files are at ``uri``."""
    with _instance(settings) as opened:
        opened.add_dynamic_partitions(
            names.baseline_partitions_name(made.domain), [made.baseline_id]
        )
        opened.report_runless_asset_event(
            dg.AssetMaterialization(
                names.baseline_key(made.domain),
                partition=made.baseline_id,
                metadata=baseline_metadata(uri, made),
                tags={names.DATA_VERSION_TAG: made.content_hash},
            )
        )


def restored(settings: Settings, done: Restored, reason: str) -> None:
    """An observation of the baseline that was restored."""
    with _instance(settings) as opened:
        opened.add_dynamic_partitions(
            names.baseline_partitions_name(done.domain), [done.baseline_id]
        )
        opened.report_runless_asset_event(restore_observation(done, reason))


def deleted(settings: Settings, domain: str, baseline_id: str) -> None:
    """Remove the partition of a baseline that is deleted."""
    with _instance(settings) as opened:
        opened.delete_dynamic_partition(names.baseline_partitions_name(domain), baseline_id)


@contextmanager
def _instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with instance(settings) as opened:
            yield opened
