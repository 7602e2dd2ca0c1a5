"""Removing the files of a baseline, so that a removal that was cut short can be finished.

First a mark is written, then the manifest is deleted (from then on there is no baseline), then
everything else, the mark last. Any process that finds a mark may finish the removal, also while
another one does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

from atdm_engine.errors import AtdmError
from atdm_resources.catalog.events import Actor
from atdm_resources.store.files import Store
from atdm_services.baselines.manifest import BaselineFiles, check_id, domain_folder

MARK = "removed.json"
"""Beside the manifest. A table's folder has no dot in its name, so none is called so."""


def remove(store: Store, files: BaselineFiles, actor: Actor | None = None) -> int:
    """Remove a baseline but for the mark, which holds ``actor``; returns how many files.

    The caller records the removal, then calls ``finish``.

    Raises:
        AtdmError: STORE_FAILED; the removal can be finished later.
    """
    said = {}
    if actor is not None:
        said = {"invoker": actor.invoker, "source": actor.source, "reason": actor.reason}
    store.write_bytes(_mark(files), json.dumps(said).encode("utf-8"))
    store.delete_prefix(files.manifest)
    rest = [path for path in store.files(files.folder) if path != _mark(files)]
    for path in rest:
        store.delete_prefix(path)
    return 1 + len(rest)


def finish(store: Store, files: BaselineFiles) -> None:
    """Remove the mark and the folder."""
    store.delete_prefix(files.folder)


def unfinished(store: Store, domain: str) -> Iterator[tuple[BaselineFiles, Actor | None]]:
    """Removals that were cut short, each with the actor in its mark, None without one."""
    folder = domain_folder(domain)
    found: list[tuple[BaselineFiles, str]] = []
    for path in store.files(folder):
        baseline_id, _, name = path.removeprefix(f"{folder}/").partition("/")
        if name == MARK:
            # A folder of another name is no baseline's.
            with suppress(AtdmError):
                check_id(baseline_id)
                found.append((BaselineFiles(domain, baseline_id), path))
    for files, path in found:
        yield files, _actor(store.read_bytes(path))


def _actor(mark: bytes) -> Actor | None:
    """A removal is finished also when its mark cannot be read."""
    try:
        said = json.loads(mark)
    except ValueError:
        return None
    if not isinstance(said, dict) or "invoker" not in said:
        return None
    source, reason = said.get("source", "sweep"), said.get("reason", "")
    return Actor(str(said["invoker"]), str(source), str(reason))


def _mark(files: BaselineFiles) -> str:
    return f"{files.folder}/{MARK}"
