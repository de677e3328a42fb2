"""Checks `config:` of transformers models against what their config classes take. The classes are read as text, because
importing transformers takes seconds."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medvlm.core.card import Card
from medvlm.core.document import KeyPath
from medvlm.core.errors import did_you_mean, list_some
from medvlm.core.problems import Problem
from medvlm.recipe.schema import Recipe

MODEL_TYPE = "model_type"
ANYWHERE = frozenset({"tie_word_embeddings"})
"""Read by all models, although not all classes declare it."""


def check_config_keys(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """Nothing for a part that names a published model, and where transformers is not installed or laid out otherwise;
    building the model reports those."""
    for path, part in _list_parts(recipe):
        config = getattr(part, "config", None)
        if isinstance(config, Mapping) and MODEL_TYPE in config:
            is_of_plugin = "." in part.kind
            if not is_of_plugin or str(config[MODEL_TYPE]) in (_list_classes() or {}):
                yield from find_unknown(config, (*path, "config"))


def find_unknown(config: Mapping[str, Any], path: KeyPath = ()) -> Iterator[Problem]:
    """A problem for each key that the config class of its `model_type` does not take, in inner configs too."""
    classes = _list_classes()
    if not classes or MODEL_TYPE not in config:
        return
    model_type = config[MODEL_TYPE]
    if not isinstance(model_type, str) or model_type not in classes:
        near = did_you_mean(str(model_type), classes)
        yield Problem((*path, MODEL_TYPE), f"transformers has no model type {model_type!r}{near}")
        return
    found = _find_class(*classes[model_type])
    if found is not None:
        yield from _compare(config, found, path)


def drop_unknown(config: Mapping[str, Any]) -> dict[str, Any]:
    """A published config without the keys that its class ignores."""
    unknown = [problem.path for problem in find_unknown(config) if problem.path[-1] != MODEL_TYPE]
    return _drop(config, unknown)


def _drop(config: Mapping[str, Any], unknown: list[KeyPath]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if (key,) not in unknown}
    for key, value in kept.items():
        if below := [path[1:] for path in unknown if path[0] == key]:
            kept[key] = _drop(value, below)
    return kept


def _compare(config: Mapping[str, Any], taken: Taken, path: KeyPath) -> Iterator[Problem]:
    for key, value in config.items():
        if key in taken.inner:
            inner = taken.inner[key]
            if isinstance(value, Mapping) and inner is not None:
                yield from _compare(value, inner, (*path, key))
            elif isinstance(value, Mapping) and MODEL_TYPE in value:
                yield from find_unknown(value, (*path, key))
        elif key != MODEL_TYPE and key not in taken.keys | taken.others | ANYWHERE and not key.startswith("_"):
            near = did_you_mean(key, sorted(taken.keys | taken.inner.keys()))
            known = "" if near else f" (it has {list_some(sorted(taken.own))})"
            yield Problem((*path, key), f"{taken.name} has no such key{near}{known}")


@dataclass(frozen=True)
class Taken:
    """What a config class takes.

    own: the fields that it declares itself. keys: fields, with those of its bases, and their other names. others: names
    that its code reads from its arguments, such as those of older versions. inner: configs of parts; None if their
    `model_type` says their class."""

    name: str
    own: frozenset[str]
    keys: frozenset[str]
    others: frozenset[str]
    inner: dict[str, Taken | None]


def _list_parts(recipe: Recipe) -> Iterator[tuple[KeyPath, Any]]:
    for name, encoder in recipe.model.encoders.items():
        yield from _list_encoders(encoder, ("model", "encoders", name))
    if recipe.model.language is not None:
        yield ("model", "language"), recipe.model.language
    for i, stage in enumerate(recipe.stages):
        yield from ((("stages", i, name), text) for name, text in stage.list_text_towers().items())


def _list_encoders(encoder: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """The encoder and those inside it."""
    yield path, encoder
    for key in type(encoder).model_fields:
        inner = getattr(encoder, key)
        if key != "connector" and hasattr(inner, "kind"):
            yield from _list_encoders(inner, (*path, key))
        for place, each in enumerate(inner) if isinstance(inner, tuple) else ():
            if hasattr(each, "kind"):
                yield from _list_encoders(each, (*path, key, place))


# --- config classes, as text --------------------------------------------------------------------------


@cache
def _list_classes() -> dict[str, tuple[Path, str]]:
    """Model type -> the file and the name of its config class; {} if transformers is not laid out as expected."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return {}
    root = Path(spec.origin).parent / "models"
    tree = _parse(root / "auto" / "auto_mappings.py")
    tables = {
        target.id: node.value
        for node in (tree.body if tree else [])
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    names = _read_pairs(tables.get("CONFIG_MAPPING_NAMES"))
    folders = _read_pairs(tables.get("SPECIAL_MODEL_TYPE_TO_MODULE_NAME"))
    found = {}
    for model_type, name in names.items():
        folder = folders.get(model_type, model_type).replace("-", "_")
        found[model_type] = (root / folder / f"configuration_{folder}.py", name)
    return found


def _read_pairs(table: ast.expr | None) -> dict[str, str]:
    """The pairs of texts in `OrderedDict([(a, b), ...])`."""
    pairs = [node.elts for node in ast.walk(table) if isinstance(node, ast.Tuple)] if table else []
    return {
        str(pair[0].value): str(pair[1].value)
        for pair in pairs
        if len(pair) == 2 and isinstance(pair[0], ast.Constant) and isinstance(pair[1], ast.Constant)
    }


@cache
def _parse(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return None


@cache
def _find_class(file: Path, name: str) -> Taken | None:
    """None if the class is not there."""
    tree = _parse(file)
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None) if tree else None
    if tree is None or node is None:
        return None
    bases = [_find_named(file, tree, base.id) for base in node.bases if isinstance(base, ast.Name)]
    own = frozenset(n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name))
    tables = {
        target.id: n.value
        for n in node.body
        if isinstance(n, ast.Assign) and isinstance(n.value, ast.Dict)
        for target in n.targets
        if isinstance(target, ast.Name)
    }
    functions = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    inner = {key: each for base in bases if base for key, each in base.inner.items()}
    for key, value in _read_table(tables.get("sub_configs_defaults", tables.get("sub_configs"))):
        inner[key] = _find_named(file, tree, value.id) if isinstance(value, ast.Name) else None
    other_names = frozenset(key for key, _ in _read_table(tables.get("attribute_map")))
    return Taken(
        name,
        own,
        own.union(other_names, *(base.keys for base in bases if base)),
        _list_mentioned(functions).union(*(base.others for base in bases if base)),
        inner,
    )


