"""Taking the files of a baseline out of the store, so that a removal that is cut short is finished.

First a mark, then the manifest (from then on there is no baseline), then everything else, the mark
last. A folder with a mark is being removed: whoever finds one may go on with it, at any time and
beside others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress

from atdm_engine.errors import AtdmError
from atdm_resources.store.files import Store
from atdm_services.baselines.manifest import BaselineFiles, check_id, domain_folder

MARK = "removed.json"
"""Beside the manifest. No table's folder is called so: they have no dot."""


def remove(store: Store, files: BaselineFiles, said: Mapping[str, str]) -> int:
    """Remove a baseline; ``said`` is kept in the mark. Returns how many files went.

    The mark itself stays for ``finish``: what is to be recorded is recorded between the two.

    Raises:
        AtdmError: STORE_FAILED; the removal can be gone on with.
    """
    store.write_bytes(_mark(files), json.dumps(dict(said)).encode("utf-8"))
    store.delete_prefix(files.manifest)
    rest = [path for path in store.files(files.folder) if path != _mark(files)]
    for path in rest:
        store.delete_prefix(path)
    return 1 + len(rest)


def finish(store: Store, files: BaselineFiles) -> None:
    """Remove the mark, with the folder: nothing tells of the baseline any more."""
    store.delete_prefix(files.folder)


def unfinished(store: Store, domain: str) -> Iterator[tuple[BaselineFiles, dict[str, str]]]:
    """Removals that nobody has finished, and what their marks say."""
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
        yield files, _said(store.read_bytes(path))


def _said(content: bytes) -> dict[str, str]:
    """What a mark says; a removal is finished also when its mark cannot be read."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    known = found if isinstance(found, dict) else {}
    return {name: str(known[name]) for name in ("invoker", "source", "reason") if name in known}


def _mark(files: BaselineFiles) -> str:
    return f"{files.folder}/{MARK}"
