"""YAML text to plain data, with the line of every key and item."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import yaml

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


class YamlProblem(ValueError):  # noqa: N818 - what is wrong with a text somebody wrote
    """Why a text is no usable YAML document; ``line`` counts from 1."""

    def __init__(self, line: int, key: str, found: str, allowed: str) -> None:
        super().__init__(f"line {line}: {key}: found {found}; allowed: {allowed}")
        self.line = line
        self.key = key
        self.found = found
        self.allowed = allowed


@dataclass
class YamlDocument:
    """A document's data and where its parts stand."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of ``path``, or of the nearest part above it that is there."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 0


@dataclass
class _Open:
    """A mapping or list whose end has not been seen yet."""

    value: Any
    path: Path
    anchor: str | None
    line: int
    key: Any = None
    has_key: bool = False
    merges: list[Any] = field(default_factory=list)
    size: int = 1


def read_yaml(text: str) -> YamlDocument:
    """Read one document. YamlProblem for the first thing that makes it unreadable.

    Scalars are read as YAML 1.2 does: ``no`` and ``00000`` are texts. Duplicate keys, tags and
    several documents are refused; anchors, aliases and ``<<`` are fine.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlProblem(1, "(file)", f"{len(text):,} characters", f"at most {MAX_CHARACTERS:,}")
    try:
        return _Composer().compose(_events(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem, allowed = str(error.problem or error.context).removeprefix("found "), "YAML"
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


def _indentation(text: str, line: int) -> str:
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else ""
    return written[: len(written) - len(written.lstrip())]


def _events(text: str) -> Iterator[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    yield from yaml.parse(text, Loader=loader)


class _Composer:
    # Built from events and a stack of its own: PyYAML's composer recurses (a file of 100,000
    # brackets would end the process) and lets duplicate keys overwrite each other.
    def __init__(self) -> None:
        self.document = YamlDocument(None, {(): 1})
        self.stack: list[_Open] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.nodes = 0
        self.seen = False

    def compose(self, events: Iterator[Any]) -> YamlDocument:
        documents = 0
        for event in events:
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise YamlProblem(line, "(file)", "a second document", "one document a file")
            elif isinstance(event, yaml.ScalarEvent):
                self._refuse_tag(event, line)
                value = event.value if event.tag or not event.implicit[0] else _scalar(event.value)
                if event.anchor:
                    self.anchors[event.anchor] = (value, 1)
                self._add(value, line, 1)
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in self.anchors:
                    raise YamlProblem(line, "(file)", f"*{event.anchor}", "an anchor set before")
                value, size = self.anchors[event.anchor]
                self._add(value, line, size)
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                self._refuse_tag(event, line)
                container: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                if len(self.stack) >= MAX_DEPTH:
                    raise YamlProblem(
                        line, "(file)", f"more than {MAX_DEPTH} levels", "fewer levels of nesting"
                    )
                self.stack.append(_Open(container, self._place(line), event.anchor, line))
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                self._close(self.stack.pop())
        return self.document

    def _refuse_tag(self, event: Any, line: int) -> None:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise YamlProblem(line, "(file)", f"the tag {event.tag}", "no tags")

    def _place(self, line: int) -> Path:
        """The path at which the next value stands."""
        if not self.stack:
            return ()
        top = self.stack[-1]
        part = str(len(top.value)) if isinstance(top.value, list) else key_text(top.key)
        path = (*top.path, part)
        if isinstance(top.value, list):
            self.document.lines[path] = line
        return path

    def _close(self, done: _Open) -> None:
        for merged in done.merges:
            for key, value in merged.items():
                done.value.setdefault(key, value)
        if done.anchor:
            self.anchors[done.anchor] = (done.value, done.size)
        self._add(done.value, done.line, done.size)

    def _add(self, value: Any, line: int, size: int) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            raise YamlProblem(line, "(file)", f"more than {MAX_NODES:,} values", "fewer values")
        if not self.stack:
            self.document.data = value
            return
        top = self.stack[-1]
        top.size += size
        if isinstance(top.value, list):
            self._place(line)
            top.value.append(value)
        elif not top.has_key:
            self._take_key(top, value, line)
        else:
            top.has_key = False
            if top.key == "<<":
                self._take_merge(top, value, line)
            else:
                top.value[top.key] = value

    def _take_key(self, top: _Open, key: Any, line: int) -> None:
        where = ".".join(top.path) or "(file)"
        if isinstance(key, dict | list):
            raise YamlProblem(line, where, "a mapping or list as a key", "a plain key")
        path = (*top.path, key_text(key))
        # The second test is for 1 and true, which are one key to Python.
        if path in self.document.lines or key in top.value:
            first = self.document.line(path)
            found = f"the key a second time (first on line {first})"
            raise YamlProblem(line, ".".join(path), found, "each key once")
        self.document.lines[path] = line
        top.key, top.has_key = key, True

    def _take_merge(self, top: _Open, value: Any, line: int) -> None:
        merged = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in merged):
            raise YamlProblem(line, ".".join((*top.path, "<<")), "no mapping", "an aliased mapping")
        top.merges.extend(merged)


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
