"""What a shell offers for a word of a command that is half typed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_SCHEMAS = ("dataset", "domain", "scenario", "table")
_NOT_SCENARIOS = frozenset({"atdm", "domain"})


def scenario_names(incomplete: str) -> list[str]:
    """Scenarios of the shipped and of the user's own folders: ``name``, or ``domain/name`` once a
    slash is typed.
    """
    from atdm_resources.settings import Settings
    from atdm_resources.store.bundle import shipped_root

    found = set()
    for root in (shipped_root(), *Settings.from_environment().scenario_path):
        for path in _scenario_files(root):
            found.add(path.stem)
            if path.parent != root:
                found.add(f"{path.parent.name}/{path.stem}")
    if "/" not in incomplete:
        found = {name for name in found if "/" not in name}
    return sorted(name for name in found if name.startswith(incomplete))


def _scenario_files(root: Path) -> Iterator[Path]:
    """Files that hold a scenario by where they lie: loose, or right below their domain."""
    for pattern in ("*.y*ml", "*/*.y*ml"):
        for path in root.glob(pattern):
            if path.stem not in _NOT_SCENARIOS:
                yield path


def schema_kinds(incomplete: str) -> list[str]:
    """Kinds of specification files."""
    return [kind for kind in _SCHEMAS if kind.startswith(incomplete)]
