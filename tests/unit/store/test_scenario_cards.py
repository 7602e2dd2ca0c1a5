"""Cards of scenarios: written and read back, kept while no file changes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from atdm_engine.bundle.cards import from_json
from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.search import search
from atdm_engine.errors import SpecError
from atdm_engine.values.scalars import scalar_json
from atdm_resources.settings import Settings
from atdm_resources.store.bundle import load_registry
from atdm_resources.store.scenario_cards import scenario_cards

LOOSE = """scenario_id: mine
description: {text}
default_constraints: {{}}
rows: {{plan: 1}}
linked_requirement_ids: []
validators: []
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.yaml").write_text(LOOSE.format(text="First."), encoding="utf-8")
    environment = {"ATDM_HOME": str(tmp_path / "home"), "ATDM_SCENARIO_PATH": str(own)}
    return Settings.from_environment(environment)


def loader(settings: Settings) -> tuple[Callable[[], Registry], list[int]]:
    calls: list[int] = []

    def load() -> Registry:
        calls.append(1)
        return load_registry(settings)

    return load, calls


def test_cards_come_back_from_json(registry: Registry) -> None:
    for card in registry.cards():
        assert from_json(json.loads(json.dumps(asdict(card), default=scalar_json))) == card


def test_kept_cards_are_found_alike(settings: Settings) -> None:
    load, calls = loader(settings)
    first, second = scenario_cards(settings, load), scenario_cards(settings, load)
    assert len(calls) == 1
    assert second == first
    for words in (["denied", "claim"], [], ["nothing-like-it"]):
        assert search(second, words, {}) == search(first, words, {})
    assert search(second, [], {"claim_status": "denied"}) == search(
        first, [], {"claim_status": "denied"}
    )


def test_a_changed_new_or_missing_file_is_seen(settings: Settings) -> None:
    load, calls = loader(settings)
    scenario_cards(settings, load)
    (own,) = settings.scenario_path
    (own / "mine.yaml").write_text(LOOSE.format(text="Second."), encoding="utf-8")
    assert "Second." in {card.description for card in scenario_cards(settings, load)}
    other = LOOSE.format(text="Third.").replace("mine", "other")
    (own / "other.yaml").write_text(other, encoding="utf-8")
    assert "other" in {card.name for card in scenario_cards(settings, load)}
    (own / "mine.yaml").unlink()
    assert "mine" not in {card.name for card in scenario_cards(settings, load)}
    assert len(calls) == 4


@pytest.mark.parametrize("damage", [b"", b"null", b"[]", b"{}", b'{"state": 1}', b"\xff\xfe"])
def test_damaged_cards_are_made_again(settings: Settings, damage: bytes) -> None:
    load, calls = loader(settings)
    whole = scenario_cards(settings, load)
    kept = settings.home / "cache" / "scenarios.json"
    kept.write_bytes(damage)
    assert scenario_cards(settings, load) == whole
    assert json.loads(kept.read_bytes())["cards"]
    assert len(calls) == 2


def test_a_home_that_cannot_be_written_only_keeps_nothing(settings: Settings) -> None:
    settings.home.parent.mkdir(exist_ok=True)
    settings.home.write_text("a file where the home should be", encoding="utf-8")
    load, calls = loader(settings)
    assert scenario_cards(settings, load) == scenario_cards(settings, load)
    assert len(calls) == 2


def test_problems_of_the_files_are_reported_and_not_kept(settings: Settings) -> None:
    (own,) = settings.scenario_path
    (own / "mine.yaml").write_text("scenario_id: [", encoding="utf-8")
    load, _ = loader(settings)
    for _ in range(2):
        with pytest.raises(SpecError):
            scenario_cards(settings, load)


def test_a_folder_that_is_missing_is_reported(settings: Settings) -> None:
    (own,) = settings.scenario_path
    os.rename(own, own.with_name("gone"))
    load, _ = loader(settings)
    with pytest.raises(SpecError, match="own"):
        scenario_cards(settings, load)
