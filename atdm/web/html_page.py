"""Template, style and style hash of pages that are one HTML file.

Needs jinja2, of the extra ``server``.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


@cache
def page_parts(folder: Path) -> tuple[Template, str, str]:
    """The template ``page.html.jinja`` of a folder, its ``page.css``, and the style's hash.

    The template escapes everything it prints. The hash (base64 of sha256) is for the page's content
    security policy, which allows this style only: the element must hold the style unchanged.
    """
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    lines = (folder / "page.css").read_text(encoding="utf-8").splitlines()
    style = "\n" + "\n".join(line.rstrip() for line in lines if line.strip()) + "\n"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("page.html.jinja"), style, digest
