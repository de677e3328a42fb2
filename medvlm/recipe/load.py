"""A recipe from its file: bases it extends, overrides, cards, rules; and what of it is written into the run folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medvlm.core.card import Card, load_card
from medvlm.core.config import inline_definitions, permit
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
from medvlm.core.errors import RecipeError, did_you_mean, shorten
from medvlm.core.problems import Problem, make_error
from medvlm.core.problems import validate as validate_config
from medvlm.core.run import RunFolder, write_json
from medvlm.core.secrets import SECRET
from medvlm.recipe.graph import outside_origins
from medvlm.recipe.rules import problems
from medvlm.recipe.schema import Recipe
from medvlm.recipe.summary import summary

__all__ = ["LoadedRecipe", "Recipe", "find_card", "load", "load_run", "schema", "shipped", "validate"]


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that has passed every check; cards: source -> its data card."""

    recipe: Recipe
    cards: dict[str, Card]
    card_paths: dict[str, Path]
    document: Document

    def resolve(self) -> dict[str, Any]:
        """Every key with its value, defaults too, in plain JSON types; without where data lies on this machine."""
        plain = self.recipe.model_dump(mode="json", by_alias=True, exclude={"extends": True, "cache": True})
        for source in plain["data"].values():
            del source["root"], source["shards"], source["salt_file"]
        return plain

    @property
    def recipe_hash(self) -> str:
        """SHA-256 in hex of what the run is, cards included, wherever its files are."""
        plain = self.resolve()
        for name, source in plain["data"].items():
            source["card"] = self.cards[name].model_dump(mode="json", by_alias=True)
        return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def places(self) -> dict[str, dict[str, str]]:
        """Source -> where its `root`, `shards` and `salt_file` are, as absolute paths; empty for generated data."""
        given = {
            name: {"root": source.root, "shards": source.shards, "salt_file": source.salt_file}
            for name, source in self.recipe.data.items()
        }
        return {name: {key: _absolute(where) for key, where in keys.items() if where} for name, keys in given.items()}

    def without_data(self) -> list[Problem]:
        """Sources of which it is not said where they are: fine to validate, not to train."""
        return [
            Problem(("data", name), f"root is not set; give data.{name}.root=DIR to train")
            for name, where in self.places().items()
            if not {"root", "shards"} & where.keys() and self.cards[name].access != "generated"
        ]

    def without_starts(self) -> list[Problem]:
        """What stages start from that is not on this machine: fine to validate, not to train."""
        return [
            Problem(("stages", i, "from", *([module] if module else [])), problem)
            for i in range(len(self.recipe.stages))
            for module, origin in outside_origins(self.recipe, i).items()
            if (problem := origin.find_problem())
        ]

    def require_data(self) -> None:
        """Raises RecipeError when a source has neither root nor shards nor is generated, and when what a stage starts
        from is not there."""
        if missing := [*self.without_data(), *self.without_starts()]:
            raise make_error(missing, self.document)

    def save(self, run: Path) -> None:
        """recipe.resolved.yaml with a copy of each card in cards/, which `load_run` reads back, and places.json,
        which is nobody else's business and never exported."""
        plain = self.resolve()
        for name, source in plain["data"].items():
            copied = run / "cards" / f"{name}.yaml"
            copied.parent.mkdir(parents=True, exist_ok=True)
            _write(copied, self.card_paths[name].read_text(encoding="utf-8"))
            source["card"] = f"cards/{name}.yaml"
        write_json(run / "places.json", self.places())
        _write(RunFolder(run).recipe, f"# {self.recipe_hash}\n{to_yaml(plain)}")


