"""Files as a way into the queue: ``inbox/*.json`` in, ``outbox/<name>.json`` out.

A file becomes a row, or is moved to ``inbox/rejected/`` with the reason.

The sender writes a file under another name first (a leading dot, ``.tmp`` or ``.part``) and renames
it: a file named ``*.json`` is taken as complete.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import queue
from atdm_resources.store.files import Store

INBOX = "inbox"
REJECTED = "inbox/rejected"
OUTBOX = "outbox"

LARGEST = 100_000
"""Largest file in bytes; larger files are rejected unread."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.json\Z")


@dataclass(frozen=True, slots=True)
class TakenIn:
    """Names of files that became rows, and of rejected files with the reason."""

    submitted: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)


def take_in(conn: psycopg.Connection[Any], store: Store, most: int) -> TakenIn:
    """Turn at most ``most`` files of the inbox into rows.

    The row is committed before the file is deleted, and its key follows from the file: after an
    interruption, or with two readers at once, it is still one submission.

    Raises:
        AtdmError: STORE_FAILED; TARGET_NOT_INITIALISED.
    """
    done = TakenIn()
    for name in _waiting(store)[:most]:
        path = f"{INBOX}/{name}"
        try:
            size = store.size(path)
            content = store.read_bytes(path) if size <= LARGEST else b""
        except AtdmError:
            if store.exists(path):
                raise
            continue  # another process was faster
        try:
            queue.submit(conn, _submission(name, size, content))
        except AtdmError as error:
            if error.code not in (ErrorCode.REQUEST_INVALID, ErrorCode.REQUEST_CONFLICT):
                raise
            _put_aside(store, name, content, error)
            done.rejected[name] = error.message
        else:
            done.submitted.append(name)
        store.delete_prefix(path)
    return done


def publish_answers(conn: psycopg.Connection[Any], store: Store, most: int) -> list[str]:
    """Write answers of submissions from files to the outbox; returns the paths."""
    written = []
    for submission_id, name, answer in queue.unpublished_answers(conn, most):
        path = f"{OUTBOX}/{name}"
        store.write_bytes(path, (json.dumps(answer, indent=1) + "\n").encode())
        queue.mark_published(conn, submission_id)
        written.append(path)
    return written


def _waiting(store: Store) -> list[str]:
    """Names of the complete files directly in the inbox."""
    names = [path.removeprefix(f"{INBOX}/") for path in store.files(INBOX)]
    return [
        name
        for name in names
        if "/" not in name and name.endswith(".json") and not name.startswith(".")
    ]


def _submission(name: str, size: int, content: bytes) -> dict[str, Any]:
    if not _NAME.match(name):
        raise _invalid("the file's name must be letters, digits, . _ - and end with .json")
    if size > LARGEST:
        raise _invalid(f"the file has {size} bytes; allowed: at most {LARGEST}")
    try:
        submission = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"the file is not JSON: {error}") from error
    if not isinstance(submission, dict):
        raise _invalid("the file must hold one JSON object")
    if "\\u0000" in json.dumps(submission):
        raise _invalid("text must not hold the character NUL")
    fresh = f"inbox:{name}:{hashlib.sha256(content).hexdigest()[:16]}"
    return {
        "idempotency_key": fresh,
        **submission,
        "source": "inbox",
        "file_name": name,
    }


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON value")


def _invalid(message: str) -> AtdmError:
    return AtdmError(ErrorCode.REQUEST_INVALID, message)


def _put_aside(store: Store, name: str, content: bytes, error: AtdmError) -> None:
    """In a folder of the day, for retention; the reason beside it never contains its content."""
    day = f"{REJECTED}/dt={datetime.now(UTC):%Y-%m-%d}"
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:120]
    reason = {"file": name, "rejected_at": datetime.now(UTC).isoformat(), **error.envelope()}
    store.write_bytes(f"{day}/{safe}.reason.json", (json.dumps(reason, indent=1) + "\n").encode())
    store.write_bytes(f"{day}/{safe}", content)
