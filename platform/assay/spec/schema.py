"""The spec's JSON schema, for editors that complete and check YAML."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from assay.spec.spec import Spec


def json_schema() -> dict[str, Any]:
    """JSON schema of a whole spec file, short forms such as `5%` included."""
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **Spec.model_json_schema(schema_generator=_WithShortForms),
    }


class _WithShortForms(GenerateJsonSchema):
    """What a block reads before it validates may be written as a string, or as one item of a list."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
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
        inner = schema["schema"]
        has_short = inner["type"] == "function-before"
        return {"anyOf": [full, {"type": "string"}]} if has_short else full
