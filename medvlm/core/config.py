"""Typed configs from YAML, with errors that name file, line, column and dotted key.

A component is a module: `kind: timm` in the slot `encoders` is `medvlm/encoders/timm.py`, and
`kind: mylab.swin3d` is that module of a package listed under `plugins`. There is no registry.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from medvlm.core.document import Document, KeyPath, dotted, place_of, step_into
from medvlm.core.errors import RecipeError, did_you_mean, shorten


class Config(BaseModel):
    """Base of everything a recipe or a card can hold: unknown keys are errors, values never change.

    A name with a trailing underscore (`from_`) has an alias; YAML knows the alias alone, Python code both.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic would go on and make 1 of `true`, in a list or a mapping of numbers too.
        types = _leaf_types(cls.model_fields[info.field_name or ""].annotation)
        if not any(t in (bool, Any) or _is_config(t) for t in types) and (path := _bool_in(value)) is not None:
            found = shorten(value if not path else _at(value, path))
            raise _nested([Problem(path, expected=" or ".join(dict.fromkeys(map(_name, types))), found=found)])
        return value


@dataclass(frozen=True)
class Slot:
    """A field whose `kind` chooses the module that defines it: `Annotated[Any, Slot("encoders")]`."""

    folder: str
    optional: bool = False
    """Whether `null` may stand there, e.g. to take out what a recipe that is extended has."""
    only: tuple[str, ...] = ()
    """The kinds that may stand there; by default all, and a plugin's always."""

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in kinds(self.folder) if not self.only or kind in self.only]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self.validate, serialization=core_schema.plain_serializer_function_ser_schema(_dump)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        options: list[dict[str, Any]] = []
        for kind in self.kinds:
            option = inlined(component(self.folder, kind).Config.model_json_schema())
            option["properties"]["kind"] = {"const": kind}
            option["required"] = sorted({"kind", *option.get("required", [])})
            options.append(option)
        # A plugin's own keys are not known here.
        options.append(
            {"type": "object", "properties": {"kind": {"type": "string", "pattern": r"\."}}, "required": ["kind"]}
        )
        return {"anyOf": [*options, {"type": "null"}] if self.optional else options}

    def validate(self, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Config) or (value is None and self.optional):
            return value
        if not isinstance(value, dict):
            raise _nested([Problem((), expected="keys and values with a `kind`", found=shorten(value))])
        if "kind" not in value:
            raise _nested([_kind_is_missing(self.kinds, value)])
        module = find_component(self.folder, value["kind"], (info.context or {}).get("plugins", ()), self.kinds)
        try:
            return module.Config.model_validate(value, context=info.context, by_alias=True, by_name=False)
        except ValidationError as invalid:
            raise _nested(problems_of(invalid, module.Config)) from None


def slots_of(config: BaseModel, folder: str) -> dict[str, Any]:
    """The fields of a config that hold a component of this slot -> the component's config, where one is given."""
    slots = {name: slot for name, field in type(config).model_fields.items() for slot in field.metadata}
    names = [name for name, slot in slots.items() if isinstance(slot, Slot) and slot.folder == folder]
    return {name: getattr(config, name) for name in names if getattr(config, name) is not None}


# --- components ----------------------------------------------------------------------------------


