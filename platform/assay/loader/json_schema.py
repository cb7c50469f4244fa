"""JSON schemas of specs and suites, for editors that complete and check YAML. In the dialect that
they all know."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from assay.loader.annotations import meanings
from assay.spec.block import Block
from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec

DIALECT = "http://json-schema.org/draft-07/schema#"

EXTENDS = {
    "type": "string",
    "description": "Path of the spec that this one extends, from this file's own folder.",
}


def spec_schema() -> dict[str, Any]:
    """JSON schema of a spec file, short forms such as `5%` included. One that extends another may
    say any part."""
    whole, blocks = _schema(Spec)
    whole["properties"] = {"extends": EXTENDS, **whole["properties"]}
    parts = {}
    for name, block in {**blocks, "Spec": whole}.items():
        parts[f"{name}Part"] = _part(block)
    return {
        "$schema": DIALECT,
        "$defs": {**blocks, "Spec": whole, **parts},
        "if": {"required": ["extends"]},
        "then": {"$ref": "#/$defs/SpecPart"},
        "else": {"$ref": "#/$defs/Spec"},
    }


def suite_schema() -> dict[str, Any]:
    """JSON schema of a suite file."""
    whole, blocks = _schema(SuiteSpec)
    return {"$schema": DIALECT, "$defs": blocks, **whole}


def _schema(cls: type[Block]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a block, and of those that it names."""
    schema = cls.model_json_schema(schema_generator=_WithShortForms)
    blocks = schema.pop("$defs")
    return _tidy(schema), {name: _tidy(block) for name, block in blocks.items()}


def _part(schema: Any) -> Any:
    """The same schema with nothing required, of blocks of which the same is true."""
    if isinstance(schema, list):
        return [_part(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if not (key == "required" and isinstance(value, list)):
            kept[key] = value
    return {key: f"{value}Part" if key == "$ref" else _part(value) for key, value in kept.items()}


def _tidy(schema: Any) -> Any:
    """The same schema; a bound that pydantic put beside several forms goes to the form that it is
    about."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _tidy(value) for key, value in schema.items()}
    for form in tidy.get("anyOf", []):
        if form.get("type") == "array" and "minLength" in tidy:
            form["minItems"] = tidy["minLength"]
    if "anyOf" in tidy:
        tidy.pop("minLength", None)
    return tidy


class _WithShortForms(GenerateJsonSchema):
    """What a block reads before it validates may be written as a string, or as one item of a
    list."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def function_before_schema(
        self, schema: core_schema.BeforeValidatorFunctionSchema
    ) -> JsonSchemaValue:
        full = self.generate_inner(schema["schema"])
        if schema["schema"]["type"] == "model-fields":
            return full  # `model_schema` adds the short form around the whole block
        short: list[JsonSchemaValue] = [{"type": "string"}]
        if "items" in full and full["items"] not in short:
            short.append(full["items"])
        if "anyOf" in full:
            short.append({"type": "array", "items": {"type": "string"}})
        return {"anyOf": [full, *short]}

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        full = super().model_schema(schema)
        block: type[Block] = schema["cls"]
        for name, meaning in meanings(block).items():
            full["properties"][name]["description"] = meaning
        inner = schema["schema"]
        has_short = inner["type"] == "function-before"
        if not has_short:
            return full
        forms = [full, {"type": "string"}]
        if block.LIST_FORM:
            forms.append(full["properties"][block.LIST_FORM])
        return {"anyOf": forms}
