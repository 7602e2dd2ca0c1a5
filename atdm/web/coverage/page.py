"""The coverage page as HTML: one file without scripts and without network access.

Needs jinja2, of the extra ``server``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from atdm.web.html_page import page_parts
from atdm_services.coverage.report import counts, headline, words

MOST_TESTS = 500
"""Tests in each list at most; the page says how many more there are."""

_TONES = {"passing": "ok", "failing": "bad", "never_exercised": "plain"}
_OUTCOMES = {"passed": "ok", "failed": "bad", "error": "bad", "skipped": "plain"}


def page_of(found: Mapping[str, Any]) -> str:
    """The page of what ``atdm_services.coverage.report.coverage`` returns; equal input gives an
    equal page.
    """
    template, style, digest = page_parts(Path(__file__).parent)
    tests = found["tests"]
    # Only the style sheet is not escaped; the policy allows it by its hash.
    return template.render(
        found=found,
        headline=headline(found["summary"]),
        lists=[
            ("failing", "Failing tests", [one for one in tests if _is_bad(one)]),
            ("flaky", "Flaky tests", [one for one in tests if one["flaky"]]),
        ],
        tests=tests,
        most=MOST_TESTS,
        tones=_TONES,
        outcomes=_OUTCOMES,
        words=words,
        counts=counts,
        style=Markup(style),
        style_hash=digest,
    )


def _is_bad(test: Mapping[str, Any]) -> bool:
    return _OUTCOMES[test["outcome"]] == "bad"
