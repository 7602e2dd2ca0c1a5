"""Search of scenarios by words and constraints, ranked."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from atdm_engine.bundle.cards import Card
from atdm_engine.values.scalars import scalar_text


@dataclass(frozen=True)
class Match:
    """A scenario that was found. ``why`` says in one line what matched."""

    scenario: Card
    score: float
    why: str


_WORD = re.compile(r"[a-z0-9]+")
_REQUIREMENT = re.compile(r"[a-z]+(-[a-z]+)*-\d+")
_STOP = frozenset([
    "a", "an", "and", "any", "are", "as", "at", "be", "by", "can", "for", "from", "has", "have",
    "i", "in", "into", "is", "it", "its", "me", "my", "need", "of", "on", "one", "or", "please",
    "some", "that", "the", "their", "them", "then", "there", "this", "to", "want", "was", "we",
    "where", "which", "who", "with", "without", "you", "data", "test", "scenario",
])  # fmt: skip
_SUFFIXES = ("ations", "ation", "ings", "ing", "ies", "ied", "ers", "er", "als", "al", "ed", "es",
             "s", "e", "y")  # fmt: skip
_WEIGHTS = {"name": 3.0, "tag": 2.5, "constraint": 2.0, "description": 1.5, "requirement": 4.0,
            "domain": 0.5}  # fmt: skip


def search(
    scenarios: Sequence[Card], words: Sequence[str], constraints: Mapping[str, str]
) -> list[Match]:
    """Scenarios that fit, best first; equal ones by name.

    ``constraints`` drop every scenario that cannot take them (unknown name, value not allowed,
    fixed otherwise by its rows) and favour those that have them as defaults. ``words`` are compared
    with names, tags, descriptions, requirement ids and constraints; with words, a scenario that has
    none of them is dropped.
    """
    fields = [_fields(scenario) for scenario in scenarios]
    counts = Counter(
        stem for texts in fields for stem in {stem for stems in texts.values() for stem in stems}
    )
    wanted = _wanted(" ".join(words), counts)
    matches = []
    for scenario, texts in zip(scenarios, fields, strict=True):
        fitting = _constraint_fit(scenario, constraints)
        if fitting is None:
            continue
        score, reasons = fitting
        word_score, word_reasons = _word_score(wanted, texts, counts, len(scenarios))
        if wanted and word_score == 0.0:
            continue
        why = "; ".join([*reasons, *word_reasons]) or "no words or constraints were given"
        matches.append(Match(scenario, round(score + word_score, 6), why))
    return sorted(matches, key=lambda match: (-match.score, match.scenario.key))


def _fields(scenario: Card) -> dict[str, Counter[str]]:
    fixed = [
        f"{name} {scalar_text(value)}"
        for group in scenario.groups
        for name, value in group.fixed.items()
    ]
    set_values = [
        f"{name} {scalar_text(value)}"
        for name, value in scenario.defaults.items()
        if value is not None
    ]
    texts = {
        "name": [scenario.name, *(group.name for group in scenario.groups)],
        "tag": scenario.tags,
        "constraint": [*fixed, *set_values],
        "description": [scenario.description],
        "requirement": [],
        "domain": [scenario.domain],
    }
    found = {name: Counter(_terms(" ".join(parts))) for name, parts in texts.items()}
    # Requirement ids are looked up whole: FR-001 is not found by 001.
    found["requirement"] = Counter(id_.lower() for id_ in scenario.linked_requirement_ids)
    return found


def _terms(text: str) -> list[str]:
    """The stems of a text."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP]


def _wanted(text: str, known: Mapping[str, int]) -> dict[str, str]:
    """The stems to search for, each with the word of the query that it comes from.

    A requirement id is searched for as it is. A stem that no scenario has is replaced by those that
    begin with it (auth: authorization), else by the nearest spelling.
    """
    found: dict[str, str] = {}
    for word in text.lower().split():
        if _REQUIREMENT.fullmatch(word):
            found.setdefault(word, word)
            continue
        for part in _WORD.findall(word):
            if part in _STOP:
                continue
            stem = _stem(part)
            stems = [stem]
            if stem not in known and len(stem) >= 4:
                begins = sorted(other for other in known if other.startswith(stem))
                stems = begins or get_close_matches(stem, known, n=1, cutoff=0.8) or [stem]
            for other in stems:
                found.setdefault(other, part)
    return found


def _stem(word: str) -> str:
    """A light stem: denied, denial, denials and denies have the same."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            stem = word.removesuffix(suffix)
            return stem.removesuffix("i") if len(stem) > 3 else stem
    return word


def _word_score(
    wanted: Mapping[str, str],
    texts: Mapping[str, Counter[str]],
    counts: Mapping[str, int],
    total: int,
) -> tuple[float, list[str]]:
    score, reasons = 0.0, []
    for stem, word in wanted.items():
        rarity = math.log(1 + total / counts[stem]) if counts[stem] else 0.0
        places = [
            (weight * (1 + math.log(texts[name][stem])), name)
            for name, weight in _WEIGHTS.items()
            if texts[name][stem]
        ]
        if places:
            # The best place counts in full, each further one by a fifth.
            best = max(places)
            score += rarity * (
                best[0] + 0.2 * sum(weight for weight, _ in places if weight < best[0])
            )
            reasons.append(f"{word} in {', '.join(name for _, name in places)}")
    return score, reasons


def _constraint_fit(
    scenario: Card, constraints: Mapping[str, str]
) -> tuple[float, list[str]] | None:
    """Score and reasons of a scenario for these constraints; None if it cannot take them."""
    score, reasons = 0.0, []
    for name, text in constraints.items():
        constraint = scenario.constraints.get(name)
        if constraint is None:
            return None
        try:
            value = constraint.parse(text)
        except ValueError:
            return None
        fixed = _fixed_values(scenario, name)
        if fixed and value in fixed:
            score += 6.0
            reasons.append(f"its rows have {name}={scalar_text(value)}")
        elif fixed and _all_fixed(scenario, name):
            return None
        elif scenario.defaults.get(name) == value:
            score += 5.0
            reasons.append(f"{name}={scalar_text(value)} is its default")
        else:
            score += 2.0
            reasons.append(f"it takes {name}={scalar_text(value)}")
    return score, reasons


def _fixed_values(scenario: Card, name: str) -> list[object]:
    return [group.fixed[name] for group in scenario.groups if name in group.fixed]


def _all_fixed(scenario: Card, name: str) -> bool:
    """Whether ``with`` fixes the constraint for every row group that it applies to."""
    tables = {table for table, _ in scenario.constraints[name].sets}
    groups = [group for group in scenario.groups if group.table in tables or name in group.fixed]
    return bool(groups) and all(name in group.fixed for group in groups)
