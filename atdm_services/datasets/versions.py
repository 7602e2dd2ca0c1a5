"""The versions of a dataset in the store: listed, expired, swept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.model import Dataset
from atdm_resources.store.files import Store
from atdm_services.baselines import removal
from atdm_services.baselines.manifest import (
    MANIFEST,
    BaselineFiles,
    Manifest,
    domain_folder,
    read_manifest,
)
from atdm_services.datasets.shards import ROOT

UNFINISHED_FOR: Final = timedelta(days=1)
"""How long the shards of a killed build are kept, so that the next build can resume it."""


@dataclass(frozen=True)
class Version:
    """A published version of a dataset."""

    version: str
    as_of: datetime
    manifest: Manifest


def versions(store: Store, dataset: Dataset) -> list[Version]:
    """The published versions of a dataset, the newest clock first.

    A damaged manifest is passed over: it may be of another dataset, and must not be deleted.
    Raises AtdmError STORE_FAILED.
    """
    folder = domain_folder(dataset.domain)
    prefix = f"{dataset.name}-"
    found = []
    for path in store.files(folder):
        baseline_id, _, name = path.removeprefix(f"{folder}/").partition("/")
        if name != MANIFEST or not baseline_id.startswith(prefix):
            continue
        try:
            manifest = read_manifest(store, dataset.domain, baseline_id)
        except AtdmError as error:
            if error.code in (ErrorCode.BASELINE_INVALID, ErrorCode.BASELINE_NOT_FOUND):
                continue
            raise
        made_from = manifest.dataset or {}
        if manifest.kind == "generated" and made_from.get("name") == dataset.name:
            found.append(
                Version(baseline_id, datetime.fromisoformat(str(made_from["as_of"])), manifest)
            )
    return sorted(found, key=lambda one: (one.as_of, one.manifest.captured_at), reverse=True)


def expire(store: Store, dataset: Dataset, *, keep: str | None = None) -> list[str]:
    """Delete all but the newest ``retention`` versions; returns the ids of deleted ones.

    ``keep`` names a version that is never deleted: the one that was just built, whose clock may be
    old. Raises AtdmError STORE_FAILED.
    """
    there = versions(store, dataset)
    old = [one for one in there[dataset.spec.retention :] if one.version != keep]
    for one in old:
        files = BaselineFiles(dataset.domain, one.version)
        removal.remove(store, files)
        removal.finish(store, files)
    return [one.version for one in old]


def sweep(store: Store, dataset: Dataset, now: datetime) -> list[str]:
    """Delete what killed builds left of other versions; returns the ids of deleted ones.

    Records of a published version are not needed. Those of an unpublished one are kept for a day,
    so that its build can be resumed. Unfinished removals are finished. Raises STORE_FAILED.
    """
    gone = []
    for files, actor in removal.unfinished(store, dataset.domain):
        # The removal of an operator is recorded by the sweep of baselines.
        if _is_version(dataset, files.baseline_id) and actor is None:
            removal.remove(store, files)
            removal.finish(store, files)
            gone.append(files.baseline_id)
    root = f"{ROOT}/{dataset.domain}"
    there: dict[str, list[str]] = {}
    for path in store.files(root):
        version = path.removeprefix(f"{root}/").partition("/")[0]
        if _is_version(dataset, version):
            there.setdefault(version, []).append(path)
    for version, paths in there.items():
        files = BaselineFiles(dataset.domain, version)
        if not store.exists(files.manifest):
            if now - max(store.modified(path) for path in paths) < UNFINISHED_FOR:
                continue
            store.delete_prefix(files.folder)
            gone.append(version)
        store.delete_prefix(f"{root}/{version}")
    return gone


def _is_version(dataset: Dataset, baseline_id: str) -> bool:
    """Whether an id has the form of this dataset's versions."""
    return (
        re.fullmatch(rf"{re.escape(dataset.name)}-\d{{8}}-\d{{6}}-[0-9a-f]{{6}}", baseline_id)
        is not None
    )