@cache
def kinds(folder: str) -> list[str]:
    """Names of the components of a slot: the files of its folder."""
    package = importlib.import_module(f"medvlm.{folder}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def component(folder: str, kind: str) -> ModuleType:
    """The module behind `kind`; a name with a dot is a module of a plugin package."""
    return importlib.import_module(kind if "." in kind else f"medvlm.{folder}.{kind}")


def find_component(folder: str, kind: Any, plugins: Sequence[str], accepted: Sequence[str] = ()) -> ModuleType:
    """Raises a nested error at `kind` for a component that is not there, or not among those that are accepted (by
    default all)."""
    if isinstance(kind, str) and "." in kind:
        return _find_plugin(kind, plugins)
    accepted = accepted or kinds(folder)
    if kind not in accepted:
        near = did_you_mean(str(kind), accepted)
        raise _nested(
            [Problem(("kind",), f"unknown kind of {folder} {shorten(kind)}{near} (accepts {', '.join(accepted)})")]
        )
    return component(folder, kind)


def _find_plugin(kind: str, plugins: Sequence[str]) -> ModuleType:
    package = kind.split(".")[0]
    if package not in plugins:
        raise _nested(
            [
                Problem(
                    ("kind",),
                    f"{kind!r} is a plugin's, but {package!r} is not listed; add `plugins: [{package}]` to the recipe",
                )
            ]
        )
    try:
        module = importlib.import_module(kind)
    except ImportError as reason:
        raise _nested(
            [Problem(("kind",), f"cannot import {kind!r} ({reason}); install the package that holds it")]
        ) from None
    if not _is_config(getattr(module, "Config", None)):
        raise _nested(
            [
                Problem(
                    ("kind",),
                    f"the module {kind!r} has no class Config; see medvlm/core/contracts.py for what a component"
                    " offers",
                )
            ]
        )
    return module


def _kind_is_missing(accepted: Sequence[str], value: dict[str, Any]) -> Problem:
    for key in value:
        if did_you_mean(key, ["kind"]):
            return _unknown((key,), ["kind"])
    return Problem((), f"`kind` is missing (accepts {', '.join(accepted)})")


# --- validation errors with places -----------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What is wrong at a path. Where `expected` is set, the message is made of it and `found`."""

    path: KeyPath
    message: str = ""
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        return self.message or f"expected {self.expected}, found {self.found}"


def validate(config: type[Config], document: Document, context: dict[str, Any] | None = None) -> Any:
    """The typed config. Raises RecipeError with one line a mistake, each with its place and remedy."""
    try:
        return config.model_validate(document.data, context=context, by_alias=True, by_name=False)
    except ValidationError as invalid:
        found = [_real_path(p, document.data) for p in problems_of(invalid, config)]
        raise refusal(_joined(found), document) from None


def refusal(problems: Iterable[Problem], document: Document) -> RecipeError:
    """One line a problem: place, dotted key, what is wrong. Unknown keys first: they explain what is missing."""
    ordered = sorted(problems, key=lambda p: not p.message.startswith("unknown key"))
    lines = (f"{place_of(p.path, document.marks)} {dotted(p.path, document.data)}".rstrip() + f": {p}" for p in ordered)
    return RecipeError("\n".join(dict.fromkeys(lines)))


def problems_of(invalid: ValidationError, config: type[BaseModel]) -> Iterator[Problem]:
    """Pydantic's errors in our words, those of nested slots with their full path."""
    for error in invalid.errors(include_url=False):
        path = tuple(error["loc"])
        if error["type"] == "nested":
            yield from (replace(p, path=(*path, *p.path)) for p in error["ctx"]["problems"])
        elif error["type"] == "extra_forbidden":
            yield _unknown(path, _keys_at(config, path[:-1]))
        elif error["type"] == "missing":
            yield Problem(path, MISSING)
        elif expected := _expected(error):
            yield Problem(path, expected=expected, found=shorten(error["input"]) + _hint(error))
        else:
            yield Problem(path, error["msg"].removeprefix("Value error, "))


MISSING = "is missing"
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "none_required": "nothing",
    "dict_type": "keys and values",
    "mapping_type": "keys and values",
    "model_type": "keys and values",
    "tuple_type": "a list",
    "list_type": "a list",
    "literal_error": "{expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_long": "at most {max_length} entries",
    "too_short": "at least {min_length} entries",
}


def _expected(error: ErrorDetails) -> str:
    return _EXPECTED.get(error["type"], "").format(**error.get("ctx", {}))


