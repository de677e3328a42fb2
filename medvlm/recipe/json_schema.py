"""The JSON schema of recipes and data cards, for editors."""

from __future__ import annotations

from typing import Any, Literal

from medvlm.core.card import Card
from medvlm.core.json_schemas import inline_definitions
from medvlm.recipe.schema import Recipe


def build_schema(what: Literal["recipe", "card"] = "recipe") -> dict[str, Any]:
    """JSON schema for editors. A recipe may extend another, so only items of its lists have required keys."""
    schema = inline_definitions((Card if what == "card" else Recipe).model_json_schema())
    if what == "recipe":
        schema = _drop_required(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _drop_required(part: Any) -> Any:
    """A schema without `required`, except for items of lists, which an extending recipe replaces as a whole."""
    if isinstance(part, list):
        return [_drop_required(p) for p in part]
    if not isinstance(part, dict):
        return part
    kept = {
        key: value if key == "items" else _drop_required(value)
        for key, value in part.items()
        if key not in ("required", "properties")
    }
    return (
        {**kept, "properties": {key: _drop_required(value) for key, value in part["properties"].items()}}
        if "properties" in part
        else kept
    )
