"""Errors in configs, with file and line: pydantic's errors in our own words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from medvlm.core.document import Document, KeyPath, format_path, place_of, step_into
from medvlm.core.errors import RecipeError, did_you_mean, list_some, shorten


@dataclass(frozen=True)
class Problem:
    """An error at a path. If `expected` is set, the message is made from it and `found`."""

    path: KeyPath
    message: str = ""
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        return self.message or f"expected {self.expected}, found {self.found}"


def validate(config: type[BaseModel], document: Document, context: dict[str, Any] | None = None) -> Any:
    """The typed config. Raises RecipeError with one line per mistake, each with file, line and remedy."""
    try:
        return config.model_validate(document.data, context=context, by_alias=True, by_name=False)
    except ValidationError as invalid:
        found = [_strip_union_names(p, document.data) for p in problems_of(invalid, config)]
        raise make_error(_join_unions(found), document) from None


def make_error(problems: Iterable[Problem], document: Document) -> RecipeError:
    """An error with one line per problem: file and line, dotted key, and what is wrong. Unknown keys come first,
    because they often explain missing ones."""
    ordered = sorted(problems, key=lambda p: not p.message.startswith("unknown key"))
    lines = (
        f"{place_of(p.path, document.marks)} {format_path(p.path, document.data)}".rstrip() + f": {p}" for p in ordered
    )
    return RecipeError("\n".join(dict.fromkeys(lines)))


def problems_of(invalid: ValidationError, config: type[BaseModel]) -> Iterator[Problem]:
    """Converts the errors of pydantic. Errors within slots get their full path."""
    for error in invalid.errors(include_url=False):
        path = tuple(error["loc"])
        if error["type"] == "nested":
            yield from (replace(p, path=(*path, *p.path)) for p in error["ctx"]["problems"])
        elif error["type"] == "extra_forbidden":
            yield report_unknown_key(path, _list_keys(config, path[:-1]))
        elif error["type"] == "missing":
            yield Problem(path, MISSING)
        elif expected := _describe_expected(error):
            yield Problem(path, expected=expected, found=shorten(error["input"]) + _suggest(error))
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


def _describe_expected(error: ErrorDetails) -> str:
    return _EXPECTED.get(error["type"], "").format(**error.get("ctx", {}))


def _suggest(error: ErrorDetails) -> str:
    value = error["input"]
    if error["type"] == "literal_error" and isinstance(value, str):
        return did_you_mean(value, error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", "))
    if error["type"] == "string_type" and isinstance(value, int | float):
        return ", write it in quotes"
    if error["type"] in ("tuple_type", "list_type") and isinstance(value, str):
        return f", write [{value}]"
    return ""


def report_unknown_key(path: KeyPath, accepted: list[str]) -> Problem:
    return Problem(path, f"unknown key{did_you_mean(str(path[-1]), accepted)} (accepts {list_some(accepted)})")


def _join_unions(problems: list[Problem]) -> list[Problem]:
    """Joins the errors of a union, of which pydantic reports one per member. They are left out if a member fits except
    for a deeper error."""
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


def _strip_union_names(problem: Problem, data: Any) -> Problem:
    """Removes the names of union members that pydantic adds to a path, because these are not keys of the data."""
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


def _list_keys(annotation: Any, path: KeyPath) -> list[str]:
    """The accepted keys at a path below a type, in the order of their declaration."""
    if is_config(annotation):
        fields = {f.alias or n: f for n, f in annotation.model_fields.items()}
        if not path:
            return list(fields)
        return _list_keys(fields[str(path[0])].annotation, path[1:]) if path[0] in fields else []
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _list_keys(inner[0], path)
    if get_origin(annotation) in (Union, UnionType):
        return next((keys for t in inner if (keys := _list_keys(t, path))), [])
    if get_origin(annotation) in (dict, list, tuple) and path:
        return _list_keys(inner[1] if get_origin(annotation) is dict else inner[0], path[1:])
    return []


def is_config(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def wrap_problems(problems: Iterable[Problem]) -> PydanticCustomError:
    return PydanticCustomError("nested", "nested", {"problems": list(problems)})
