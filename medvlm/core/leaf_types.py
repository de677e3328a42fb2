"""The types that a field holds, and booleans in place of numbers."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from medvlm.core.document import KeyPath


def list_leaf_types(annotation: Any) -> list[Any]:
    """The types of the values of a field: of a list or a mapping those of its items."""
    args = get_args(annotation)
    args = args[1:] if get_origin(annotation) is dict else args
    return [t for a in args for t in list_leaf_types(a)] if args else [annotation]


def name_type(leaf: Any) -> str:
    """A type as messages name it."""
    names = {int: "a number", float: "a number", str: "text", type(None): "nothing", Ellipsis: "a list"}
    return names.get(leaf, repr(leaf)) if not isinstance(leaf, str) else repr(leaf)


def find_bool(value: Any) -> KeyPath | None:
    """The path of the first `true` or `false` within a value."""
    if isinstance(value, bool):
        return ()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return next(((key, *path) for key, inner in items if (path := find_bool(inner)) is not None), None)
