"""The project's own sources as the architecture tests read them: what git tracks or would."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("atdm_engine", "atdm_resources", "atdm_services", "atdm_assets", "atdm")


@cache
def project_files() -> tuple[Path, ...]:
    """Every file of the project that is not ignored, with paths relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return tuple(Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file())


def text_files() -> Iterator[tuple[Path, str]]:
    """Path and text of every file of the project that is UTF-8 text."""
    for path in project_files():
        try:
            yield path, (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def modules(*packages: str) -> Iterator[tuple[Path, ast.Module]]:
    """Path and syntax tree of every Python module in the named packages."""
    for path in project_files():
        if path.suffix == ".py" and path.parts[0] in packages:
            yield path, _parsed(path)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere in the tree, importlib calls included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which floor they reach"
            yield node.module or ""
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in {"import_module", "__import__"}:
                yield from (
                    argument.value
                    for argument in node.args[:1]
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                )


def module_name(path: Path) -> str:
    """The dotted name of a file; that of ``__init__.py`` is its package."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@cache
def import_graph() -> dict[str, frozenset[str]]:
    """Each module of the product, and the modules of the product that it imports anywhere in it."""
    trees = {module_name(path): tree for path, tree in modules(*FLOORS)}
    return {
        name: frozenset(_imported_modules(tree, trees.keys()) - {name})
        for name, tree in trees.items()
    }


def _imported_modules(tree: ast.AST, known: Set[str]) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            # ``from package import name``: a module where there is one, else a name of the package.
            found |= {
                full if (full := f"{node.module}.{alias.name}") in known else str(node.module)
                for alias in node.names
            }
    return (found | set(imported_names(tree)) - packages_of(found)) & known


def packages_of(names: Iterable[str]) -> set[str]:
    """The packages that the named modules are in."""
    return {name.rpartition(".")[0] for name in names}


def room(name: str, path: Path) -> str:
    """The folder that a module is in; a module directly in its floor is a room of its own."""
    return str(path.parent) if len(path.parts) > 2 else name


def circles(graph: Mapping[str, Set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, each sorted (Tarjan's strongly connected parts)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in order:
            visit(node)
    return found


def string_literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string literal that is not a docstring, f-string parts included."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in docstrings:
                yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(
                    part.value
                    for part in node.values
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ),
            )
