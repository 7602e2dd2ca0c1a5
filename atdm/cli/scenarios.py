"""``atdm scenarios``, ``schema`` and ``vocabulary``: specification files, without a database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from atdm.cli.arguments import constraints_of
from atdm.cli.output import UsageError, table, write_json
from atdm_engine.bundle.search import search
from atdm_engine.errors import AtdmError, ErrorCode, nearest_spelling
from atdm_resources.settings import Settings
from atdm_resources.store.scenario_cards import scenario_cards
from atdm_services.extras import load_registry, server_part

if TYPE_CHECKING:
    from atdm.cli.output import Output
    from atdm_engine.bundle.cards import Card
    from atdm_engine.bundle.search import Match

_LOCALE = re.compile(r"[a-z]{2,3}_[A-Z]{2}\Z")
_PROVIDER = re.compile(r"[a-z][a-z0-9_]{0,50}\Z")


def scenarios(output: Output, words: Sequence[str], constraint: Sequence[str]) -> int:
    """Rank the scenarios against words and constraints; without either, list all."""
    given = constraints_of(constraint)
    settings = Settings.from_environment()
    cards = scenario_cards(settings, lambda: load_registry(settings))
    matches = search(cards, words, given)
    output.emit(
        [as_json(match) for match in matches],
        lambda: _shown(matches, words, ranked=bool(words or given)),
    )
    if not matches:
        output.note("no scenario matches; `atdm scenarios` lists all of them")
    return 0


def schema(output: Output, kind: str) -> int:
    """Print a JSON Schema; JSON in both modes, since editors read it."""
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
    return 0


def vocabulary(
    output: Output, provider: str, locale: str, *, count: int, folder: Path | None
) -> int:
    """Draw words from Faker and freeze them as a file.

    Words that a file already has stay where they are, since a seed means a place in the list; new
    ones go to its end.
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
    frozen = parse_words(str(path), path.read_text(encoding="utf-8")) if path.exists() else ()
    try:
        with server_part("drawing words"), output.working(f"drawing {provider} for {locale}"):
            drawn = draw_words(provider, locale, count)
    except (ValueError, AttributeError) as error:
        raise AtdmError(
            ErrorCode.REQUEST_INVALID, str(error), {"provider": provider, "locale": locale}
        ) from error
    words = tuple(dict.fromkeys((*frozen, *drawn)))[: max(count, len(frozen))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(format_words(words), encoding="utf-8")
    output.emit(
        {"path": str(path), "words": len(words), "added": len(words) - len(frozen)},
        lambda: f"{path}: {len(words)} words, {len(words) - len(frozen)} of them new",
    )
    return 0


def as_json(match: Match) -> dict[str, Any]:
    """A found scenario as JSON."""
    return {**describe(match.scenario), "score": match.score, "why": match.why}


def describe(scenario: Card) -> dict[str, Any]:
    """What a caller needs to know of a scenario before asking for it."""
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


def _shown(matches: Sequence[Match], words: Sequence[str], *, ranked: bool) -> list[Any]:
    from atdm_engine.values.scalars import scalar_text

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
    parts: list[Any] = [table(None, columns, rows)]
    named = [
        it.scenario for it in matches if list(words) in ([it.scenario.name], [it.scenario.key])
    ]
    for scenario in named or [it.scenario for it in matches if len(matches) == 1]:
        parts.append(
            table(
                f"constraints of {scenario.key}",
                ("-c", "default", "allowed", "what"),
                [
                    (
                        name,
                        ""
                        if scenario.defaults[name] is None
                        else scalar_text(scenario.defaults[name]),
                        constraint.allowed(),
                        constraint.description,
                    )
                    for name, constraint in scenario.constraints.items()
                ],
            )
        )
    return parts
