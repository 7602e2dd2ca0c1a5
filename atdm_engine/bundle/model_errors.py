"""The errors of pydantic as problems: with line, plain words and the nearest spelling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from atdm_engine.arrow.types import COLUMN_TYPE
from atdm_engine.bundle.yaml import Path, YamlDocument
from atdm_engine.errors import Problem, nearest_spelling
from atdm_engine.generators.registry import KEYWORDS
from atdm_engine.spec.domain import QualifiedColumn
from atdm_engine.spec.scenario import COUNT_KEYWORDS
from atdm_engine.values.fields import Identifier
from atdm_engine.values.scalars import key_text
from atdm_engine.values.times import DURATION

_COLUMN_TYPES = (
    "text", "smallint", "integer", "bigint", "double", "boolean", "date", "timestamptz", "uuid",
    "jsonb", "numeric(12,2)",
)  # fmt: skip
_BARE: Mapping[str, str] = {
    "string_type": "a text (in quotes where it looks like something else)",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "date_type": "a date like 2026-01-31",
    "datetime_type": "a timestamp like 2026-01-31T12:00:00Z",
    "none_required": "null",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "finite_number": "a finite number",
}


def model_problems(
    model: type[BaseModel], document: YamlDocument, file: str, error: ValidationError
) -> list[Problem]:
    """pydantic's errors about ``document`` as problems, one for each place, by line."""
    findings = [_finding(model, document, file, dict(entry)) for entry in error.errors()]
    kept: list[_Finding] = []
    for finding in findings:
        # A value that may be a number or a mapping gives an error for each. If it is a mapping,
        # only the errors inside of it matter, not that it is no number.
        rivals = [other for other in findings if other.place[: len(finding.place)] == finding.place]
        misfit = finding.kind.endswith("_type") and isinstance(finding.value, dict | list)
        if misfit and any(
            not other.kind.endswith("_type") or other.place != finding.place for other in rivals
        ):
            continue
        kept.append(finding)
    merged: dict[tuple[Path, str], Problem] = {}
    for finding in kept:
        problem = finding.problem
        place = (finding.place, "" if finding.kind != "missing" else problem.key)
        if place not in merged:
            merged[place] = problem
        elif problem.allowed not in merged[place].allowed:
            first = merged[place]
            allowed = f"{first.allowed}, or {problem.allowed}"
            nearest = first.nearest or problem.nearest
            merged[place] = Problem(file, first.line, first.key, first.found, allowed, nearest)
    return sorted(merged.values(), key=lambda problem: problem.line)


def describe(value: Any) -> str:
    """A value as a problem shows it: short, on one line."""
    if isinstance(value, dict):
        keys = [key_text(key) for key in value]
        text = "a mapping with " + ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")
        return text if keys else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, int | float | Decimal):
        return str(value)
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")


@dataclass(frozen=True)
class _Finding:
    """One pydantic error and its place in the document."""

    kind: str
    place: Path
    value: Any
    problem: Problem


def _finding(
    model: type[BaseModel], document: YamlDocument, file: str, error: dict[str, Any]
) -> _Finding:
    location: tuple[Any, ...] = error["loc"]
    kind: str = error["type"]
    place = _best_place(document.data, location)
    key = ".".join(place) or "(file)"
    value, context = error.get("input"), error.get("ctx") or {}
    found, nearest = describe(value), None
    if kind == "missing":
        needed = str(location[-1])
        key = ".".join((*place, needed))
        found, allowed = "nothing", f"{needed} must be given"
    elif kind == "extra_forbidden":
        unknown = key_text(location[-1])
        keys = _known_keys(model, location[:-1])
        found, allowed = f"the unknown key {unknown!r}", "the keys " + ", ".join(keys)
        nearest = nearest_spelling(unknown, keys)
    elif kind in ("generator", "keyword"):
        keys = [key_text(part) for part in value] if isinstance(value, dict) else []
        allowed = str(error["msg"])
        keywords = KEYWORDS if kind == "generator" else COUNT_KEYWORDS
        near = [nearest_spelling(part, keywords) for part in keys if part not in keywords]
        nearest = next((word for word in near if word), None)
    else:
        allowed, words = _allowed(kind, context, str(error["msg"]))
        nearest = nearest_spelling(str(value), words) if words else None
    problem = Problem(file, document.line(place), key, found, allowed, nearest)
    return _Finding(kind, place, value, problem)


