"""A specification file: its text, its model, and the line of each key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pydantic import ValidationError

from atdm_engine.bundle.model_errors import describe, model_problems
from atdm_engine.bundle.yaml import YamlDocument, YamlProblem, read_yaml
from atdm_engine.errors import Problem, SpecError, nearest_spelling
from atdm_engine.values.fields import SpecModel
from atdm_engine.values.scalars import key_text

Model = TypeVar("Model", bound=SpecModel)


@dataclass(frozen=True)
class SpecFile:
    """A file of a bundle: ``path`` as it is shown, ``name`` relative to its root, posix style."""

    path: str
    name: str
    text: str


@dataclass(frozen=True)
class ParsedFile(Generic[Model]):
    """The model of a file, and the lines of its keys.

    Paths of problems start at ``base``; ``at`` gives the same file with a longer ``base``.
    """

    file: str
    model: Model
    document: YamlDocument
    base: tuple[object, ...] = ()

    def at(self, *path: object) -> ParsedFile[Model]:
        """The same file for problems below ``path``."""
        return replace(self, base=(*self.base, *path))

    def problem(
        self, path: Sequence[object], found: str, allowed: str, known: Sequence[str] = ()
    ) -> Problem:
        """A problem at ``path``; the nearest spelling comes from ``known``."""
        place = tuple(key_text(part) for part in (*self.base, *path))
        nearest = nearest_spelling(found.strip("'"), known) if known else None
        key = ".".join(place) or "(file)"
        return Problem(self.file, self.document.line(place), key, found, allowed, nearest)

    def unknown(
        self, path: Sequence[object], word: str, meaning: str, known: Iterable[str]
    ) -> Problem:
        """The problem that ``word`` is not one of ``known``; ``meaning`` says what these are."""
        words = list(known)
        allowed = f"{meaning}: {', '.join(words) or 'there is none'}"
        return self.problem(path, repr(word), allowed, words)


def parse_file(model: type[Model], text: str, file: str) -> ParsedFile[Model]:
    """Read ``text`` as ``model``; ``file`` is named in problems.

    Raises SpecError with every problem of the file that needs no other file to be found.
    """
    try:
        document = read_yaml(text)
    except YamlProblem as error:
        problem = Problem(file, error.line, error.key, error.found, error.allowed)
        raise SpecError([problem]) from error
    needed = ", ".join(
        info.alias or name for name, info in model.model_fields.items() if info.is_required()
    )
    if not isinstance(document.data, dict) and not (document.data is None and not needed):
        found = "an empty file" if document.data is None else describe(document.data)
        allowed = "a mapping (key: value)" + (f" with {needed}" if needed else "")
        raise SpecError([Problem(file, 1, "(file)", found, allowed)])
    try:
        return ParsedFile(file, model.model_validate(document.data or {}), document)
    except ValidationError as error:
        raise SpecError(model_problems(model, document, file, error)) from error


def parse_or_report(
    model: type[Model], file: SpecFile, problems: list[Problem]
) -> ParsedFile[Model] | None:
    """The parsed file; None if it has problems, which are added to ``problems``."""
    try:
        return parse_file(model, file.text, file.path)
    except SpecError as error:
        problems.extend(error.problems)
        return None
