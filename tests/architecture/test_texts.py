"""What no text may hold: emoji, addresses of registries, paths of a machine (A-QLT-06)."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.support.source import FLOORS, ROOT, modules, project_files, string_literals, text_files

EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf\U0001f1e6-\U0001f1ff]")


def test_no_emoji() -> None:
    assert EMOJI.search("\U0001f600")
    assert [str(path) for path, text in text_files() if EMOJI.search(text)] == []


def test_lock_and_configuration_name_no_registry_host() -> None:
    names = (
        "requirements.lock",
        "pyproject.toml",
        "Makefile",
        "uv.toml",
        "pip.conf",
        ".npmrc",
        "run",
    )
    address = re.compile(r"https?://|--(extra-)?index-url|files\.pythonhosted|pypi\.org")
    found = [
        f"{path}: {line}"
        for path, text in text_files()
        if path.name in names or path.name.endswith("lock.json")
        for line in text.splitlines()
        if address.search(line)
    ]
    assert found == []


def test_the_lock_pins_every_requirement_by_hash() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^[a-z0-9][^ \n]*==[^ \n]+", text, re.MULTILINE)
    assert len(pins) > 100
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)
    unhashed = [
        block.split()[0] for block in blocks if "==" in block and "--hash=sha256:" not in block
    ]
    assert unhashed == []


def test_no_path_of_a_machine() -> None:
    home = str(Path.home())
    needles = [str(ROOT), home + "/" if len(home) > 2 else "\0"]
    assert [str(p) for p, text in text_files() for needle in needles if needle in text] == []


def test_nothing_generated_is_committed() -> None:
    generated = {".parquet", ".pyc", ".log", ".pid", ".db", ".sqlite"}
    assert [str(path) for path in project_files() if path.suffix in generated] == []


def test_no_large_files() -> None:
    limit = 1024 * 1024
    assert [str(path) for path in project_files() if (ROOT / path).stat().st_size > limit] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 400


def test_code_names_no_domain() -> None:
    """A domain is data: no engine, resource or asset code may know one by name."""
    domains = [path.parent.name for path in (ROOT / "scenarios").glob("*/domain.yaml")]
    assert domains
    ordinary = {"plan", "provider", "claim"}  # a request is planned, an answer claimed
    tables = {path.stem for path in (ROOT / "scenarios").glob("*/tables/*.yaml")} - ordinary
    words = re.compile(rf"\b({'|'.join(sorted({*domains, *tables}))})\b")
    found = [
        f"{path}:{line}: {text[:60]!r}"
        for path, tree in modules(*(floor for floor in FLOORS if floor != "atdm"))
        for line, text in string_literals(tree)
        if words.search(text)
    ]
    assert found == []


def test_workflows_and_hooks_are_valid_yaml_and_run_what_the_readme_says() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    runs = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert "bash .ci/run" in runs
    assert "make demo" in runs
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "make lint" in script
    assert "make test" in script
