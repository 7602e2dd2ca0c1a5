"""A real browser in tests: headless Chromium, named by CHROMIUM_PATH or found on the path.

Where it is missing, a test that needs it is skipped, with the reason; where ATDM_REQUIRE_BROWSER is
set, as in CI, it fails.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser."""
    path = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")
    if path is None:
        reason = "Chromium is missing: install it, or name it in CHROMIUM_PATH"
        (pytest.fail if os.environ.get("ATDM_REQUIRE_BROWSER") else pytest.skip)(reason)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        launched.close()
