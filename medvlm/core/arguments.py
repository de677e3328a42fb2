"""Says which setting of a recipe a library does not take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from medvlm.core.errors import RecipeError, UserError, did_you_mean, list_some

_UNEXPECTED = re.compile(r"([\w.]+)\(\) got an unexpected keyword argument '(\w+)'")


@contextmanager
def refuse_unknown(
    where: str, args: Mapping[str, Any], find_modules: Callable[[], Collection[ModuleType]]
) -> Iterator[None]:
    """Raises RecipeError for a TypeError about one of `args`, with the nearest name, and as refuse_values() does for
    what else the library raises.

    where: the dotted key of `args`. find_modules: where the class or function that refused it may be."""
    try:
        with refuse_values(f"{where} or preprocess.size"):
            yield
    except RecipeError as refused:
        reason = refused.__cause__
        found = _UNEXPECTED.search(str(reason)) if isinstance(reason, TypeError) else None
        if found is None or found[2] not in args:
            raise
        name, key = found[1].removesuffix(".__init__"), found[2]
        taken = next((each for module in find_modules() if (each := getattr(module, name, None)) is not None), None)
        known = [] if taken is None else sorted(_list_parameters(taken))
        near = did_you_mean(key, known)
        listed = "" if near or not known else f" (it takes {list_some(known)})"
        raise RecipeError(f"{where}.{key}: {name} takes no such argument{near}{listed}") from None


def _list_parameters(taken: Any) -> Iterator[str]:
    for name, parameter in inspect.signature(taken).parameters.items():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            yield name


@contextmanager
def refuse_values(where: str) -> Iterator[None]:
    """Raises RecipeError for settings with which a library makes no config, or builds no model.

    where: the dotted key of the settings. Wrap only calls of the library: whatever it raises on wrong values, from
    ZeroDivisionError to RuntimeError, is blamed on them."""
    import torch
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (UserError, OSError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as reason:
        said = " ".join(str(reason.__cause__ or reason).split())
        is_said = isinstance(reason, StrictDataclassError | TypeError | ValueError)
        named = said if is_said else f"{type(reason).__name__}: {said}"
        raise RecipeError(f"{where}: {named[:300]}; change this value") from reason
