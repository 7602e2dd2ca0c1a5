"""JSON Schema of the specification files, for editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from atdm_engine.spec.dataset import DatasetSpec
from atdm_engine.spec.domain import DomainSpec
from atdm_engine.spec.scenario import ScenarioSpec, SchemaKind
from atdm_engine.spec.table import TableSpec
from atdm_engine.values.fields import SpecModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_MODELS: dict[str, tuple[type[SpecModel], str]] = {
    "scenario": (ScenarioSpec, "ATDM scenario"),
    "domain": (DomainSpec, "ATDM domain"),
    "table": (TableSpec, "ATDM table"),
    "dataset": (DatasetSpec, "ATDM dataset"),
}


class _EditorSchema(GenerateJsonSchema):
    """Schemas as an editor sees YAML: dates and timestamps are texts, and one branch is meant."""

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        # anyOf: editors complete the union of all branches, and a scalar such as 2026-01-01 is a
        # text as well as a date to them, which oneOf would refuse.
        found = super().tagged_union_schema(schema)
        if "oneOf" in found:
            found["anyOf"] = found.pop("oneOf")
        found.pop("discriminator", None)
        return found

    def date_schema(self, schema: core_schema.DateSchema) -> JsonSchemaValue:
        return {"type": "string", "description": "A date like 2026-01-31."}

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        return {"type": "string", "description": "A timestamp like 2026-01-31T12:00:00Z."}


def json_schema(kind: SchemaKind) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one kind of file; KeyError for an unknown kind."""
    model, title = _MODELS[kind]
    schema = model.model_json_schema(by_alias=True, schema_generator=_EditorSchema)
    _tidy(schema)
    return {"$schema": DIALECT, **schema, "title": title}


def _tidy(schema: dict[str, Any]) -> None:
    """Leave out the titles that pydantic makes of names: editors show them in place of the key."""
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if isinstance(part.get("title"), str) and ("type" in part or "anyOf" in part):
                del part["title"]
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
