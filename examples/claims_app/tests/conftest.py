"""What the claims desk's tests need: its address, a browser.

``examples/run`` starts the application and says in CLAIMS_APP_URL where it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

# A page that is served on this machine needs no network; Chromium would try for its own purposes.
CHROMIUM_OPTIONS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    # Root may not use its sandbox, which is what a container's user is.
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]


@pytest.fixture(scope="session")
def app_url() -> str:
    """Where the application answers."""
    url = os.environ.get("CLAIMS_APP_URL")
    if not url:
        pytest.fail("CLAIMS_APP_URL is not set: run examples/run", pytrace=False)
    return url


@pytest.fixture
def api(app_url: str) -> Iterator[httpx.Client]:
    """The application's API."""
    with httpx.Client(base_url=app_url, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the one that CHROMIUM_PATH names, or that is installed."""
    path = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium: install it, or name it in CHROMIUM_PATH")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=CHROMIUM_OPTIONS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser, app_url: str) -> Iterator[Page]:
    """A page of a fresh browser context whose addresses start at the application's."""
    with browser.new_context(base_url=app_url) as context:
        yield context.new_page()
