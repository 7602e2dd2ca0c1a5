"""Paths, modules and symbols that a document names, and which of them do not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.source import FLOORS, ROOT, project_files

_SPAN = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"\.?[\w-][\w.-]*(?:/[\w.-]+)+/?")
_MODULE = re.compile(rf"(?:{'|'.join(sorted(FLOORS, reverse=True))})(?:\.\w+)+")
_INDEX_ROW = re.compile(r"^\| [^|`]+ \| `([\w./-]+\.(?:py|sql))` \| ([^|]*) \|$", re.MULTILINE)
_SYMBOL_OF = re.compile(r"`([\w.]+)` (?:of|in)\s+`([\w./-]+\.(?:py|sql))`")
_SQL_FUNCTION = re.compile(r"CREATE (?:OR REPLACE )?FUNCTION ([\w.]+)\(")
_DAGSTER_TAG = re.compile(r"atdm/[a-z]+_[a-z_]+")


@cache
def _tops() -> frozenset[str]:
    return frozenset(path.parts[0] for path in project_files() if len(path.parts) > 1)


@cache
def symbols(path: str) -> frozenset[str]:
    """Names that a file defines: functions, classes, ``Class.method``, constants, SQL functions."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".sql"):
        return frozenset(_SQL_FUNCTION.findall(text))
    return frozenset(_defined(ast.parse(text).body))


def _defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"{prefix}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _defined(node.body, f"{prefix}{node.name}.")
        if isinstance(node, ast.Assign):
            yield from (f"{prefix}{t.id}" for t in node.targets if isinstance(t, ast.Name))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield f"{prefix}{node.target.id}"
        if isinstance(node, ast.If | ast.With):
            yield from _defined(node.body, prefix)


def missing_paths(text: str) -> list[str]:
    """Paths below the project's folders that a text names in backticks and that do not exist."""
    named = [
        span
        for span in _SPAN.findall(text)
        if _PATH.fullmatch(span) and not _DAGSTER_TAG.fullmatch(span)
    ]
    return [
        span
        for span in dict.fromkeys(named)
        if Path(span).parts[0] in _tops() and not (ROOT / span).exists()
    ]


def missing_modules(text: str) -> list[str]:
    """Dotted names of the product's code that lead to no module and to no symbol of one."""
    named = [span for span in _SPAN.findall(text) if _MODULE.fullmatch(span)]
    return [span for span in dict.fromkeys(named) if not _leads_somewhere(span)]


def _leads_somewhere(dotted: str) -> bool:
    parts = dotted.split(".")
    if parts[0] == "atdm" and not (ROOT / "atdm" / parts[1]).exists():
        return True  # A table or function of schema atdm, a span, a file such as atdm.yaml.
    for count in range(len(parts), 0, -1):
        path, rest = "/".join(parts[:count]), ".".join(parts[count:])
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if (ROOT / file).exists():
                return not rest or rest in symbols(file)
    return False


def index_rows(text: str) -> list[tuple[str, list[str]]]:
    """The rows ``| component | `file` | `symbol`, ... |`` of an index: file and symbols."""
    return [(file, _SPAN.findall(cell)) for file, cell in _INDEX_ROW.findall(text)]


def missing_symbols(text: str) -> list[str]:
    """Symbols that an index, or words like "`x` of `file.py`", name and the file lacks."""
    named = [(file, symbol) for file, row in index_rows(text) for symbol in row]
    named += [(file, symbol) for symbol, file in _SYMBOL_OF.findall(text)]
    return [
        f"{file}: {symbol}"
        for file, symbol in named
        if not (ROOT / file).exists() or symbol not in symbols(file)
    ]
