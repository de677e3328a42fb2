"""Functions and classes of other packages, named by their paths in a recipe."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from medvlm.core.config import list_permitted
from medvlm.core.errors import RecipeError


def require_path(path: str) -> str:
    """Raises ValueError for what is no PACKAGE.MODULE.NAME."""
    if "." not in path or not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(f"{path!r} is no path; expected PACKAGE.MODULE.NAME")
    return path


def import_path(path: str, key: str) -> Callable[..., Any]:
    """key: of the recipe. Raises RecipeError for a package that the recipe does not list, because importing runs its
    code, and for a path that leads nowhere."""
    package, (where, _, name) = path.partition(".")[0], path.rpartition(".")
    if package not in list_permitted():
        raise RecipeError(f"{key}: {path} runs code of {package!r}; if you trust it, add plugins: [{package}]")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(where), name)
    except (ImportError, AttributeError) as reason:
        raise RecipeError(f"{key}: {path} cannot be imported ({reason})") from None
    return found
