"""What pages that are written to one file share: their template, their style, its hash.

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

    Everything a template prints is escaped. The hash, base64 of sha256, is for the page's policy,
    which lets in this style and nothing else: the style has to stand in its element as it is here.
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
