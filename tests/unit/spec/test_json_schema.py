"""The JSON Schemas that editors complete the YAML files from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from atdm_engine.bundle.json_schema import DIALECT, json_schema
from atdm_engine.spec.scenario import SchemaKind

ROOT = Path(__file__).parents[3]


def kind_of(path: Path) -> SchemaKind | None:
    if path.name == "domain.yaml":
        return "domain"
    if path.parent.name == "tables":
        return "table"
    if path.parent.name == "datasets":
        return "dataset"
    return "scenario" if path.parent.parent.name == "scenarios" else None


SHIPPED = sorted(path for path in (ROOT / "scenarios").rglob("*.yaml") if kind_of(path))


@pytest.mark.parametrize("kind", get_args(SchemaKind))
def test_is_json_and_says_what_it_is(kind: SchemaKind) -> None:
    schema = json_schema(kind)
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == DIALECT
    assert schema["title"] == f"ATDM {kind}"
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("kind", get_args(SchemaKind))
def test_every_key_has_a_description(kind: SchemaKind) -> None:
    schema = json_schema(kind)
    bare = [
        name
        for name, part in schema["properties"].items()
        if "description" not in part and name != "constraints"
    ]
    assert bare == []


def test_unknown_kind() -> None:
    with pytest.raises(KeyError):
        json_schema("nonsense")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_use_known_keys_and_give_the_required_ones(path: Path) -> None:
    kind = kind_of(path)
    assert kind is not None
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    schema = json_schema(kind)
    assert set(schema["required"]) <= set(data)
    assert set(data) <= set(schema["properties"])
    assert_fits(schema, schema, data, "")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_name_their_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert first.endswith(f"schema/{kind_of(path)}.json")


@pytest.mark.parametrize("kind", get_args(SchemaKind))
def test_kept_schema_files_are_current(kind: SchemaKind) -> None:
    kept = ROOT / "scenarios" / "schema" / f"{kind}.json"
    assert json.loads(kept.read_text(encoding="utf-8")) == json_schema(kind)


def test_the_reader_used_here_refuses_what_it_should() -> None:
    schema = json_schema("scenario")
    good: dict[str, Any] = {
        "scenario_id": "a",
        "linked_requirement_ids": [],
        "rows": {"a": {"count": {"poisson": {"mean": 2.0, "max": 3}}}},
    }
    assert_fits(schema, schema, good, "")
    for bad in (
        {**good, "scenario_id": 3},
        {**good, "rows": {"a": "many"}},
        {**good, "rows": {"a": {"cuont": 1}}},
        {**good, "pool": {"ready": 0}},
        {**good, "rows": {"A-b": 1}},
    ):
        with pytest.raises(AssertionError):
            assert_fits(schema, schema, bad, "")


def assert_fits(schema: dict[str, Any], part: dict[str, Any], value: Any, place: str) -> None:
    """A small reader of the keywords that the schemas use; AssertionError where a value misfits."""
    if "$ref" in part:
        assert_fits(schema, schema["$defs"][part["$ref"].rpartition("/")[2]], value, place)
        return
    if "anyOf" in part:
        failures = []
        for option in part["anyOf"]:
            try:
                assert_fits(schema, option, value, place)
            except AssertionError as failure:
                failures.append(str(failure))
            else:
                return
        raise AssertionError(f"{place}: {value!r} fits no branch: {failures}")
    types = {
        "string": str, "object": dict, "array": list, "boolean": bool, "null": type(None),
        "integer": int, "number": (int, float),
    }  # fmt: skip
    if "type" in part:
        # YAML readers make dates of what is a text to JSON.
        text = str(value) if hasattr(value, "isoformat") else value
        assert isinstance(text, types[part["type"]]), f"{place}: {value!r} is no {part['type']}"
        boolean = isinstance(value, bool) and part["type"] in ("integer", "number")
        assert not boolean, f"{place}: {value!r}"
    if "enum" in part:
        assert value in part["enum"], f"{place}: {value!r}"
    if "minimum" in part:
        assert value >= part["minimum"], f"{place}: {value!r}"
    if isinstance(value, dict):
        known = part.get("properties", {})
        extra = part.get("additionalProperties", True)
        assert set(part.get("required", ())) <= set(value), f"{place}: {part['required']} needed"
        for key, inner in value.items():
            patterns = part.get("patternProperties", {})
            fitting = [inside for pattern, inside in patterns.items() if re.search(pattern, key)]
            assert fitting or not patterns, f"{place}.{key}: no such name"
            below = known.get(key, fitting[0] if fitting else extra)
            assert below is not False, f"{place}.{key}: unknown"
            if isinstance(below, dict):
                assert_fits(schema, below, inner, f"{place}.{key}")
    if isinstance(value, list) and isinstance(part.get("items"), dict):
        for inner in value:
            assert_fits(schema, part["items"], inner, f"{place}[]")
