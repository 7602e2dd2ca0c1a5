"""The versions of a dataset in the store: which there are, and which have to go.

Belongs here: retention. Does not belong here: making a version (``building``), the commands over
baselines of any kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.model import Dataset
from atdm_resources.baselines.manifest import (
    MANIFEST,
    BaselineFiles,
    Manifest,
    domain_folder,
    read_manifest,
)
from atdm_resources.store import Store


@dataclass(frozen=True)
class Version:
    """A published version of a dataset."""

    version: str
    as_of: datetime
    manifest: Manifest


def versions(store: Store, dataset: Dataset) -> list[Version]:
    """The published versions of a dataset, the newest clock first.

    A damaged manifest is passed over: whose version it is cannot be known, and it is not ours to
    delete. Raises AtdmError STORE_FAILED.
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
    """Delete all but the newest ``retention`` versions; returns the ids that went.

    ``keep`` names a version that stays whatever its age: the one that was just built, which may be
    of an old clock. Raises AtdmError STORE_FAILED.
    """
    there = versions(store, dataset)
    old = [one for one in there[dataset.spec.retention :] if one.version != keep]
    for one in old:
        files = BaselineFiles(dataset.domain, one.version)
        # The manifest first: what is left of a deletion that was cut short is no baseline.
        store.delete_prefix(files.manifest)
        store.delete_prefix(files.folder)
    return [one.version for one in old]
