"""The documents hold together: links lead somewhere, decisions are indexed, commands exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import yaml

from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_resources.store.bundle import read_bundle, shipped_root
from tests.support.commands import command_options, commands
from tests.support.named_code import (
    index_rows,
    missing_modules,
    missing_paths,
    missing_symbols,
)
from tests.support.source import FLOORS, ROOT, project_files

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
            made = path.parent == Path("docs") and target.startswith("reference/")
            # The build of the site looks at those pages that it makes.
            if not made and not (ROOT / path.parent / target).exists():
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


def blocks(language: str) -> list[tuple[str, str]]:
    """The code blocks of one language: page and text."""
    fence = re.compile(rf"^( *)```{language}\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    return [
        (str(path), textwrap.dedent(text))
        for path in documents()
        for _, text in fence.findall((ROOT / path).read_text(encoding="utf-8"))
    ]


def test_scenarios_in_the_documents_are_valid() -> None:
    shipped = read_bundle([shipped_root()])
    found = [(page, text) for page, text in blocks("yaml") if text.startswith("scenario_id:")]
    assert {page for page, _ in found} >= {"docs/scenario-authoring.md", "docs/tutorial.md"}
    for page, text in found:
        name = yaml.safe_load(text)["scenario_id"]
        others = [file for file in shipped if not file.name.endswith(f"/{name}.yaml")]
        registry = Registry.build([*others, SpecFile(page, f"healthcare/{name}.yaml", text)])
        assert registry.scenario(name).tables, page


def test_code_in_the_documents_can_be_read() -> None:
    python, json_texts, yaml_texts = blocks("python"), blocks("json"), blocks("yaml")
    assert python
    assert yaml_texts
    for page, text in python:
        compile(text, page, "exec")
    for _, text in json_texts:
        json.loads(text)
    for _, text in yaml_texts:
        assert list(yaml.safe_load_all(text))


def test_options_that_the_documents_name_exist() -> None:
    known = command_options()
    missing = []
    for page, text in blocks("console"):
        for line in re.findall(r"^\$ (?:\w+=\S+ )*(atdm .*)$", text, re.MULTILINE):
            words = shlex.split(line, comments=True)
            path = [word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]
            options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            command = next((" ".join(path[:n]) for n in (2, 1) if " ".join(path[:n]) in known), "")
            unknown = options - known[command] - known[""]
            missing += [f"{page}: {line}: {option}" for option in sorted(unknown)]
    assert missing == []


def command_help() -> dict[str, str]:
    """The help texts of the commands that do something."""
    return {
        name: command.help or ""
        for name, command in commands().items()
        if not hasattr(command, "commands")
    }


def test_every_command_has_an_example_that_works() -> None:
    known = command_options()
    for name, text in command_help().items():
        examples = re.findall(rf"\batdm (?:-o json )?({re.escape(name)}\b[^\"\n]*)", text)
        assert examples, f"atdm {name} --help shows no example"
        for example in examples:
            options = set(re.findall(r"(?<= )--?[a-z][a-z-]*", example))
            assert options <= known[name] | known[""], example


GUIDES = ("docs/architecture.md", "docs/development.md", "AGENTS.md")
"""What leads a developer to the code."""


def test_paths_and_modules_that_the_documents_name_exist() -> None:
    texts = {str(path): (ROOT / path).read_text(encoding="utf-8") for path in documents()}
    assert set(GUIDES) <= set(texts)
    missing = [
        f"{path}: {name}"
        for path, text in texts.items()
        for name in (*missing_paths(text), *missing_modules(text))
    ]
    assert missing == []


def test_the_check_of_names_finds_what_is_missing() -> None:
    text = "`atdm/nowhere.py` and `docs/` and `atdm_engine.errors.AtdmError` and `atdm.cli.x`"
    assert missing_paths(text) == ["atdm/nowhere.py"]
    assert missing_modules(text) == ["atdm.cli.x"]
    row = "| errors | `atdm_engine/errors.py` | `AtdmError`, `Nothing` |"
    assert missing_symbols(row) == ["atdm_engine/errors.py: Nothing"]
    assert missing_symbols("`AtdmError` of `atdm_engine/errors.py`, `X` in `atdm/none.py`") == [
        "atdm/none.py: X"
    ]


def test_symbols_that_the_guides_name_exist() -> None:
    texts = {guide: (ROOT / guide).read_text(encoding="utf-8") for guide in GUIDES}
    assert len(index_rows(texts["docs/architecture.md"])) > 30
    assert {guide: found for guide, text in texts.items() if (found := missing_symbols(text))} == {}


def test_every_room_stands_in_the_table_of_rooms() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = {
        "/".join(path.parts[:2])
        for path in project_files()
        if path.parts[0] in FLOORS and len(path.parts) > 2
    }
    assert sorted(room for room in rooms if f"| `{room}` |" not in text) == []
