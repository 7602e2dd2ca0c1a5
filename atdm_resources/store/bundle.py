"""Specification files on disk, read into the registry."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from atdm_engine.errors import Problem, SpecError
from atdm_resources.settings import Settings

if TYPE_CHECKING:
    from atdm_engine.bundle.registry import Registry
    from atdm_engine.bundle.spec_file import SpecFile

SUFFIXES = frozenset({".yaml", ".yml", ".sql", ".csv", ".txt"})
"""Scenarios, tables and domains; rules; reference rows; vocabularies."""


def shipped_root() -> Path:
    """The folder of the specification files that come with ATDM.

    Inside an installed package they lie beside the engine, in a working copy at its root.
    """
    import atdm_engine

    package = Path(atdm_engine.__file__).parent
    installed = package / "shipped_scenarios"
    return installed if installed.is_dir() else package.parent / "scenarios"


def read_bundle(paths: Iterable[Path]) -> list[SpecFile]:
    """Every specification file under ``paths``, folder by folder, sorted by name.

    A path is a folder laid out like ``scenarios/``, a folder of loose scenario files, or one file.
    Hidden files and folders are ignored.

    Raises:
        SpecError: every path that is missing or unreadable, every file that is not UTF-8.
    """
    from atdm_engine.bundle.spec_file import SpecFile

    files: list[SpecFile] = []
    problems: list[Problem] = []
    for root in paths:
        if not root.exists():
            problems.append(Problem(str(root), 0, "path", "nothing", "a folder or a file"))
            continue
        for path in spec_paths(root):
            name = path.name if root.is_file() else path.relative_to(root).as_posix()
            try:
                # utf-8-sig: editors on some systems put a byte order mark in front.
                text = path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                problems.append(Problem(_display(path), 0, "file", str(error), "UTF-8 text"))
                continue
            files.append(SpecFile(path=_display(path), name=name, text=text))
    if problems:
        raise SpecError(problems)
    return files


def load_registry(settings: Settings) -> Registry:
    """The registry of the shipped files and of those under ATDM_SCENARIO_PATH.

    Raises:
        SpecError: every problem in every file.
    """
    from atdm_engine.bundle.registry import Registry

    return Registry.build(read_bundle((shipped_root(), *settings.scenario_path)))


def spec_paths(root: Path) -> list[Path]:
    """The specification files of a folder (or the one file), sorted."""
    if root.is_file():
        return [root]
    found = []
    for path in root.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and path.suffix in SUFFIXES and path.is_file():
            found.append(path)
    return sorted(found)


def _display(path: Path) -> str:
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)
