"""Typed configs from YAML, with errors that name file, line, column and dotted key.

A component is a module: `kind: timm` in the slot `encoders` is `medvlm/encoders/timm.py`, and
`kind: mylab.swin3d` is that module of a package listed under `plugins`. There is no registry.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from medvlm.core.document import KeyPath, step_into
from medvlm.core.errors import RecipeError, did_you_mean, list_some, shorten
from medvlm.core.json_schemas import describe_kind
from medvlm.core.leaf_types import find_bool, list_leaf_types, name_type
from medvlm.core.problems import Problem, is_config, problems_of, report_unknown_key, wrap_problems


class Config(BaseModel):
    """Base of all sections of recipes and cards. Unknown keys are errors, and instances are immutable.

    A field with a trailing underscore (`from_`) has an alias. YAML accepts only the alias, Python code both.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _take_out_nulls(cls, data: Any) -> Any:
        """`null` removes what a base has: a key gets its default, an entry of a mapping is left out. It stays where it
        is a value itself, and where a value is required."""
        if not isinstance(data, dict):
            return data
        fields = {key: field for name, field in cls.model_fields.items() for key in (name, field.alias or name)}
        kept = {}
        for key, value in data.items():
            hint = _hint_of(fields[key]) if key in fields else Any
            if value is not None or takes_null(hint) or fields[key].is_required():
                kept[key] = leave_out_nulls(value, hint)
        return kept

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_for_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic would convert `true` to 1, even within lists and mappings of numbers.
        types = list_leaf_types(cls.model_fields[info.field_name or ""].annotation)
        path = find_bool(value)
        if path is not None and not any(t in (bool, Any) or is_config(t) for t in types):
            expected = " or ".join(dict.fromkeys(map(name_type, types)))
            raise wrap_problems([Problem(path, expected=expected, found=shorten(_get_at(value, path)))])
        return value


@dataclass(frozen=True)
class Slot:
    """A field whose `kind` selects the module with its Config: `Annotated[Any, Slot("encoders")]`."""

    folder: str
    optional: bool = False
    """Whether `null` is allowed, e.g. to remove a part of the recipe that is extended."""
    having: str = ""
    """An attribute of the module. Only kinds for which it is true are allowed, and all kinds of plug-ins."""
    or_name: bool = False
    """Whether a bare kind is allowed, for one without settings. It stays a string."""
    or_default: bool = False
    """Whether a bare kind is allowed, which stands for its default settings."""
    brief: bool = False
    """Whether a JSON schema lists its kinds and not their keys, which every place of the owner would repeat."""

    @property
    def kinds(self) -> list[str]:
        if not self.having:
            return kinds(self.folder)
        return [kind for kind in kinds(self.folder) if getattr(component(self.folder, kind), self.having, False)]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self.validate, serialization=core_schema.plain_serializer_function_ser_schema(_dump)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        options: list[dict[str, Any]] = []
        if self.brief:
            options.append({"type": "object", "properties": {"kind": {"enum": self.kinds}}, "required": ["kind"]})
        else:
            options += [describe_kind(component(self.folder, kind).Config, kind) for kind in self.kinds]
        # The keys of plug-ins are not known here.
        options.append(
            {"type": "object", "properties": {"kind": {"type": "string", "pattern": r"\."}}, "required": ["kind"]}
        )
        if self.or_name or self.or_default:
            options += [{"enum": self.kinds}, {"type": "string", "pattern": r"\."}]
        return {"anyOf": [*options, {"type": "null"}] if self.optional else options}

    def validate(self, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Config) or (value is None and self.optional):
            return value
        plugins = plugins_in(info)
        if self.or_name and isinstance(value, str):
            check_kind(self.folder, value, plugins, self.kinds)
            return value
        value = {"kind": value} if self.or_default and isinstance(value, str) else value
        if not isinstance(value, dict):
            raise wrap_problems([Problem((), expected="keys and values with a `kind`", found=shorten(value))])
        if "kind" not in value:
            raise wrap_problems([_report_missing_kind(self.kinds, value)])
        module = find_component(self.folder, value["kind"], plugins, self.kinds)
        try:
            return module.Config.model_validate(value, context=info.context, by_alias=True, by_name=False)
        except ValidationError as invalid:
            raise wrap_problems(problems_of(invalid, module.Config)) from None


@dataclass(frozen=True)
class KindName:
    """A field that holds the bare name of a kind: `Annotated[str, KindName("tasks")]`."""

    folder: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self.validate, core_schema.str_schema())

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": kinds(self.folder)}, {"type": "string", "pattern": r"\."}]}

    def validate(self, value: str, info: ValidationInfo) -> str:
        check_kind(self.folder, value, plugins_in(info))
        return value


def slots_of(config: BaseModel, folder: str) -> dict[str, Any]:
    """Field of a config that holds a component of this slot -> the config of the component, if there is one."""
    slots = {name: slot for name, field in type(config).model_fields.items() for slot in field.metadata}
    names = [name for name, slot in slots.items() if isinstance(slot, Slot) and slot.folder == folder]
    return {name: getattr(config, name) for name in names if getattr(config, name) is not None}


# --- null ----------------------------------------------------------------------------------------


