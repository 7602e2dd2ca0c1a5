"""Fixture files: a leased run as a file that a Playwright or pytest suite reads.

The files hold the plaintext cleanup token by design (A-FIX-04): only their owner can read them, and
they must never be served.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atdm_engine.errors import AtdmError, ErrorCode

PAYLOAD_KEYS = ("scenario_id", "test_run_id", "data", "cleanup")
_SAFE_STEM = re.compile(r"[A-Za-z0-9_-]+\Z")
_MODULE = '''"""Test data of one run, written by atdm. Holds a secret: do not commit or serve it."""

SCENARIO_ID = {scenario!r}
TEST_RUN_ID = {run!r}
_PAYLOAD = {payload!r}


def scenario_data():
    """The run: scenario_id, test_run_id, data, cleanup."""
    import copy

    return copy.deepcopy(_PAYLOAD)
'''


def write_fixtures(
    response: Mapping[str, Any], directory: Path, *, playwright: bool, pytest: bool
) -> dict[str, str | None]:
    """Write the requested files; returns their absolute paths by kind, None if not requested.

    ``response`` is a lease as ``atdm request`` prints it. The directory is made if it is missing.
    Raises AtdmError STORE_FAILED if a file cannot be written; no file is left incomplete.
    """
    # Through JSON: secrets become plain text.
    payload = json.loads(json.dumps({key: response[key] for key in PAYLOAD_KEYS}, default=str))
    stem = f"{payload['scenario_id']}_{payload['test_run_id']}"
    if not _SAFE_STEM.match(stem):
        raise AtdmError(
            ErrorCode.REQUEST_INVALID, f"no file can be named after {stem!r}", {"name": stem}
        )
    paths: dict[str, str | None] = {"playwright": None, "pytest": None}
    if playwright:
        text = json.dumps(payload, indent=2, sort_keys=True) + "\n"
        paths["playwright"] = _write_private(directory / f"{stem}.json", text)
    if pytest:
        text = _MODULE.format(
            scenario=payload["scenario_id"], run=payload["test_run_id"], payload=payload
        )
        paths["pytest"] = _write_private(directory / f"{stem}.py", text)
    return paths


def _write_private(path: Path, text: str) -> str:
    """Write a file of mode 0600 atomically."""
    path = path.absolute()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise AtdmError(
            ErrorCode.STORE_FAILED,
            f"cannot write the fixture file {path}: {error.strerror}",
            {"path": str(path)},
        ) from error
    return str(path)
