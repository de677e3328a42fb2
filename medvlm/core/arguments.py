"""Says which setting of a recipe the class of a library does not take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from medvlm.core.errors import RecipeError, did_you_mean, list_some

_UNEXPECTED = re.compile(r"([\w.]+)\(\) got an unexpected keyword argument '(\w+)'")


@contextmanager
def refuse_unknown(
    where: str, args: Mapping[str, Any], find_modules: Callable[[], Collection[ModuleType]]
) -> Iterator[None]:
    """Raises RecipeError for a TypeError about one of `args`, with the nearest name.

    where: the dotted key of `args`. find_modules: where the class or function that refused it may be."""
    try:
        yield
    except TypeError as reason:
        found = _UNEXPECTED.search(str(reason))
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
    """Raises RecipeError for values that a config class of transformers does not take."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (StrictDataclassError, TypeError, ValueError, ZeroDivisionError) as reason:
        said = " ".join(str(reason.__cause__ or reason).split())
        raise RecipeError(f"{where}: {said[:300]}; change this value") from None