def _allowed(kind: str, context: Mapping[str, Any], message: str) -> tuple[str, Sequence[str]]:
    """What is allowed, in words, and the known words to search the nearest spelling in."""
    if kind in _BARE:
        return _BARE[kind], ()
    if kind == "literal_error":
        words = str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        return "one of " + ", ".join(words), words
    if kind == "string_pattern_mismatch":
        return _PATTERN_WORDS.get(context["pattern"], (f"a text like {context['pattern']}", ()))
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error") or message), ()
    bounds = {
        "greater_than": ("more than", "gt"),
        "greater_than_equal": ("at least", "ge"),
        "less_than": ("less than", "lt"),
        "less_than_equal": ("at most", "le"),
        "too_short": ("a number of items of at least", "min_length"),
        "too_long": ("a number of items of at most", "max_length"),
        "string_too_short": ("a number of characters of at least", "min_length"),
        "string_too_long": ("a number of characters of at most", "max_length"),
    }
    if kind in bounds:
        phrase, bound = bounds[kind]
        return f"{phrase} {context[bound]}", ()
    return message[:1].lower() + message[1:], ()


def _pattern_of(annotated: Any) -> str:
    return next(str(part.pattern) for part in get_args(annotated)[1:] if hasattr(part, "pattern"))


_PATTERN_WORDS: Mapping[str, tuple[str, Sequence[str]]] = {
    _pattern_of(Identifier): (
        "a name of lower-case letters, digits and _, starting with a letter, at most 51 long",
        (),
    ),
    _pattern_of(QualifiedColumn): ("a column as table.column", ()),
    COLUMN_TYPE.pattern: (
        "text, smallint, integer, bigint, double, boolean, date, timestamptz, uuid, jsonb, "
        "numeric(precision,scale); with [] behind it an array of these",
        _COLUMN_TYPES,
    ),
    rf"^{DURATION}$": ("a number and s, m, h, d, w or y, like 30d", ()),
}


def _best_place(data: Any, location: Sequence[Any]) -> Path:
    """``location`` without the labels of union branches that pydantic puts into it.

    A label may be spelled like a key ({case: ...} is labelled ``case``), so every reading is tried
    and the one that explains most of the location wins.
    """
    best: tuple[tuple[int, bool], Path] = ((-1, False), ())
    for place, last in _readings(data, [key_text(part) for part in location]):
        score = (len(place), last)
        if score > best[0]:
            best = (score, place)
    return best[1]


def _readings(data: Any, parts: Sequence[str]) -> Iterator[tuple[Path, bool]]:
    if not parts:
        yield (), True
        return
    head, rest = parts[0], parts[1:]
    children: Mapping[str, Any] = {}
    if isinstance(data, dict):
        children = {key_text(key): value for key, value in data.items()}
    elif isinstance(data, list):
        children = {str(position): value for position, value in enumerate(data)}
    if head in children:
        for place, last in _readings(children[head], rest):
            yield (head, *place), last
    for place, last in _readings(data, rest):
        yield place, last and bool(rest)


def _known_keys(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    models = list(_models_at(model, [key_text(part) for part in location]))
    names = dict.fromkeys(
        info.alias or name for found in models for name, info in found.model_fields.items()
    )
    return list(names)


def _models_at(annotation: Any, parts: Sequence[str]) -> Iterator[type[BaseModel]]:
    """The models that may stand at ``parts`` (a pydantic location, labels of unions included)."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _models_at(arguments[0], parts)
    elif origin in (Union, UnionType):
        branches = [branch for branch in arguments if branch is not type(None)]
        for branch in branches:
            if len(branches) == 1 or get_origin(_bare(branch)) in (Union, UnionType):
                yield from _models_at(branch, parts)
            elif parts and parts[0] == _label(branch):
                yield from _models_at(branch, parts[1:])
    elif origin in (dict, list) and parts:
        yield from _models_at(arguments[-1], [part for part in parts[1:] if part != "[key]"])
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not parts:
            yield annotation
            return
        for name, info in annotation.model_fields.items():
            if parts[0] in (name, info.alias):
                yield from _models_at(info.annotation, parts[1:])
                return
        extra = annotation.__annotations__.get("__pydantic_extra__")
        if extra is not None:
            otherwise = annotation.model_fields["otherwise"].annotation
            yield from _models_at(otherwise, parts[1:])


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _label(branch: Any) -> str:
    """How pydantic labels a union's branch in a location."""
    if get_origin(branch) is Annotated:
        for part in get_args(branch)[1:]:
            if isinstance(part, Tag):
                return part.tag
    bare = _bare(branch)
    return bare.__name__ if isinstance(bare, type) and get_origin(bare) is None else str(bare)
