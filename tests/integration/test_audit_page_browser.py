"""The audit page in a real browser: readable, accessible, quiet (axe; no serious finding)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atdm.audit_page.page import page_of
from tests.browser import chromium
from tests.unit.atdm.page_facts import rejected, story

STORIES = {"cleaned": story, "rejected": rejected}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, facts in STORIES.items():
        path = Path(folder) / f"{name}.html"
        path.write_text(page_of(facts()), encoding="utf-8")
        found[name] = path.as_uri()
    return found


@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [
        ("cleaned", "light", 390),
        ("cleaned", "dark", 1280),
        ("rejected", "light", 1280),
        ("rejected", "dark", 390),
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


def test_it_is_quiet_and_fits_a_phone(browser: Any, pages: dict[str, str]) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, java_script_enabled=False, offline=True
    )
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(pages["cleaned"])
    assert asked == [pages["cleaned"]]
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
