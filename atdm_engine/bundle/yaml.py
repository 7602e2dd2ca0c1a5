"""YAML text to plain data, with the line of every key and item."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.resolver import BaseResolver

from atdm_engine.values.scalars import key_text

MAX_CHARACTERS = 512 * 1024
MAX_NODES = 200_000
MAX_DEPTH = 100

Path = tuple[str, ...]
"""A place in a document: keys and list positions, all as text."""

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)\Z")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*)?\.[0-9]+([eE][-+]?[0-9]+)?\Z|[-+]?[0-9]+[eE][-+]?[0-9]+\Z"
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
_TIMESTAMP = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?\s*(Z|[+-]\d{2}:?\d{2})?\Z", re.ASCII
)
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}


class YamlProblem(ValueError):  # noqa: N818 - a problem of the text, not of the program
    """Why a text is no usable YAML document; ``line`` counts from 1."""

    def __init__(self, line: int, key: str, found: str, allowed: str) -> None:
        super().__init__(f"line {line}: {key}: found {found}; allowed: {allowed}")
        self.line = line
        self.key = key
        self.found = found
        self.allowed = allowed


@dataclass
class YamlDocument:
    """The data of a document, and the line of each of its parts."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of ``path``, or of the nearest part above it that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 0


def read_yaml(text: str) -> YamlDocument:
    """Read one document. YamlProblem for the first thing that makes it unreadable.

    Scalars are read as YAML 1.2 does: ``no`` and ``00000`` are texts. Duplicate keys, tags and
    several documents are refused; anchors, aliases and ``<<`` are fine.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlProblem(1, "(file)", f"{len(text):,} characters", f"at most {MAX_CHARACTERS:,}")
    document = YamlDocument(None, {(): 1})
    try:
        node = _Composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        repeated = error.problem == "second occurrence"
        words = str(error.context if repeated else error.problem or error.context)
        problem, allowed = words.removeprefix("but ").removeprefix("found "), "YAML"
        if "\t" in _indentation(text, line):
            problem, allowed = "a tab at the start of the line", "spaces for indentation"
        raise YamlProblem(line, "(file)", problem, allowed) from error
    except yaml.YAMLError as error:
        position = int(getattr(error, "position", 0) or 0)
        line = text[:position].count("\n") + 1
        found = str(error).splitlines()[0]
        raise YamlProblem(line, "(file)", found, "YAML text in UTF-8") from error
    except UnicodeEncodeError as error:
        line = text[: error.start].count("\n") + 1
        raise YamlProblem(line, "(file)", "half of a surrogate pair", "text in UTF-8") from error
    if node is not None:
        document.data = _Constructor(document.lines).value(node, ())
    return document


def _indentation(text: str, line: int) -> str:
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else ""
    return written[: len(written) - len(written.lstrip())]


class _Composer(Composer, BaseResolver):
    """PyYAML's composer with a limit of depth, because it recurses."""

    def __init__(self, text: str) -> None:
        Composer.__init__(self)
        BaseResolver.__init__(self)
        events = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        self.check_event = events.check_event
        self.peek_event = events.peek_event
        self.get_event = events.get_event
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.depth > MAX_DEPTH:
            raise _too_deep(self.peek_event().start_mark.line + 1)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_PLAIN = "plain"
"""The tag of a scalar without quotes and tag: its type follows from its text."""
_TAGS = {_PLAIN, "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}
_Composer.add_implicit_resolver(_PLAIN, re.compile(""), None)


def _too_deep(line: int) -> YamlProblem:
    allowed = "fewer levels of nesting, and no alias inside of its own anchor"
    return YamlProblem(line, "(file)", f"more than {MAX_DEPTH} levels", allowed)


@dataclass
class _Constructor:
    """Makes data of nodes and notes the line of every key and item in ``lines``.

    PyYAML's own constructor lets duplicate keys overwrite each other and keeps no lines.
    """

    lines: dict[Path, int]
    values: int = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        """The data of ``node``, which stands at ``path``; an alias is read wherever it stands."""
        line = _line(node)
        self.values += 1
        if self.values > MAX_NODES:
            raise YamlProblem(line, "(file)", f"more than {MAX_NODES:,} values", "fewer values")
        if len(path) > MAX_DEPTH:
            raise _too_deep(line)
        if node.tag not in _TAGS:
            raise YamlProblem(line, "(file)", f"the tag {node.tag}", "no tags")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            places = [(*path, str(position)) for position in range(len(node.value))]
            self.lines.update(zip(places, map(_line, node.value), strict=True))
            return [self.value(*part) for part in zip(node.value, places, strict=True)]
        return _scalar(node.value) if node.tag == _PLAIN else node.value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: list[Any] = []
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                where = ".".join(path) or "(file)"
                raise YamlProblem(line, where, "a mapping or list as a key", "a plain key")
            key = self.value(key_node, path)
            place = (*path, key_text(key))
            # The second test is for 1 and true, which are one key to Python.
            if place in self.lines or key in found:
                first = self.lines.get(place, line)
                was = f"the key a second time (first on line {first})"
                raise YamlProblem(line, ".".join(place), was, "each key once")
            self.lines[place] = line
            value = self.value(value_node, place)
            if key == "<<":
                merged = value if isinstance(value, list) else [value]
            else:
                found[key] = value
        for part in merged:
            if not isinstance(part, dict):
                where = ".".join((*path, "<<"))
                raise YamlProblem(_line(node), where, "no mapping", "an aliased mapping")
            found |= {key: value for key, value in part.items() if key not in found}
        return found


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _scalar(text: str) -> Any:
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if _INTEGER.match(text) and len(text) <= 20:
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    try:
        if _DATE.match(text):
            return date.fromisoformat(text)
        if _TIMESTAMP.match(text):
            instant = datetime.fromisoformat(re.sub(r"\s+(?=[Z+-])", "", text.upper()))
            return instant.astimezone(UTC) if instant.tzinfo else instant
    except ValueError:
        # 2026-02-31 looks like a date but is none: it stays the text that was written.
        return text
    return text
