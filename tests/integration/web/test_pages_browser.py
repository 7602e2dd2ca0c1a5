"""The audit and the coverage page in a real browser: readable, accessible, quiet (axe: nothing)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atdm.web.audit.page import page_of
from atdm.web.coverage.page import page_of as coverage_page_of
from tests.support.audit_facts import rejected, story
from tests.support.browser import chromium
from tests.support.coverage_facts import HOSTILE, covered

PAGES = {
    "cleaned": lambda: page_of(story()),
    "rejected": lambda: page_of(rejected()),
    "coverage": lambda: coverage_page_of(covered()),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, made in PAGES.items():
        path = Path(folder) / f"{name}.html"
        path.write_text(made(), encoding="utf-8")
        found[name] = path.as_uri()
    return found


@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [
        ("cleaned", "light", 390),
        ("cleaned", "dark", 1280),
        ("rejected", "light", 1280),
        ("rejected", "dark", 390),
        ("coverage", "light", 390),
        ("coverage", "dark", 1280),
    ],
)
def test_nobody_is_kept_out(
    browser: Any, pages: dict[str, str], name: str, scheme: str, width: int
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    # Axe is a script, which the page itself would refuse.
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 844}, bypass_csp=True
    )
    page = context.new_page()
    page.goto(pages[name])
    page.evaluate("document.querySelectorAll('details').forEach(it => it.open = true)")
    found = Axe().run(page).response["violations"]
    assert [
        (it["id"], it["impact"], [node["html"][:120] for node in it["nodes"]]) for it in found
    ] == []
    context.close()


@pytest.mark.parametrize("name", ["cleaned", "coverage"])
def test_it_is_quiet_and_fits_a_phone(browser: Any, pages: dict[str, str], name: str) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, java_script_enabled=False, offline=True
    )
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(pages[name])
    assert asked == [pages[name]]
    assert said == []
    # Its own style passes the policy that lets nothing else in.
    assert (
        page.locator(".badge").first.evaluate("it => getComputedStyle(it).borderRadius") == "99px"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()


def test_paper_shows_what_is_folded_and_is_white(browser: Any, pages: dict[str, str]) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(pages["cleaned"])
    event = page.locator("details .act").first
    assert not event.is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    assert event.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    context.close()


def test_what_tests_are_called_is_no_script(browser: Any, pages: dict[str, str]) -> None:
    page = browser.new_page()
    page.goto(pages["coverage"])
    assert "taken" not in page.title()
    assert HOSTILE in page.inner_text("body")
    page.close()


def test_a_coverage_of_many_tests_stays_small() -> None:
    assert len(coverage_page_of(covered(20_000)).encode()) < 1_000_000