def load(path: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe with its bases and overrides, checked. Raises RecipeError with every mistake that was found.

    path: a file, or the name of a shipped recipe. overrides: key.path=value.
    """
    found = _find(str(path), [Path(), shipped("recipes").parent, shipped("recipes")])
    if found is None:
        raise RecipeError(
            f"{path}: there is no such recipe{_near(str(path), 'recipes')} (shipped: {', '.join(_names('recipes'))})"
        )
    document = _with_bases(found, _shown(found), ())
    for override in overrides:
        if override.split("=")[0].strip() == "extends":
            raise RecipeError(
                f"{COMMAND_LINE} extends: say in a file what it extends; on the command line set single keys"
            )
        document = set_value(document, override)
    if secrets := _secrets(document.data, ()):
        raise make_error(secrets, document)
    plugins = document.data.get("plugins")
    context = {"plugins": tuple(plugins) if isinstance(plugins, list) else ()}
    permit(context["plugins"])
    recipe: Recipe = validate_config(Recipe, document, context)
    paths = {name: _card_of(name, source.card, found.parent, document) for name, source in recipe.data.items()}
    cards = {name: load_card(paths[name], source.card, recipe.plugins) for name, source in recipe.data.items()}
    if wrong := problems(recipe, cards):
        raise make_error(wrong, document)
    return LoadedRecipe(recipe, cards, paths, document)


def load_run(run: Path) -> LoadedRecipe:
    """The recipe that a run was made from, with the data where it was then. Raises RecipeError for a folder that is no
    run."""
    if not RunFolder(run).recipe.is_file():
        raise RecipeError(
            f"{run}: is no run folder (it holds no {RunFolder(run).recipe.name}); `medvlm train RECIPE` makes one"
        )
    places: dict[str, dict[str, str]] = (
        json.loads((run / "places.json").read_text()) if (run / "places.json").is_file() else {}
    )
    return load(
        RunFolder(run).recipe,
        [f"data.{name}.{key}={json.dumps(where)}" for name, keys in places.items() for key, where in keys.items()],
    )


def validate(path: str | Path, overrides: Sequence[str] = ()) -> list[str]:
    """What was checked, and what can only be checked with weights or data, in lines for a person. Raises RecipeError
    like `load`."""
    loaded = load(path, overrides)
    first = f"{path}: a valid recipe ({loaded.recipe.name}, {loaded.recipe_hash[:12]})"
    missing = [
        f"{format_path(p.path, loaded.document.data)}: {p}" for p in (*loaded.without_data(), *loaded.without_starts())
    ]
    return [first, *summary(loaded.recipe, loaded.cards), *missing]


def schema(what: Literal["recipe", "card"] = "recipe") -> dict[str, Any]:
    """JSON schema for editors. In a recipe only what stands in a list must be whole: any file may extend another."""
    made = inline_definitions((Card if what == "card" else Recipe).model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **(made if what == "card" else _partial(made))}


def shipped(kind: Literal["recipes", "data_cards"]) -> Path:
    """The folder that comes with medvlm: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    return package / kind if (package / kind).is_dir() else package.parent / kind


def find_card(name: str, beside: Path = Path()) -> Path | None:
    """A card by path or shipped name: looked up in `beside`, in the current folder, among the shipped ones."""
    return _find(name, [beside, Path(), shipped("data_cards").parent, shipped("data_cards")])


# --- files -----------------------------------------------------------------------------------------


def _find(name: str, folders: list[Path]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _with_bases(path: Path, shown: str, above: tuple[Path, ...]) -> Document:
    own = read_yaml(path, shown)
    bases = own.data.get("extends", [])
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise make_error(
            [Problem(("extends",), f"expected a list of recipes, found {shorten(bases)}, write [{bases}]")], own
        )
    chain = (*above, path.resolve())
    document: Document | None = None
    for i, name in enumerate(bases):
        found = _find(name, [path.parent, shipped("recipes")])
        if found is None:
            why = (
                f"there is no recipe {name!r}{_near(name, 'recipes')} (looked in {_shown(path.parent)} and"
                f" {_shown(shipped('recipes'))})"
            )
            raise make_error([Problem(("extends", i), why)], own)
        if found.resolve() in chain:
            circle = " -> ".join(_shown(p) for p in (*chain[chain.index(found.resolve()) :], found))
            raise make_error([Problem(("extends", i), f"the recipes extend each other in a circle: {circle}")], own)
        base = _with_bases(found, _shown(found), chain)
        document = base if document is None else merge_documents(document, base)
    return own if document is None else merge_documents(document, own)


def _card_of(source: str, name: str, beside: Path, document: Document) -> Path:
    found = find_card(name, beside)
    if found is None:
        why = (
            f"there is no data card {name!r}{_near(name, 'data_cards')}; every data set needs one (shipped:"
            f" {', '.join(_names('data_cards'))})"
        )
        raise make_error([Problem(("data", source, "card"), why)], document)
    return found


def _names(kind: Literal["recipes", "data_cards"]) -> list[str]:
    return sorted(f"{kind}/{path.relative_to(shipped(kind)).as_posix()}" for path in shipped(kind).rglob("*.yaml"))


def _near(name: str, kind: Literal["recipes", "data_cards"]) -> str:
    # Compared without what all names share, or every card would be near every other.
    def bare(full: str) -> str:
        return full.removeprefix(f"{kind}/").removesuffix(".yaml")

    return did_you_mean(bare(name), map(bare, _names(kind)))


def _shown(path: Path) -> str:
    """As a user would write it: from the current folder where the path lies below it."""
    full = Path(os.path.abspath(path))
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)


def _absolute(where: str) -> str:
    return where if "://" in where else os.path.abspath(os.path.expanduser(where))


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


# --- content -----------------------------------------------------------------------------------------


def _secrets(data: Any, path: KeyPath) -> list[Problem]:
    """Recipes are stored, logged and shared: an access token in one is refused, and not shown."""
    if isinstance(data, dict | list):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        return [p for key, inner in items for p in _secrets(inner, (*path, key))]
    if isinstance(data, str) and SECRET.search(data):
        return [
            Problem(
                path,
                "looks like a password or an access token; recipes are stored and shared, so keep it in the environment"
                " or a login",
            )
        ]
    return []


def _partial(part: Any) -> Any:
    """A schema without `required`, except of what stands in a list, which an extending recipe replaces as a whole."""
    if isinstance(part, list):
        return [_partial(p) for p in part]
    if not isinstance(part, dict):
        return part
    kept = {
        key: value if key == "items" else _partial(value)
        for key, value in part.items()
        if key not in ("required", "properties")
    }
    return (
        {**kept, "properties": {key: _partial(value) for key, value in part["properties"].items()}}
        if "properties" in part
        else kept
    )
