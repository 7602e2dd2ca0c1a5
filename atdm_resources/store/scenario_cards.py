"""A cache of the cards of all scenarios, in ATDM_HOME, so that lists parse no file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from atdm_engine import ENGINE_VERSION
from atdm_engine.bundle.cards import Card, from_json
from atdm_engine.values.scalars import scalar_json
from atdm_resources.store import bundle

if TYPE_CHECKING:
    from atdm_engine.bundle.registry import Registry
    from atdm_resources.settings import Settings

FORMAT = 2
"""Changes with the fields of a card."""


def scenario_cards(settings: Settings, load: Callable[[], Registry]) -> list[Card]:
    """The cards of every scenario; from the cache if no specification file has changed.

    ``load`` reads the files; its SpecError is raised here. If the folder cannot be written, nothing
    is cached.
    """
    roots = (bundle.shipped_root(), *settings.scenario_path)
    state = fingerprint(roots)
    path = settings.home / "cache" / "scenarios.json"
    kept = _read(path, state)
    if kept is not None:
        return kept
    cards = load().cards()
    if state is not None:
        _write(path, state, cards)
    return cards


def fingerprint(roots: tuple[Path, ...]) -> str | None:
    """A hash over path, size and time of change of all files; None if one is missing."""
    digest = hashlib.sha256(f"{FORMAT} {ENGINE_VERSION}".encode())
    try:
        for root in roots:
            digest.update(f"\n{root}".encode())
            for path in bundle.spec_paths(root):
                stat = path.stat()
                digest.update(f"\n{path} {stat.st_size} {stat.st_mtime_ns}".encode())
    except OSError:
        return None
    return digest.hexdigest()


def _read(path: Path, state: str | None) -> list[Card] | None:
    """The cached cards; None if there are none, or none that are valid."""
    try:
        kept = json.loads(path.read_bytes())
        if state is None or kept["state"] != state:
            return None
        return [from_json(card) for card in kept["cards"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(path: Path, state: str, cards: list[Card]) -> None:
    kept = {"state": state, "cards": [asdict(card) for card in cards]}
    text = json.dumps(kept, default=scalar_json)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except OSError:
        # The cache only saves time: commands that need a writable home report it.
        with suppress(OSError):
            staged.unlink()
