"""Whether an answer is JSON with a given form, and nothing else.

`schema` is a JSON schema, of which these words are read: type, properties, required, additionalProperties (true or
false), items, minItems, maxItems, enum, minimum, maximum, minLength, maxLength and pattern. Another word is refused, so
that no rule is silently left out. A fence of three backticks around the JSON is allowed with `fenced`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, field_validator

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Truth, make_truth

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
VALUES = ("type", "enum", "title", "description")
SIZES = ("minItems", "maxItems", "minimum", "maximum", "minLength", "maxLength", "pattern")
INNER = ("properties", "required", "additionalProperties", "items")
WORDS = (*VALUES, *SIZES, *INNER)
LONGEST, DEEPEST = 20_000, 32
"""Characters, and levels of brackets. Beyond them, an answer earns nothing."""
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
EXAMPLE_SETTINGS = {
    "schema": {
        "type": "object",
        "properties": {"number": {"type": "integer", "minimum": 0}, "side": {"enum": ["left", "right"]}},
        "required": ["number", "side"],
        "additionalProperties": False,
    }
}


class Config(RewardConfig):
    schema_: dict[str, Any] = Field(alias="schema")
    """The form that an answer must have."""
    fenced: bool = False
    """Whether the JSON may, and then must, stand between lines of three backticks."""

    @field_validator("schema_")
    @classmethod
    def _check_schema(cls, schema: dict[str, Any]) -> dict[str, Any]:
        for reason in check_schema(schema, "schema"):
            raise ValueError(reason)
        return schema


def check_schema(schema: Any, where: str) -> Iterator[str]:
    """What is wrong with a schema."""
    if not isinstance(schema, Mapping):
        yield f"{where}: expected words and values"
        return
    for word in schema:
        if word not in WORDS:
            yield f"{where}: the word {word!r} is not read (these are: {', '.join(sorted(WORDS))})"
    if "type" in schema and schema["type"] not in TYPES:
        yield f"{where}.type: {schema['type']!r} is none of {', '.join(TYPES)}"
    for name, inner in schema.get("properties", {}).items():
        yield from check_schema(inner, f"{where}.properties.{name}")
    if "items" in schema:
        yield from check_schema(schema["items"], f"{where}.items")


def applies(truth: Truth, config: Config) -> bool:
    return True


def score(completion: str, truth: Truth, config: Config) -> float:
    text = completion.strip()
    if config.fenced:
        fence = _FENCE.fullmatch(text)
        text = fence.group(1) if fence else ""
    if len(text) > LONGEST or _find_depth(text) > DEEPEST:
        return 0.0
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_read_object)
    except ValueError:
        return 0.0
    return float(fits(value, config.schema_))


def _find_depth(text: str) -> int:
    depth = deepest = 0
    for sign in text:
        depth += (sign in "[{") - (sign in "]}")
        deepest = max(deepest, depth)
    return deepest


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    if "enum" in schema and not any(type(value) is type(each) and value == each for each in schema["enum"]):
        return False
    if is_number and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    if isinstance(value, str):
        length = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        return length and ("pattern" not in schema or re.search(schema["pattern"], value) is not None)
    if isinstance(value, list):
        length = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return length and all(fits(each, schema.get("items", {})) for each in value)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        is_closed = schema.get("additionalProperties") is False
        has_all = set(schema.get("required", ())) <= value.keys() and not (is_closed and value.keys() - known.keys())
        return has_all and all(fits(each, known.get(name, {})) for name, each in value.items())
    return True


_FOUR = make_truth("count", count=4)

EXAMPLES = [
    ('{"number": 4, "side": "left"}', _FOUR, 1.0),
    ('\n{"side": "right", "number": 0}\n', _FOUR, 1.0),
    ('{"number": 4}', _FOUR, 0.0),
    ('{"number": -1, "side": "left"}', _FOUR, 0.0),
    ('{"number": "4", "side": "left"}', _FOUR, 0.0),
    ('{"number": true, "side": "left"}', _FOUR, 0.0),
    # Two answers, a key twice, a text around it, an answer beside the form, what is not JSON.
    ('{"number": 4, "side": "left"} {"number": 5, "side": "left"}', _FOUR, 0.0),
    ('{"number": 4, "number": 5, "side": "left"}', _FOUR, 0.0),
    ('The answer is {"number": 4, "side": "left"}', _FOUR, 0.0),
    ('{"number": 4, "side": "left", "also": "right"}', _FOUR, 0.0),
    ('{"number": NaN, "side": "left"}', _FOUR, 0.0),
    ("", _FOUR, 0.0),
]
