"""Coverage as JSON, in a terminal and as a page; what a page may hold and what it must not."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from atdm.cli import coverage
from atdm.web.coverage import page
from atdm_services.coverage import report
from atdm_services.coverage.matrix import coverage_of
from tests.unit.coverage.test_coverage_matrix import history, published

NASTY = "t.py::test_a[<script>alert(1)</script> [red]&\"']"


def found(*tests: Any, session: str | None = None) -> dict[str, Any]:
    files = [
        published("shop/a", "FR-1", "FR-2"), published("shop/b", "FR-3"), published("shop/c"),
    ]  # fmt: skip
    return report.as_json(
        coverage_of(files, tests),
        database="db",
        since=datetime(2026, 5, 1, tzinfo=UTC),
        session=session,
    )


MIXED = (
    history("failed", "FR-1", nodeid=NASTY),
    history("passed", "FR-2", "OLD-1"),
)


def terminal(payload: dict[str, Any]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=160, highlight=False)
    for part in coverage.coverage_parts(payload):
        console.print(part)
    return stream.getvalue()


def test_the_json_says_it_all() -> None:
    payload = found(*MIXED, session="build-7")
    assert payload["summary"] == {
        "requirements": 3,
        "exercised": 2,
        "passing": 1,
        "failing": 1,
        "never_exercised": 1,
        "percent_exercised": 66.6,
        "percent_passing": 33.3,
        "tests": 2,
        "flaky": 0,
    }
    assert [(one["requirement_id"], one["standing"]) for one in payload["requirements"]] == [
        ("FR-1", "failing"), ("FR-2", "passing"), ("FR-3", "never_exercised"),
    ]  # fmt: skip
    assert [one["requirement_id"] for one in payload["formerly_linked"]] == ["OLD-1"]
    assert payload["scenarios_without_requirement"] == ["shop/c"]
    assert (payload["session"], payload["since"]) == ("build-7", "2026-05-01T00:00:00+00:00")


def test_a_terminal_shows_it_and_reads_no_markup() -> None:
    text = terminal(found(*MIXED))
    assert "[red]" in text
    assert re.search(r"FR-3\s+never exercised\s+1 scenario without a test", text)
    assert "no scenario names any more: OLD-1" in text
    assert "scenarios without requirement: shop/c" in text
    assert "2 of 3 requirements exercised (66.6 %): 1 passing (33.3 %), 1 failing" in text


def test_without_requirements_it_says_so() -> None:
    payload = report.as_json(coverage_of([], []), database="db", since=None, session=None)
    assert "no published scenario names a requirement" in terminal(payload)
    assert "No published scenario names a requirement" in page.page_of(payload)
    assert "no published scenario names" in str(report.shortfall(payload, 0))


@pytest.mark.parametrize(
    ("percent", "held"), [(0, True), (33.3, True), (33.4, False), (100, False)]
)
def test_what_falls_short_is_said(percent: float, held: bool) -> None:
    said = report.shortfall(found(*MIXED), percent)
    assert (said is None) == held
    if said is not None:
        assert said == (
            f"33.3 % of the requirements are passing, {percent:g} % are asked for: FR-1, FR-3"
        )


def test_the_page_escapes_and_asks_nothing_of_the_network() -> None:
    html = page.page_of(found(*MIXED))
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "default-src 'none'" in html
    assert not re.search(r"(src|href)=|url\(|@import|http", html.replace("http-equiv", ""))
    assert html == page.page_of(found(*MIXED))


def test_a_long_list_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_TESTS", 2)
    tests = [history("passed", "FR-1", nodeid=f"t::{number:02}") for number in range(5)]
    html = page.page_of(found(*tests))
    assert "All 5 tests" in html
    assert "and 3 more" in html
    assert "t::01" in html
    assert "t::02" not in html
