"""The audit page as HTML: one file that asks nothing of the network and runs no script.

Needs jinja2, of the extra ``server``.
"""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from atdm.web.audit.facts import Facts
from atdm.web.audit.view import Limits, view_of
from atdm.web.html_page import page_parts

LARGEST = 96_000
"""Bytes of a page: under 100 KB, whatever the trail holds."""


def page_of(facts: Facts) -> str:
    """The page; equal facts give equal pages.

    Where long texts would make it larger than ``LARGEST``, it shows fewer of everything and says
    how many more there are.
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
    # The only thing that is not escaped is our own style sheet, which its hash lets through.
    html = template.render(view=view_of(facts, limits), style=Markup(style), style_hash=digest)
    return "\n".join(line for line in map(str.rstrip, html.splitlines()) if line) + "\n"
