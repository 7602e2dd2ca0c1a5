"""The documents hold together: links lead somewhere, decisions are indexed, commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.architecture.source import ROOT, project_files

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
DECISIONS = ROOT / "docs" / "adr"


def documents() -> list[Path]:
    return [path for path in project_files() if path.suffix == ".md"]


def test_every_link_leads_somewhere() -> None:
    broken = []
    for path in documents():
        for target in LINK.findall((ROOT / path).read_text(encoding="utf-8")):
            if "://" in target or target.startswith("mailto:"):
                continue
            if not (ROOT / path.parent / target).exists():
                broken.append(f"{path}: {target}")
    assert broken == []


def test_every_decision_has_its_form_and_stands_in_the_index() -> None:
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    pages = sorted(DECISIONS.glob("[0-9]*.md"))
    numbers = [page.name[:4] for page in pages]
    assert len(set(numbers)) == len(numbers), "two decisions share a number"
    wanted = (
        "- Status: ",
        "- Date: ",
        "## Context",
        "## Considered options",
        "## Decision outcome",
    )
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {page.name[:4] if page.name[:4] != '0000' else 'NNNN'} "), page
        assert [part for part in wanted if part not in text] == [], page
        assert page.name[:4] == "0000" or f"({page.name})" in index, f"{page.name} is not indexed"


def test_every_command_that_the_documents_name_exists() -> None:
    overview = subprocess.run(
        [Path(sys.executable).with_name("atdm"), "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    ).stdout
    known = set(re.findall(r"^│ ([a-z][a-z-]+)  ", overview, re.MULTILINE))
    assert {"init", "request", "reset", "audit"} <= known
    named = {
        (str(path), command)
        for path in documents()
        for command in re.findall(
            r"(?:^\$ |`)atdm (?:-o json )?([a-z][a-z-]+)",
            (ROOT / path).read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    assert len(named) > 10
    assert sorted((path, command) for path, command in named if command not in known) == []


def test_every_make_target_that_the_documents_name_exists() -> None:
    targets = set(
        re.findall(
            r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    named = {
        (str(path), target)
        for path in documents()
        for target in re.findall(
            r"(?:^\$ |`)make ([a-z-]+)", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert ("README.md", "demo") in named
    assert sorted((path, target) for path, target in named if target not in targets) == []
