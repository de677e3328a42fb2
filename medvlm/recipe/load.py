"""Loads a recipe with its bases, overrides and data cards, checks it, and saves it in a run folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from medvlm.core.card import Card, copy_text, load_card
from medvlm.core.config import permit
from medvlm.core.document import (
    COMMAND_LINE,
    Document,
    KeyPath,
    format_path,
    merge_documents,
    read_yaml,
    set_value,
    to_yaml,
)
from medvlm.core.errors import RecipeError, did_you_mean, list_some, shorten
from medvlm.core.problems import Problem, make_error
from medvlm.core.problems import validate as validate_config
from medvlm.core.run import RunFolder, write_json
from medvlm.core.secrets import SECRET
from medvlm.core.stored import read_object
from medvlm.recipe.files import list_missing_files
from medvlm.recipe.graph import find_outside_origins, find_teachers
from medvlm.recipe.origins import Origin
from medvlm.recipe.rules import find_problems
from medvlm.recipe.schema import Recipe
from medvlm.recipe.summary import summarise

__all__ = ["LoadedRecipe", "Recipe", "find_card", "find_shipped", "load", "load_run", "validate"]


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that has passed every check; cards: source -> its data card."""

    recipe: Recipe
    cards: dict[str, Card]
    card_paths: dict[str, Path]
    document: Document

    def resolve(self) -> dict[str, Any]:
        """Every key with its value, including defaults, in plain JSON types, without paths to data."""
        plain = self.recipe.model_dump(mode="json", by_alias=True, exclude={"extends": True, "cache": True})
        for source in plain["data"].values():
            del source["root"], source["shards"], source["salt_file"]
        return plain

    @property
    def recipe_hash(self) -> str:
        """SHA-256, in hex, of the recipe and its cards. Paths to data do not count."""
        plain = self.resolve()
        for name, source in plain["data"].items():
            source["card"] = self.cards[name].model_dump(mode="json", by_alias=True)
        return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def list_places(self) -> dict[str, dict[str, str]]:
        """Source -> its `root`, `shards` and `salt_file` as absolute paths; empty for generated data."""
        given = {
            name: {"root": source.root, "shards": source.shards, "salt_file": source.salt_file}
            for name, source in self.recipe.data.items()
        }
        return {
            name: {key: _make_absolute(where) for key, where in keys.items() if where} for name, keys in given.items()
        }

    def list_missing_data(self) -> list[Problem]:
        """Sources without `root` or `shards`. Such a recipe can be validated, but not trained."""
        return [
            Problem(("data", name), f"root is not set; give data.{name}.root=DIR, the folder of its files")
            for name, where in self.list_places().items()
            if not {"root", "shards"} & where.keys() and self.cards[name].access != "generated"
        ]

    def list_missing_origins(self) -> list[Problem]:
        """Origins in `from`, and teachers, that are not on this machine. Such a recipe can be validated, but not
        trained."""
        origins: dict[KeyPath, Origin] = {}
        for i, stage in enumerate(self.recipe.stages):
            outside = find_outside_origins(self.recipe, i)
            origins |= {("stages", i, "from", *path): origin for path, origin in outside.items()}
            origins |= {("stages", i, key): origin for key, origin in find_teachers(stage).items()}
        return [Problem(path, problem) for path, origin in origins.items() if (problem := origin.find_problem())]

    def require_stages(self) -> None:
        """Raises RecipeError if there is nothing to train."""
        if not self.recipe.stages:
            raise make_error(
                [Problem(("stages",), "is empty, so nothing is trained; `medvlm evaluate` takes this recipe as it is")],
                self.document,
            )

    def require_data(self) -> None:
        """Raises RecipeError if a source has no `root` or `shards` and is not generated, or if the origin of a stage or
        a file of weights is missing."""
        missing = [*self.list_missing_data(), *self.list_missing_origins(), *list_missing_files(self.recipe)]
        if missing:
            raise make_error(missing, self.document)

    def save(self, run: Path) -> None:
        """Writes recipe.resolved.yaml and a copy of each card in cards/, which `load_run` reads back, and places.json,
        which holds private paths and is never exported."""
        plain = self.resolve()
        for name, source in plain["data"].items():
            copied = run / "cards" / f"{name}.yaml"
            copied.parent.mkdir(parents=True, exist_ok=True)
            _write(copied, copy_text(self.cards[name], self.card_paths[name]))
            source["card"] = f"cards/{name}.yaml"
        write_json(run / "places.json", self.list_places())
        _write(RunFolder(run).recipe, f"# {self.recipe_hash}\n{to_yaml(plain)}")