def _read_table(table: ast.expr | None) -> Iterator[tuple[str, ast.expr]]:
    for key, value in zip(table.keys, table.values, strict=True) if isinstance(table, ast.Dict) else ():
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value, value


def _list_mentioned(functions: list[ast.FunctionDef]) -> frozenset[str]:
    """Arguments of __init__, properties that can be set, and names in `kwargs.pop("rope_theta")` and the like."""
    found: set[str] = set()
    for function in functions:
        if function.name in ("__init__", "__post_init__"):
            found |= {each.arg for each in (*function.args.args, *function.args.kwonlyargs)}
        if any(isinstance(each, ast.Attribute) and each.attr == "setter" for each in function.decorator_list):
            found.add(function.name)
        for node in ast.walk(function):
            found |= {str(each.value) for each in _list_read(node) if isinstance(each, ast.Constant)}
    return frozenset(found)


def _list_read(node: ast.AST) -> Iterator[ast.expr]:
    """The keys that a node reads from `kwargs`."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="kwargs")), args=[key, *_]):
            yield key
        case ast.Subscript(value=ast.Name(id="kwargs"), slice=key):
            yield key
        case ast.Compare(left=key, comparators=[ast.Name(id="kwargs")]):
            yield key


def _find_named(file: Path, tree: ast.Module, name: str) -> Taken | None:
    """A class of this file, or one that it imports from another file of the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and any(alias.name == name for alias in node.names):
            parts = (node.module or "").split(".")
            return _find_class(file.parents[node.level - 1].joinpath(*parts).with_suffix(".py"), name)
    return _find_class(file, name)
