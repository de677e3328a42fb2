"""Hooks of a recipe: modules of plug-ins with functions that training calls."""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from medvlm.core.config import import_listed, plugins_in
from medvlm.core.errors import RecipeError
from medvlm.core.problems import Problem, wrap_problems

FUNCTIONS = ("on_step", "on_validation", "on_checkpoint")


class HookName:
    """A field that holds the name of a module: `Annotated[str, HookName()]`. The module is in a package that `plugins`
    lists, and has at least one of FUNCTIONS."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self.validate, core_schema.str_schema())

    def validate(self, value: str, info: ValidationInfo) -> str:
        try:
            module = import_listed(value, plugins_in(info))
        except RecipeError as reason:
            raise wrap_problems([Problem((), str(reason))]) from None
        if not any(hasattr(module, name) for name in FUNCTIONS):
            raise wrap_problems([Problem((), f"the module {value!r} has none of the functions {', '.join(FUNCTIONS)}")])
        return value