def _hint_of(field: FieldInfo) -> Any:
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def takes_null(hint: Any) -> bool:
    """Whether `null` is a value of this type."""
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        slots = [each for each in inner[1:] if isinstance(each, Slot)]
        return slots[0].optional if slots else takes_null(inner[0])
    if get_origin(hint) in (Union, UnionType):
        return any(map(takes_null, inner))
    return hint in (Any, None, NoneType)


def leave_out_nulls(value: Any, hint: Any) -> Any:
    """A mapping without the entries that are `null`, unless its entries may be."""
    if not isinstance(value, dict):
        return value
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        return leave_out_nulls(value, inner[0])
    if get_origin(hint) in (Union, UnionType):
        return leave_out_nulls(value, next((each for each in inner if get_origin(each) is dict), Any))
    if get_origin(hint) is not dict:
        return value
    kept = {key: each for key, each in value.items() if each is not None or takes_null(inner[1])}
    return {key: leave_out_nulls(each, inner[1]) for key, each in kept.items()}


@cache
def kinds(folder: str) -> list[str]:
    """Names of the components of a slot: the files of its folder."""
    package = importlib.import_module(f"medvlm.{folder}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg and not m.name.startswith("_"))


_PERMITTED: set[str] = set()


def permit(plugins: Iterable[str]) -> None:
    """Permits kinds of these packages in this process. Called with the `plugins` of a recipe, a data card or an
    exported model when it is loaded."""
    _PERMITTED.update(name for name in plugins if isinstance(name, str))


def list_permitted() -> tuple[str, ...]:
    """The permitted packages, which child processes must permit too."""
    return tuple(sorted(_PERMITTED))


def plugins_in(info: ValidationInfo) -> Sequence[str]:
    """Packages that the validated document may use: those that it lists, else those that are permitted."""
    listed: Sequence[str] = (info.context or {}).get("plugins", list_permitted())
    return listed


def component(folder: str, kind: str) -> ModuleType:
    """The module behind `kind`; a name with a dot is a module of a plugin package.

    Raises RecipeError for a package that is not permitted. A kind comes from a file, and importing runs code.
    """
    if "." in kind and kind.partition(".")[0] not in _PERMITTED:
        raise RecipeError(_explain_refusal(kind))
    return importlib.import_module(kind if "." in kind else f"medvlm.{folder}.{kind}")


def is_available(folder: str, kind: str) -> bool:
    """Whether a kind exists, is permitted, and can be imported. For kinds named in files from elsewhere."""
    if "." not in kind:
        return kind in kinds(folder)
    try:
        component(folder, kind)
    except (RecipeError, ImportError):
        return False
    return True


def find_component(folder: str, kind: Any, plugins: Sequence[str], accepted: Sequence[str] = ()) -> ModuleType:
    """Raises an error at the key `kind` for a component that does not exist or is not accepted (by default all are)."""
    try:
        return look_up(folder, kind, plugins, accepted)
    except RecipeError as reason:
        raise wrap_problems([Problem(("kind",), str(reason))]) from None


def check_kind(folder: str, kind: str, plugins: Sequence[str], accepted: Sequence[str] = ()) -> None:
    """Like find_component, for a bare name: the error is at the name itself."""
    try:
        look_up(folder, kind, plugins, accepted)
    except RecipeError as reason:
        raise wrap_problems([Problem((), str(reason))]) from None


def look_up(folder: str, kind: Any, plugins: Sequence[str], accepted: Sequence[str] = ()) -> ModuleType:
    """Like find_component, but raises a RecipeError of one line, without file and line."""
    if isinstance(kind, str) and "." in kind:
        return _import_plugin(kind, plugins)
    accepted = accepted or kinds(folder)
    if kind not in accepted:
        near = did_you_mean(str(kind), accepted)
        raise RecipeError(f"unknown kind of {folder} {shorten(kind)}{near} (accepts {list_some(accepted)})")
    return component(folder, kind)


def import_listed(kind: str, plugins: Sequence[str]) -> ModuleType:
    """A module of a package that is listed under `plugins`. Raises RecipeError if it is not, or cannot be imported."""
    if kind.partition(".")[0] not in plugins:
        raise RecipeError(_explain_refusal(kind))
    try:
        module = importlib.import_module(kind)
    except ImportError as reason:
        raise RecipeError(f"cannot import {kind!r} ({reason}); install the package that holds it") from None
    return module


def _import_plugin(kind: str, plugins: Sequence[str]) -> ModuleType:
    module = import_listed(kind, plugins)
    if not is_config(getattr(module, "Config", None)):
        raise RecipeError(
            f"the module {kind!r} has no class Config; see medvlm/core/contracts.py for what a component offers"
        )
    return module


def _explain_refusal(kind: str) -> str:
    package = kind.partition(".")[0]
    listed = f"`plugins: [{package}]`"
    return f"{kind!r} is a plugin's, but {package!r} is not listed; add {listed} to the recipe, or to the card"


def _report_missing_kind(accepted: Sequence[str], value: dict[str, Any]) -> Problem:
    for key in value:
        if did_you_mean(key, ["kind"]):
            return report_unknown_key((key,), ["kind"])
    return Problem((), f"`kind` is missing (accepts {list_some(accepted)})")


def _get_at(value: Any, path: KeyPath) -> Any:
    for part in path:
        value = step_into(value, part)
    return value


def _dump(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
