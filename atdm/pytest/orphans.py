"""Resets the leases of crashed workers and killed sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import psycopg

from atdm.pytest.client import Holder, SessionClient, in_one_line
from atdm.pytest.session_files import Entry, Journal, SessionFolder, sessions_of
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog.reclaim import Reclaimed

_FORGOTTEN_SECONDS = 7 * 24 * 3600.0
"""After this time, leases in a target that is no longer used here have expired."""


def reap_others(home: Path, own: str, target: SessionClient) -> list[str]:
    """Reset what dead sessions left in this target; returns problems as texts."""
    problems: list[str] = []
    for folder in sessions_of(home):
        if folder.session_id != own:
            problems += clean_up(folder, target)
    return problems


def clean_up(folder: SessionFolder, target: SessionClient, *, keep: bool = False) -> list[str]:
    """Reset the leases of dead processes of a session; if all are dead, its unused runs as well.

    ``keep`` leaves the runs of --atdm-keep-failed: their session is the one that ends. Returns
    problems as texts; the next session tries again.
    """
    problems: list[str] = []
    left = False
    for path in folder.journals():
        journal = Journal.left_behind(path)
        if journal is None:
            left = True
            continue
        done, found = _all_done(_of_journal(journal.entries(), target, keep=keep), path)
        problems += found
        left = left or not done
        journal.close(remove=done)
    if left:
        return problems
    with folder.locked("supply-file"):
        done, found = _all_done(_of_notes(folder.notes(), target), folder.path)
    if done:
        folder.remove()
    return problems + found


def _all_done(problems: Iterator[str | None], path: Path) -> tuple[bool, list[str]]:
    """Whether everything was reset, and the problems; None is an entry of another target."""
    found = list(problems)
    if None in found:
        try:
            old = time.time() - path.stat().st_mtime > _FORGOTTEN_SECONDS
        except FileNotFoundError:
            old = True
        return old, [problem for problem in found if problem]
    return not found, [problem for problem in found if problem]


def _of_journal(entries: list[Entry], target: SessionClient, *, keep: bool) -> Iterator[str | None]:
    """Reset the leases of a journal's process; yields problems."""
    if not entries:
        return
    header = entries[0]
    if header["target"] != target.database:
        yield None
        return
    holder = Holder(header["owner"], header["secret"], header["shared"])
    yield from reset_all_of(entries, target, holder, keep=keep)


def reset_all_of(
    entries: Iterable[Entry], target: SessionClient, holder: Holder, *, keep: bool
) -> Iterator[str]:
    """Reset all leases of a process: by its owner, or run by run where some are kept or the owner
    is shared. Yields problems as texts.
    """
    held: dict[str, str] = {}
    databases: dict[str, str] = {}
    kept = False
    for entry in entries:
        if "leased" in entry:
            held[entry["leased"]] = entry["token"]
        elif "kept" in entry and keep:
            kept = True
            held.pop(entry["kept"], None)
            databases.pop(entry.get("database") or "", None)
        elif "reset" in entry:
            held.pop(entry["reset"], None)
        elif "copied" in entry:
            databases[entry["copied"]] = entry["token"]
        elif "dropped" in entry:
            databases.pop(entry["dropped"], None)
    for database, token in databases.items():
        yield from _tried(f"database {database}", partial(target.drop_copy, database, token))
    if kept or holder.shared:
        for run, token in held.items():
            yield from _tried(f"test run {run}", partial(target.reset_run, run, token))
    elif holder.secret is not None:
        secret = holder.secret
        yield from _tried(
            f"what {holder.owner} holds", lambda: target.reset_owner(holder.owner, secret)
        )


def _of_notes(notes: list[Entry], target: SessionClient) -> Iterator[str | None]:
    """Reset the runs that a session had made and did not lease; yields problems."""
    if any(note.get("target", target.database) != target.database for note in notes):
        yield None
        return
    claimed = {note["claimed"] for note in notes if "claimed" in note}
    labels = [note["label"] for note in notes if note.get("label") and not note["database"]]
    if labels:
        yield from _tried(
            "runs that no test came for", lambda: _complete(target.reclaim_unused(labels))
        )
    for note in notes:
        if note.get("database"):
            yield from _tried(
                f"database {note['database']}", partial(target.drop_copy, note["database"], None)
            )
        if "submission" in note and note["submission"] not in claimed:
            yield from _reset_unclaimed(note, target)


def _reset_unclaimed(note: Entry, target: SessionClient) -> Iterator[str | None]:
    """Claim the runs of a submission of a dead session, and reset them."""
    holder = Holder(note["owner"], note["secret"], shared=False)
    key = note["submission"]
    try:
        leases = target.claim_leases(key, holder)
    except AtdmError as error:
        if error.code is ErrorCode.NONE_READY:
            yield None  # not made yet: the next session looks again
        return
    for lease in leases:
        yield from _tried(
            f"test run {lease['test_run_id']}",
            partial(target.reset_run, lease["test_run_id"], lease["token"]),
        )


def _complete(taken: Reclaimed) -> None:
    if not taken.complete:
        why = f"domain {', '.join(taken.busy)} is being reset" if taken.busy else "rows are in use"
        raise AtdmError(ErrorCode.RESET_FAILED, why, {"failed": taken.failed})


def _tried(what: str, call: Callable[[], object]) -> Iterator[str]:
    try:
        call()
    except (AtdmError, psycopg.Error) as error:
        # TOKEN_MISMATCH: the run is gone, or another owner has it.
        if getattr(error, "code", None) is not ErrorCode.TOKEN_MISMATCH:
            yield f"{what} could not be reset: {in_one_line(error)}"
