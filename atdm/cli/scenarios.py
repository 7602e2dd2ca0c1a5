"""``atdm scenarios``, ``schema`` and ``vocabulary``: specification files, without a database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from atdm.cli import completion
from atdm.cli.arguments import Constraints, parse_constraints
from atdm.cli.output import Output, table, write_json
from atdm_engine.errors import AtdmError, ErrorCode, UsageError, nearest_spelling
from atdm_resources.settings import Settings
from atdm_services.extras import load_registry, server_part

if TYPE_CHECKING:
    from atdm_engine.bundle.cards import Card
    from atdm_engine.bundle.search import Match

_LOCALE = re.compile(r"[a-z]{2,3}_[A-Z]{2}\Z")
_PROVIDER = re.compile(r"[a-z][a-z0-9_]{0,50}\Z")


def scenarios(
    output: Output,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORDS", help="What you need.")
    ] = None,
    constraint: Constraints = None,
) -> None:
    """Find a scenario by what you need: the best match first, with the reason.

    Example: atdm scenarios denied claim -c provider_network=out_of_network
    """
    from atdm_engine.bundle.search import search
    from atdm_resources.store.scenario_cards import scenario_cards

    constraints = parse_constraints(constraint or [])
    settings = Settings.from_environment()
    cards = scenario_cards(settings, lambda: load_registry(settings))
    matches = search(cards, words or [], constraints)
    output.emit(
        [{**describe(match.scenario), "score": match.score, "why": match.why} for match in matches],
        lambda: _match_tables(matches, words or [], ranked=bool(words or constraints)),
    )
    if not matches:
        output.note("no scenario matches; `atdm scenarios` lists all of them")


def schema(
    output: Output,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="scenario|domain|table|dataset", autocompletion=completion.schema_kinds
        ),
    ],
) -> None:
    """Print the JSON Schema of a kind of specification file.

    Example: atdm schema scenario > scenario.schema.json
    """
    from atdm_engine.bundle.json_schema import json_schema
    from atdm_engine.spec.scenario import SchemaKind

    kinds = get_args(SchemaKind)
    if kind not in kinds:
        nearest = nearest_spelling(kind, kinds)
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"there is no schema {kind!r}: choose one of {', '.join(kinds)}"
            + (f"; did you mean {nearest}?" if nearest else ""),
            {"found": kind, "allowed": list(kinds)},
        )
    write_json(json_schema(cast(SchemaKind, kind)))


def vocabulary(
    output: Output,
    provider: Annotated[str, typer.Argument(help="A word provider: first_name, city, ...")],
    locale: Annotated[str, typer.Option(help="Language and country.")] = "en_US",
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many words in all.")] = 500,
    folder: Annotated[
        Path | None, typer.Option(help="Where LOCALE/PROVIDER.txt goes; default: the shipped ones.")
    ] = None,
) -> None:
    """Draw a word pool once and keep it as a file (maintenance).

    Example: atdm vocabulary first_name --locale de_DE --count 300
    """
    with server_part("drawing words"):
        from atdm_engine.spec.vocabulary import draw_words, format_words, parse_words
        from atdm_resources.store.bundle import shipped_root

    if not (_LOCALE.match(locale) and _PROVIDER.match(provider)):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"{provider!r} and {locale!r}: write a provider like first_name, a locale like en_US",
            {"provider": provider, "locale": locale},
        )
    root = folder or shipped_root() / "vocabularies"
    path = root / locale / f"{provider}.txt"
    # A seed means a place in the list, so the words that the file has keep their places.
    kept = parse_words(str(path), path.read_text(encoding="utf-8")) if path.exists() else ()
    try:
        with server_part("drawing words"), output.working(f"drawing {provider} for {locale}"):
            drawn = draw_words(provider, locale, count)
    except (ValueError, AttributeError) as error:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID, str(error), {"provider": provider, "locale": locale}
        ) from error
    words = tuple(dict.fromkeys((*kept, *drawn)))[: max(count, len(kept))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(format_words(words), encoding="utf-8")
    output.emit(
        {"path": str(path), "words": len(words), "added": len(words) - len(kept)},
        lambda: f"{path}: {len(words)} words, {len(words) - len(kept)} of them new",
    )


def describe(scenario: Card) -> dict[str, Any]:
    """What a caller needs to know of a scenario before requesting it."""
    from atdm_engine.values.scalars import scalar_json

    return {
        "scenario_id": scenario.name,
        "domain": scenario.domain,
        "description": scenario.description,
        "tags": list(scenario.tags),
        "linked_requirement_ids": list(scenario.linked_requirement_ids),
        "violates": list(scenario.violates),
        "version": scenario.version,
        "tables": list(scenario.tables),
        "rules": list(scenario.rules),
        "constraints": {
            name: {
                "type": constraint.type,
                "allowed": constraint.allowed(),
                "values": [scalar_json(value) for value in constraint.values],
                "default": scalar_json(scenario.defaults[name]),
                "description": constraint.description,
            }
            for name, constraint in scenario.constraints.items()
        },
    }


def _match_tables(matches: Sequence[Match], words: Sequence[str], *, ranked: bool) -> list[Any]:
    """The scenarios; then the constraints of a scenario that is named or alone."""
    columns = ("scenario", "what", "tags", *(("why",) if ranked else ()))
    rows = [
        (
            match.scenario.key,
            match.scenario.description.strip(),
            ", ".join(match.scenario.tags),
            *((match.why,) if ranked else ()),
        )
        for match in matches
    ]
    found = [match.scenario for match in matches]
    named = [one for one in found if list(words) in ([one.name], [one.key])]
    detailed = named or (found if len(found) == 1 else [])
    return [table(None, columns, rows), *map(_constraint_table, detailed)]


def _constraint_table(scenario: Card) -> Any:
    from atdm_engine.values.scalars import scalar_text

    rows = []
    for name, constraint in scenario.constraints.items():
        default = scenario.defaults[name]
        shown = "" if default is None else scalar_text(default)
        rows.append((name, shown, constraint.allowed(), constraint.description))
    return table(f"constraints of {scenario.key}", ("-c", "default", "allowed", "what"), rows)
