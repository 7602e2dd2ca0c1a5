"""The audit page as HTML: one file without scripts and without network access.

Needs jinja2, of the extra ``server``.
"""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from atdm.web.audit.facts import Facts
from atdm.web.audit.view import Limits, view_of
from atdm.web.html_page import page_parts

LARGEST = 96_000
"""Largest page in bytes: under 100 KB for any trail."""


def page_of(facts: Facts) -> str:
    """The page; equal facts give equal pages.

    Where long texts would make it larger than ``LARGEST``, lists are shorter and say how many more
    entries there are.
    """
    limits = Limits()
    while True:
        html = _rendered(facts, limits)
        smaller = limits.cut()
        if len(html.encode()) <= LARGEST or smaller == limits:
            return html
        limits = smaller


def _rendered(facts: Facts, limits: Limits) -> str:
    template, style, digest = page_parts(Path(__file__).parent)
    # Only the style sheet is not escaped; the policy allows it by its hash.
    html = template.render(view=view_of(facts, limits), style=Markup(style), style_hash=digest)
    return "\n".join(line for line in map(str.rstrip, html.splitlines()) if line) + "\n"
