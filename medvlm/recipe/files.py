"""The files of weights that a recipe names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medvlm.core.contracts import LoadedFile
from medvlm.core.document import KeyPath
from medvlm.core.problems import Problem
from medvlm.recipe.schema import Recipe


def list_missing_files(recipe: Recipe) -> list[Problem]:
    """Files of `weights` that are not on this machine. Such a recipe can be validated, but not trained."""
    parts = [*_list_parts(recipe.model, ("model",)), *_list_parts(recipe.stages, ("stages",))]
    return [
        Problem((*path, "weights"), f"{part.weights}: there is no such file; a relative path is relative to the folder"
                " in which medvlm runs")
        for path, part in parts
        if part.weights and not Path(part.weights).is_file()
    ]  # fmt: skip


def _list_parts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, LoadedFile]]:
    """Every part below `value` that can read a file, with its key."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, LoadedFile):
        yield path, value
    if isinstance(value, BaseModel):
        inner = [(name, getattr(value, name)) for name in type(value).model_fields]
    elif isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, list | tuple):
        inner = list(enumerate(value))
    for key, each in inner:
        yield from _list_parts(each, (*path, key))
