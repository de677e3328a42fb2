"""JSON schemas of parts of a recipe, which are embedded in that of the whole."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel


@cache
def describe_kind(config: type[BaseModel], kind: str) -> dict[str, Any]:
    """The JSON schema of a component's settings with its kind; a slot may be in many places of a schema."""
    described = inline_definitions(config.model_json_schema())
    described["properties"]["kind"] = {"const": kind}
    described["required"] = sorted({"kind", *described.get("required", [])})
    return described


def inline_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """Replaces references in a JSON schema by their $defs, so that it can be embedded in another schema."""
    definitions = schema.get("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, list):
            return [inline(p) for p in part]
        if not isinstance(part, dict):
            return part
        rest = {k: inline(v) for k, v in part.items() if k not in ("$ref", "$defs")}
        return {**inline(definitions[part["$ref"].removeprefix("#/$defs/")]), **rest} if "$ref" in part else rest

    made: dict[str, Any] = inline(schema)
    return made
