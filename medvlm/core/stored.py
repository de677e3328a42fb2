"""Checks values that were read from JSON against type hints. A file from elsewhere may hold anything anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from medvlm.core.errors import CheckpointError

LARGEST = 10**15
"""No number of a sample or a run comes near it. Larger ones overflow somewhere, or ask for that much memory."""
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "nothing"}


def read_object(path: Path, form: Any, remedy: str, error: Callable[[str], Exception] = CheckpointError) -> Any:
    """What a JSON file of a run or a model holds. form: its type. remedy: what to do about a damaged file.

    Raises `error`, which names the file and what is wrong in it."""
    try:
        value = json.loads(path.read_bytes())
        require_type(value, form)
    except (OSError, ValueError, RecursionError) as reason:
        shown = f"{path.parent.name}/{path.name}"
        raise error(f"{shown} is damaged ({explain_misfit(reason)}); {remedy}") from None
    return value


def explain_misfit(reason: BaseException) -> str:
    """What is wrong with a file that could not be read, in a few words. Quotes nothing of the file."""
    if isinstance(reason, Misfit):
        return str(reason)
    if isinstance(reason, OSError):
        return f"it cannot be read: {reason.strerror or type(reason).__name__}"
    return "nested too deeply" if isinstance(reason, RecursionError) else "not JSON"


class Misfit(ValueError):
    """A value has another type than the hint says; the message names its place and quotes nothing."""


def require_type(value: Any, hint: Any, at: str = "") -> None:
    """Raises Misfit unless the value, as JSON has it, is of the type.

    hint: str, int, float, bool, None, Any, Literal, unions, list, dict, tuple (a list in JSON), or a TypedDict, which
    may have more keys. Numbers are finite, and at most LARGEST in size. at: the place of the value, for the message."""
    if hint is Any:
        return
    origin, inner = _take_apart(hint)
    if origin in (Union, UnionType):
        if not any(_fits(value, each) for each in inner):
            # A list that holds something wrong is described by its content, not by its kind.
            like = [each for each in inner if isinstance(value, list | dict) and _has_content(each)]
            require_type(value, like[0], at) if like else _refuse(at, " or ".join(map(_name, inner)), value)
    elif origin is Literal:
        if value not in inner or isinstance(value, bool) != any(isinstance(each, bool) for each in inner):
            _refuse(at, " or ".join(map(str, inner)), value)
    elif origin in (list, tuple) or hint in (list, tuple):
        _require_items(value, origin, inner, at)
    elif origin is dict or hint is dict or is_typeddict(hint):
        _require_values(value, hint, inner, at)
    elif not _is_plain(value, hint):
        _refuse(at, _name(hint), value)


@cache
def _take_apart(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(hint), get_args(hint)


def _has_content(hint: Any) -> bool:
    return get_origin(hint) is not None or is_typeddict(hint)


def _require_items(value: Any, origin: Any, inner: tuple[Any, ...], at: str) -> None:
    if not isinstance(value, list | tuple):
        _refuse(at, "a list", value)
    is_fixed = origin is tuple and inner[-1] is not ...
    if is_fixed and len(value) != len(inner):
        raise Misfit(f"{_place(at)}has {len(value)} entries, expected {len(inner)}")
    if not is_fixed and inner and inner[0] is str and set(map(type, value)) <= {str}:  # fast, for millions of names
        return
    for i, item in enumerate(value):
        require_type(item, inner[i] if is_fixed else inner[0] if inner else Any, f"{at}.{i}")


def _require_values(value: Any, hint: Any, inner: tuple[Any, ...], at: str) -> None:
    if not isinstance(value, dict):
        _refuse(at, "keys and values", value)
    if not is_typeddict(hint):
        for key, item in value.items():
            require_type(item, inner[1] if inner else Any, f"{at}.{key}")
        return
    for key, of in _hints_of(hint).items():
        origin, inner = _take_apart(of)
        if key in value:
            require_type(value[key], inner[0] if origin is NotRequired else of, f"{at}.{key}")
        elif origin is not NotRequired and hint.__total__:
            raise Misfit(f"{_place(f'{at}.{key}')}is missing")


@cache
def _hints_of(typed: Any) -> dict[str, Any]:
    return get_type_hints(typed, include_extras=True)


def require_fields(record: dict[str, Any], of: type, at: str = "") -> None:
    """Checks the fields of a dataclass that a record holds. A class whose hints cannot be resolved is not checked."""
    try:
        hints = _hints_of(of)
    except NameError:  # a plug-in that imports types for checkers alone
        return
    for name, value in record.items():
        if name in hints:
            require_type(value, hints[name], f"{at}.{name}")


def _fits(value: Any, hint: Any) -> bool:
    if hint in _NAMES:  # without the cost of an exception
        return _is_plain(value, hint)
    try:
        require_type(value, hint)
    except Misfit:
        return False
    return True


def _is_plain(value: Any, hint: Any) -> bool:
    if hint in (int, float):
        is_number = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
        return is_number and abs(value) <= LARGEST  # false for NaN too
    return isinstance(value, NoneType if hint is None else hint)


def _name(hint: Any) -> str:
    return _NAMES.get(NoneType if hint is None else hint) or ("a list" if get_origin(hint) in (list, tuple) else "keys")


def _place(at: str) -> str:
    shown = at.removeprefix(".")
    return f"{shown if len(shown) <= 80 else f'{shown[:77]}...'} " if shown else "it "


def _refuse(at: str, expected: str, value: Any) -> None:
    kinds = ((bool, "true or false"), (str, "text"), (list, "a list"), (dict, "keys and values"), (NoneType, "nothing"))
    found = next((name for kind, name in kinds if isinstance(value, kind)), "a number")
    if found == "a number" and "number" in expected:
        found = "a fraction" if isinstance(value, float) and abs(value) <= LARGEST else "a number out of range"
    raise Misfit(f"{_place(at)}is {found}, expected {expected}")
