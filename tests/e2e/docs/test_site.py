"""The documentation site builds without a warning and fetches nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.commands import commands
from tests.support.source import ROOT


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    made = (tmp_path / "reference" / "cli.html").read_text(encoding="utf-8")
    assert all(f"atdm {name}" in made for name in commands() if name)
    assert "claim_denial_active_member" in (tmp_path / "reference" / "healthcare.html").read_text()
    pages = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")]
    foreign = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?://(?!docs\.)")
    assert [page[:80] for page in pages if foreign.search(page)] == []
