"""The baselines in the store: listed, verified, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.progress import Progress
from atdm_resources.catalog.baselines import set_deleted
from atdm_resources.catalog.events import Actor
from atdm_resources.store.files import Store
from atdm_services.baselines import removal
from atdm_services.baselines.manifest import (
    MANIFEST,
    BaselineFiles,
    Manifest,
    check_id,
    domain_folder,
    read_manifest,
)
from atdm_services.baselines.part_files import file_problem

_VERIFYING_THREADS = 2


@dataclass(frozen=True, slots=True)
class Listed:
    """A baseline in the store. ``problem``: what is wrong with it, None when it is intact."""

    domain: str
    baseline_id: str
    manifest: Manifest | None
    problem: str | None

    def as_json(self) -> dict[str, Any]:
        """Summary, age in seconds, ``intact`` and ``problem``."""
        known: dict[str, Any] = {"domain": self.domain, "baseline_id": self.baseline_id}
        if self.manifest is not None:
            known = self.manifest.summary()
            age = datetime.now(UTC) - self.manifest.captured_at
            known["age_seconds"] = round(age.total_seconds())
        return {**known, "intact": self.problem is None, "problem": self.problem}


def baselines(store: Store, domain: str) -> list[Listed]:
    """The baselines of a domain, newest first; those that cannot be read come last.

    Intact here: the manifest is valid and every file has its size. ``verify`` reads the files.
    """
    folder = domain_folder(domain)
    if not store.exists(folder):
        return []
    sizes = store.sizes(folder)
    ids = [
        path.removeprefix(f"{folder}/").removesuffix(f"/{MANIFEST}")
        for path in sizes
        if path.endswith(f"/{MANIFEST}") and path.count("/") == folder.count("/") + 2
    ]
    found = [
        _listed(store, domain, baseline_id, sizes)
        for baseline_id in ids
        if f"{folder}/{baseline_id}/{removal.MARK}" not in sizes
    ]
    return sorted(
        found,
        key=lambda item: (
            item.manifest is not None,
            item.manifest.captured_at.timestamp() if item.manifest else 0.0,
            item.baseline_id,
        ),
        reverse=True,
    )


def latest(store: Store, domain: str) -> Manifest | None:
    """The manifest of the newest baseline whose manifest can be read (requirement A-OPS-06)."""
    return next((item.manifest for item in baselines(store, domain) if item.manifest), None)


def verify(
    store: Store, domain: str, baseline_id: str, progress: Progress | None = None
) -> list[str]:
    """Read every file again; returns its problems, a line each, none when it is intact.

    Raises:
        AtdmError: BASELINE_NOT_FOUND; STORE_FAILED.
    """
    try:
        manifest = read_manifest(store, domain, baseline_id)
    except AtdmError as error:
        if error.code is ErrorCode.BASELINE_INVALID:
            return [error.message]
        raise
    return file_problems(store, manifest, progress)


def size_problems(store: Store, manifest: Manifest) -> Iterator[str]:
    """The files of a baseline that are missing or cut off, a line each, from one listing."""
    files = BaselineFiles(manifest.domain, manifest.baseline_id)
    return _size_problems(manifest, store.sizes(files.folder))


def file_problems(store: Store, manifest: Manifest, progress: Progress | None = None) -> list[str]:
    """The files of a baseline that are missing, cut off or changed, a line each."""
    files = BaselineFiles(manifest.domain, manifest.baseline_id)
    problems = []
    done = 0
    with ThreadPoolExecutor(_VERIFYING_THREADS) as pool:
        judged = pool.map(lambda part: file_problem(store, files, part), manifest.files)
        for part, problem in zip(manifest.files, judged, strict=True):
            done += part.bytes
            if progress is not None:
                progress("verified; bytes", done, manifest.bytes)
            if problem is not None:
                problems.append(problem)
    for table in manifest.tables:
        written = sum(part.rows for part in table.files)
        if table.stored_columns and written != table.rows:
            problems.append(f"{table.name}: its files have {written} rows, it had {table.rows}")
    return problems


def delete(
    conn: psycopg.Connection[Any],
    store: Store,
    domain: str,
    baseline_id: str,
    *,
    confirm: bool,
    actor: Actor,
) -> int:
    """Delete a baseline; returns how many files were deleted.

    Raises:
        AtdmError: CONFIRM_REQUIRED; BASELINE_NOT_FOUND; REQUEST_CONFLICT when it is the last intact
            one of its domain; STORE_FAILED.
    """
    check_id(baseline_id)
    if not confirm:
        raise AtdmError(
            ErrorCode.CONFIRM_REQUIRED,
            f"this deletes baseline {baseline_id} of domain {domain} for good: confirm it",
            {"domain": domain, "baseline_id": baseline_id},
        )
    files = BaselineFiles(domain, baseline_id)
    there = {item.baseline_id: item for item in baselines(store, domain)}
    if baseline_id not in there:
        raise AtdmError(
            ErrorCode.BASELINE_NOT_FOUND,
            f"there is no baseline {baseline_id!r} of domain {domain}",
            {"domain": domain, "baseline_id": baseline_id},
        )
    intact = [name for name, item in there.items() if item.problem is None]
    if there[baseline_id].problem is None and len(intact) == 1:
        raise AtdmError(
            ErrorCode.REQUEST_CONFLICT,
            f"baseline {baseline_id} is the last intact one of domain {domain}",
            {"domain": domain, "baseline_id": baseline_id},
        )
    count = removal.remove(store, files, actor)
    set_deleted(conn, domain, baseline_id, actor)
    removal.finish(store, files)
    return count


def _listed(store: Store, domain: str, baseline_id: str, sizes: dict[str, int]) -> Listed:
    try:
        manifest = read_manifest(store, domain, baseline_id)
    except AtdmError as error:
        return Listed(domain, baseline_id, None, error.message)
    return Listed(domain, baseline_id, manifest, next(_size_problems(manifest, sizes), None))


def _size_problems(manifest: Manifest, sizes: dict[str, int]) -> Iterator[str]:
    files = BaselineFiles(manifest.domain, manifest.baseline_id)
    for part in manifest.files:
        size = sizes.get(files.full(part))
        if size is None:
            yield f"{part.path}: the file is missing"
        elif size != part.bytes:
            yield f"{part.path}: {size} bytes, {part.bytes} were written"
