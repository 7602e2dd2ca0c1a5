"""The cards of all scenarios, kept beside the home so that looking one up parses no file."""

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
"""Changes when a card says more or other things."""


def scenario_cards(settings: Settings, load: Callable[[], Registry]) -> list[Card]:
    """The cards of every scenario, the kept ones while no specification file has changed.

    ``load`` reads the files; what it raises (SpecError) is raised here. A folder that cannot be
    written only means that nothing is kept.
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
    """What identifies the files by place, size and time of change; None when one is missing."""
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
    """The kept cards; None when there are none that hold, whatever the reason."""
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
        # Kept cards only save time: a home that cannot be written is reported by what needs it.
        with suppress(OSError):
            staged.unlink()
