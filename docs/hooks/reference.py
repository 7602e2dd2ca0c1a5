"""Reference pages that are made from the code: command line, specification files, domains."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any, get_args

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from atdm_engine.bundle.json_schema import SchemaKind, json_schema
from atdm_engine.bundle.registry import Registry
from atdm_engine.model import Domain, Scenario
from atdm_resources.store.bundle import read_bundle, shipped_root


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference pages to those of ``docs/``."""
    registry = Registry.build(read_bundle([shipped_root()]))
    pages = {
        "reference/cli.md": command_line(),
        "reference/specification.md": specification(),
        **{f"reference/{name}.md": domain(found) for name, found in registry.domains.items()},
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links to files outside of the site by the path of the file."""
    folder = PurePosixPath(page.file.src_uri).parent

    def kept(found: re.Match[str]) -> str:
        target = normpath(folder / found[2])
        return (
            f"{found[1]} (`{target.removeprefix('../')}`)" if target.startswith("..") else found[0]
        )

    return re.sub(r"\[([^\]]+)\]\((\.\./[^)#]+)[^)]*\)", kept, markdown)


def command_line() -> str:
    """Every command with its arguments and options, as in its ``--help``."""
    import click
    import typer.cli
    import typer.main

    from atdm.cli.app import app

    group = typer.main.get_command(app)
    context = click.Context(group, info_name="atdm")  # type: ignore[arg-type]
    text: str = typer.cli.get_docs_for_click(obj=group, ctx=context, name="atdm")  # type: ignore[arg-type]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        # The list of commands is cut to the width of a terminal.
        sentence = (command.help or "").split("\n\n")[0]
        text = re.sub(
            rf"^\* `{name}`: .*$", f"* `{name}`: {_plain(sentence)}", text, count=1, flags=re.M
        )
    return text.replace("# `atdm`", "# The command line", 1)


def specification() -> str:
    """Every key of every kind of specification file; parts that several kinds share come once."""
    parts = [
        "# Specification files\n",
        "Made from the models that read them; `atdm schema KIND` prints the JSON Schema.\n",
    ]
    shared: dict[str, Mapping[str, Any]] = {}
    for kind in get_args(SchemaKind):
        schema = json_schema(kind)
        parts.append(f"## {kind}\n")
        parts += _object(schema)
        shared |= schema.get("$defs", {})
    parts.append("## Parts of these files\n")
    for name, part in sorted(shared.items()):
        if "properties" in part:
            parts.append(f"### {name}\n")
            parts += _object(part)
    return "\n".join(parts)


def _object(schema: Mapping[str, Any]) -> Iterator[str]:
    if schema.get("description"):
        yield f"{_plain(schema['description'])}\n"
    required = set(schema.get("required", ()))
    rows = [
        (
            f"`{name}`",
            _type(part),
            "yes" if name in required else "",
            _plain(part.get("description", "")),
        )
        for name, part in schema.get("properties", {}).items()
    ]
    if rows:
        yield from _table(("key", "value", "required", "meaning"), rows)


def _type(part: Mapping[str, Any]) -> str:
    """A short name for the type of a key's value."""
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if "$ref" in part:
        name = str(part["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in part:
            kinds = dict.fromkeys(_type(one) for one in part[several])
            return " or ".join(kind for kind in kinds if kind != "null")
    kind = part.get("type", "any")
    if kind == "array":
        return f"list of {_type(part.get('items', {}))}"
    if kind == "object" and isinstance(part.get("additionalProperties"), dict):
        return f"mapping to {_type(part['additionalProperties'])}"
    if "default" in part and part["default"] is not None:
        return f"{kind} (default `{json.dumps(part['default'])}`)"
    return str(kind)


def domain(found: Domain) -> str:
    """The tables of a domain with their references, its rules, its scenarios."""
    parts = [f"# The {found.name} domain\n", f"{_plain(found.spec.description)}\n", "## Tables\n"]
    parts += _table(
        ("table", "refers to", "what"),
        [
            (
                f"[{name}](#{name})",
                ", ".join(
                    f"{spec.references} by `{column}`"
                    for column, spec in table.columns.items()
                    if spec.references
                ),
                _plain(table.description),
            )
            for name, table in found.tables.items()
        ],
    )
    for name, table in found.tables.items():
        parts += [f"### {name}\n", f"{_plain(table.description)}\n"]
        rows = [
            (
                f"`{column}`",
                str(spec.type) + (" (key)" if column == table.key else ""),
                "may be empty" if spec.nullable else "",
                ", ".join(f"`{value}`" for value in spec.values or ()),
            )
            for column, spec in table.columns.items()
        ]
        parts += _table(("column", "type", "", "allowed values"), rows)
    parts.append("## Rules\n")
    parts += _table(
        ("rule", "what must hold", "tables"),
        [
            (f"`{name}`", _plain(rule.description), ", ".join(rule.tables))
            for name, rule in found.rules.items()
        ],
    )
    parts.append("## Scenarios\n")
    for scenario in found.scenarios.values():
        parts += _scenario(scenario)
    return "\n".join(parts)


def _scenario(scenario: Scenario) -> Iterator[str]:
    spec = scenario.spec
    yield f"### {scenario.name}\n"
    yield f"{_plain(spec.description)}\n"
    requirements = ", ".join(spec.linked_requirement_ids) or "none"
    yield f"Makes {', '.join(scenario.tables)}. Requirements: {requirements}.\n"
    yield from _table(
        ("constraint", "type", "allowed values", "default"),
        [
            (
                f"`{name}`",
                str(constraint.type),
                ", ".join(f"`{value}`" for value in constraint.values or ()),
                "" if scenario.defaults.get(name) is None else f"`{scenario.defaults[name]}`",
            )
            for name, constraint in scenario.constraints.items()
        ],
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


def _plain(text: str) -> str:
    """The text on one line; ``<`` is escaped outside of code."""
    words = " ".join(str(text).replace("``", "`").split())
    pieces = words.split("`")
    pieces[::2] = [piece.replace("<", "&lt;") for piece in pieces[::2]]
    return "`".join(pieces)