def _hint(error: ErrorDetails) -> str:
    value = error["input"]
    if error["type"] == "literal_error" and isinstance(value, str):
        return did_you_mean(value, error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", "))
    if error["type"] == "string_type" and isinstance(value, int | float):
        return ", write it in quotes"
    if error["type"] in ("tuple_type", "list_type") and isinstance(value, str):
        return f", write [{value}]"
    return ""


def _unknown(path: KeyPath, accepted: list[str]) -> Problem:
    return Problem(path, f"unknown key{did_you_mean(str(path[-1]), accepted)} (accepts {', '.join(accepted)})")


def _joined(problems: list[Problem]) -> list[Problem]:
    """What a union expects comes as one error a member: said in one line, or left out where a member fits down to a
    deeper error."""
    by_path: dict[KeyPath, list[Problem]] = {}
    for p in problems:
        by_path.setdefault(p.path, []).append(p)
    joined: list[Problem] = []
    for path, here in by_path.items():
        expected = [p for p in here if p.expected]
        joined += [p for p in here if not p.expected]
        if expected and not any(len(p) > len(path) and p[: len(path)] == path for p in by_path):
            joined.append(replace(expected[0], expected=" or ".join(dict.fromkeys(p.expected for p in expected))))
    return joined


def _real_path(problem: Problem, data: Any) -> Problem:
    """Without the names of union members that pydantic puts into a path; they are no keys of the data."""
    real: list[str | int] = []
    for part in problem.path:
        is_key = (
            part in data
            if isinstance(data, dict)
            else isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if is_key:
            real.append(part)
            data = step_into(data, part)
    if problem.message == MISSING:
        real.append(problem.path[-1])
    return replace(problem, path=tuple(real))


def _keys_at(annotation: Any, path: KeyPath) -> list[str]:
    """The keys that are known at a path below a type, in the order they are declared."""
    if _is_config(annotation):
        fields = {f.alias or n: f for n, f in annotation.model_fields.items()}
        if not path:
            return list(fields)
        return _keys_at(fields[str(path[0])].annotation, path[1:]) if path[0] in fields else []
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _keys_at(inner[0], path)
    if get_origin(annotation) in (Union, UnionType):
        return next((keys for t in inner if (keys := _keys_at(t, path))), [])
    if get_origin(annotation) in (dict, list, tuple) and path:
        return _keys_at(inner[1] if get_origin(annotation) is dict else inner[0], path[1:])
    return []


def _is_config(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _leaf_types(annotation: Any) -> list[Any]:
    args = get_args(annotation)
    args = args[1:] if get_origin(annotation) is dict else args
    return [t for a in args for t in _leaf_types(a)] if args else [annotation]


def _name(leaf: Any) -> str:
    names = {int: "a number", float: "a number", str: "text", type(None): "nothing", Ellipsis: "a list"}
    return names.get(leaf, repr(leaf)) if not isinstance(leaf, str) else repr(leaf)


def _bool_in(value: Any) -> KeyPath | None:
    if isinstance(value, bool):
        return ()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return next(((key, *path) for key, inner in items if (path := _bool_in(inner)) is not None), None)


def _at(value: Any, path: KeyPath) -> Any:
    for part in path:
        value = step_into(value, part)
    return value


def _nested(problems: Iterable[Problem]) -> PydanticCustomError:
    return PydanticCustomError("nested", "nested", {"problems": list(problems)})


def _dump(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value


# --- JSON schema -----------------------------------------------------------------------------------


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema with its $defs put where they are referred to, so that it can stand inside another."""
    definitions = schema.get("$defs", {})

    def put(part: Any) -> Any:
        if isinstance(part, list):
            return [put(p) for p in part]
        if not isinstance(part, dict):
            return part
        rest = {k: put(v) for k, v in part.items() if k not in ("$ref", "$defs")}
        return {**put(definitions[part["$ref"].removeprefix("#/$defs/")]), **rest} if "$ref" in part else rest

    made: dict[str, Any] = put(schema)
    return made