def load(path: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe with its bases and overrides, checked. Raises RecipeError with every mistake that was found.

    path: a file, or the name of a shipped recipe, with or without `.yaml`. overrides: key.path=value.
    """
    folders = [Path(), find_shipped("recipes").parent, find_shipped("recipes")]
    found = _find(str(path), folders) or _find(f"{path}.yaml", folders)
    if found is None:
        raise RecipeError(
            f"{path}: there is no such recipe{_suggest(str(path), 'recipes')} (shipped: {_list_shipped('recipes')})"
        )
    return _check(_load_with_bases(found, _shorten_path(found), ()), found.parent, overrides)


def load_plain(plain: Mapping[str, Any], overrides: Sequence[str] = ()) -> LoadedRecipe:
    """The same for a recipe that stands in no file. Its cards are looked up in the current folder and among the shipped
    ones."""
    return _check(Document(dict(plain), {(): (COMMAND_LINE, 0, 0)}), Path(), overrides)


def _check(document: Document, beside: Path, overrides: Sequence[str]) -> LoadedRecipe:
    """beside: the folder of the recipe."""
    for override in overrides:
        if override.split("=")[0].strip() == "extends":
            raise RecipeError(f"{COMMAND_LINE} extends: set it in a file; the command line sets single keys")
        document = set_value(document, override)
    if secrets := _find_secrets(document.data, ()):
        raise make_error(secrets, document)
    plugins = document.data.get("plugins")
    context = {"plugins": tuple(plugins) if isinstance(plugins, list) else ()}
    permit(context["plugins"])
    recipe: Recipe = validate_config(Recipe, document, context)
    paths = {name: _locate_card(name, source.card, beside, document) for name, source in recipe.data.items()}
    cards = {name: load_card(paths[name], source.card, recipe.plugins) for name, source in recipe.data.items()}
    if wrong := find_problems(recipe, cards):
        raise make_error(wrong, document)
    return LoadedRecipe(recipe, cards, paths, document)


def load_run(run: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe of a run, with the paths to data that it was trained with. overrides: key.path=value, which do not
    change what was trained. Raises RecipeError if the folder is not a run."""
    if not RunFolder(run).recipe.is_file():
        raise RecipeError(
            f"{run}: is not a run folder (it has no {RunFolder(run).recipe.name}); `medvlm train RECIPE` makes one"
        )
    places: dict[str, dict[str, str]] = {}
    if (run / "places.json").exists():
        remedy = "it says where the data of the run are; run the recipe again to write it"
        places = read_object(run / "places.json", dict[str, PlaceRecord], remedy, RecipeError)
    known = [
        f"data.{name}.{key}={json.dumps(keys[key])}"
        for name, keys in places.items()
        for key in PlaceRecord.__annotations__
        if key in keys
    ]
    return load(RunFolder(run).recipe, [*known, *overrides])


class PlaceRecord(TypedDict):
    """Where the data of a source are, in places.json."""

    root: NotRequired[str]
    shards: NotRequired[str]
    salt_file: NotRequired[str]


def validate(path: str | Path, overrides: Sequence[str] = ()) -> list[str]:
    """Lines that say what was checked, and what can only be checked with weights or data. Raises RecipeError like
    `load`."""
    loaded = load(path, overrides)
    first = f"{path}: a valid recipe ({loaded.recipe.name}, {loaded.recipe_hash[:12]})"
    missing = [
        f"{format_path(p.path, loaded.document.data)}: {p}"
        for p in (*loaded.list_missing_data(), *loaded.list_missing_origins(), *list_missing_files(loaded.recipe))
    ]
    return [first, *summarise(loaded.recipe, loaded.cards), *missing]


def find_shipped(kind: Literal["recipes", "data_cards"]) -> Path:
    """The folder that is shipped with medvlm: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).parent.parent
    return package / kind if (package / kind).is_dir() else package.parent / kind


def find_card(name: str, beside: Path = Path()) -> Path | None:
    """A card by path or shipped name. Searches `beside`, the current folder, and the shipped cards."""
    return _find(name, [beside, Path(), find_shipped("data_cards").parent, find_shipped("data_cards")])


# --- files -----------------------------------------------------------------------------------------


def _find(name: str, folders: list[Path]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _load_with_bases(path: Path, shown: str, above: tuple[Path, ...]) -> Document:
    own = read_yaml(path, shown)
    bases = own.data.get("extends") or []
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise make_error(
            [Problem(("extends",), f"expected a list of recipes, found {shorten(bases)}; write [{bases}]")], own
        )
    chain = (*above, path.resolve())
    document: Document | None = None
    for i, name in enumerate(bases):
        found = _find(name, [path.parent, find_shipped("recipes")])
        if found is None:
            why = (
                f"there is no recipe {name!r}{_suggest(name, 'recipes')} (looked in {_shorten_path(path.parent)} and"
                f" {_shorten_path(find_shipped('recipes'))})"
            )
            raise make_error([Problem(("extends", i), why)], own)
        if found.resolve() in chain:
            circle = " -> ".join(_shorten_path(p) for p in (*chain[chain.index(found.resolve()) :], found))
            raise make_error([Problem(("extends", i), f"the recipes extend each other in a circle: {circle}")], own)
        base = _load_with_bases(found, _shorten_path(found), chain)
        document = base if document is None else merge_documents(document, base)
    return own if document is None else merge_documents(document, own)


def _locate_card(source: str, name: str, beside: Path, document: Document) -> Path:
    found = find_card(name, beside)
    if found is None:
        why = (
            f"there is no data card {name!r}{_suggest(name, 'data_cards')}; every data set needs one (shipped:"
            f" {_list_shipped('data_cards')})"
        )
        raise make_error([Problem(("data", source, "card"), why)], document)
    return found


def _find_names(kind: Literal["recipes", "data_cards"]) -> list[str]:
    return sorted(path.relative_to(find_shipped(kind)).as_posix() for path in find_shipped(kind).rglob("*.yaml"))


def _list_shipped(kind: Literal["recipes", "data_cards"]) -> str:
    return list_some(_find_names(kind), f"more in {_shorten_path(find_shipped(kind))}")


def _suggest(name: str, kind: Literal["recipes", "data_cards"]) -> str:
    # All names share prefix and suffix. Compared with these, every card would be close to every other.
    def bare(full: str) -> str:
        return full.removeprefix(f"{kind}/").removesuffix(".yaml")

    near = did_you_mean(bare(name), map(bare, _find_names(kind)))
    return near.replace("'?", ".yaml'?")


def _shorten_path(path: Path) -> str:
    """Relative to the current folder if the path is below it, else absolute."""
    full = Path(os.path.abspath(path))
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)


def _make_absolute(where: str) -> str:
    return where if "://" in where else os.path.abspath(os.path.expanduser(where))


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


# --- content -----------------------------------------------------------------------------------------


def _find_secrets(data: Any, path: KeyPath) -> list[Problem]:
    """Recipes are stored, logged and shared, so an access token in one is refused, without printing it."""
    if isinstance(data, dict | list):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        return [p for key, inner in items for p in _find_secrets(inner, (*path, key))]
    if isinstance(data, str) and SECRET.search(data):
        return [
            Problem(
                path,
                "looks like a password or an access token; recipes are stored and shared, so use an environment"
                " variable or a login instead",
            )
        ]
    return []
