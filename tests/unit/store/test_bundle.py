"""Reading specification files: which count, what they are called, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from atdm_engine.errors import SpecError
from atdm_resources.settings import Settings
from atdm_resources.store.bundle import load_registry, read_bundle, shipped_root


def test_the_shipped_files_are_found_and_make_a_registry(tmp_path: Path) -> None:
    names = {file.name for file in read_bundle([shipped_root()])}
    assert {"atdm.yaml", "healthcare/domain.yaml", "healthcare/tables/claim.yaml"} <= names
    registry = load_registry(Settings.from_environment({"ATDM_HOME": str(tmp_path)}))
    assert registry.default_domain == "healthcare"


def test_a_loose_scenario_file_and_a_folder_of_them(tmp_path: Path) -> None:
    text = (
        "scenario_id: mine\nlinked_requirement_ids: []\n"
        "generators: [generate_plan, generate_provider, generate_member]\n"
    )
    (tmp_path / "mine.yaml").write_text("\ufeff" + text)
    for given in (tmp_path, tmp_path / "mine.yaml"):
        settings = Settings.from_environment({"ATDM_SCENARIO_PATH": str(given)})
        assert load_registry(settings).scenario("mine").key == "healthcare/mine"


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in (".hidden.yaml", ".git/x.yaml", "a.py", "b.yaml~", "c/d.sql"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    assert [file.name for file in read_bundle([tmp_path])] == ["c/d.sql"]


def test_every_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"description: caf\xe9\n")
    with pytest.raises(SpecError) as caught:
        read_bundle([tmp_path / "nowhere", tmp_path])
    files = [problem.file for problem in caught.value.problems]
    assert files == [str(tmp_path / "nowhere"), str(tmp_path / "latin.yaml")]
