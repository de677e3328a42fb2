"""Who is evaluated: a run, the model of a recipe without stages, or a model by folder, hub id or address."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medvlm.archive.packing.pack import read_receipt
from medvlm.core.document import COMMAND_LINE, Document
from medvlm.core.errors import RecipeError, did_you_mean, list_some
from medvlm.core.problems import validate
from medvlm.core.run import RunFolder
from medvlm.io.shards import RECEIPT
from medvlm.recipe.load import LoadedRecipe, find_card, find_shipped, load, load_plain, load_run
from medvlm.recipe.schema import Evaluate, describe_model

FREE = re.compile(r"evaluate\.|cache\.|data\.[^.]+\.(root|shards|salt_file)$")
"""The keys of a run that do not change what was trained."""


@dataclass(frozen=True)
class Who:
    """run: the folder for the results. pairs: (source, split) of what to evaluate on."""

    loaded: LoadedRecipe
    run: RunFolder
    pairs: list[tuple[str, str]]


def find_who(who: str, on: Sequence[str], overrides: Sequence[str], runs: Path) -> Who:
    """Creates nothing.

    who: a run folder or an exported folder, a recipe, or a model by folder, hub id or address of a server. on:
    SOURCE[:SPLIT] of a recipe, by default those that it names; CARD_OR_SHARDS[:SPLIT] for a model. Raises RecipeError
    for what is none of these, and for a recipe that is to be trained first."""
    if RunFolder(Path(who)).recipe.is_file():
        loaded = load_run(Path(who), _require_free(overrides))
        return Who(loaded, RunFolder(Path(who)), _choose_pairs(loaded, on))
    is_recipe = _is_recipe(who)
    loaded = load(who, overrides) if is_recipe else load_plain(_describe(who, on), overrides)
    run = RunFolder(runs / loaded.recipe.name)
    if loaded.recipe.stages:
        if not run.recipe.is_file():
            raise RecipeError(
                f"{who}: is not trained yet (there is no {run.root}); run: medvlm train {shlex.quote(who)}"
            )
        return find_who(str(run.root), on, overrides, runs)
    loaded.require_data()
    if run.recipe.is_file() and _describe_model(load_run(run.root)) != _describe_model(loaded):
        raise RecipeError(f"{run.root}: is of another model; give this one another name, e.g. name={run.root.name}-2")
    return Who(loaded, run, _choose_pairs(loaded, on if is_recipe else ()))


def _choose_pairs(loaded: LoadedRecipe, on: Sequence[str]) -> list[tuple[str, str]]:
    """Raises RecipeError for what is no source or no split."""
    evaluate = loaded.recipe.evaluate
    if on:
        evaluate = validate(Evaluate, Document({"on": list(on)}, {(): (COMMAND_LINE, 0, 0)}))
    known = loaded.recipe.data
    if not evaluate.on:
        raise RecipeError(
            f"evaluate.on is empty; choose what to evaluate on with --on SOURCE:SPLIT (sources: {list_some(known)})"
        )
    for name, _ in evaluate.pairs():
        if name not in known:
            raise RecipeError(
                f"--on {name}: there is no such source{did_you_mean(name, known)} (sources: {list_some(known)})"
            )
    return evaluate.pairs()


def _require_free(overrides: Sequence[str]) -> Sequence[str]:
    for override in overrides:
        if not FREE.match(override.partition("=")[0].strip()):
            raise RecipeError(
                f"{override}: would change what was trained; of a run, only evaluate.* and the places of its data can"
                " be set"
            )
    return overrides


def _is_recipe(who: str) -> bool:
    if who.endswith((".yaml", ".yml")):
        return True
    return not Path(who).exists() and (find_shipped("recipes") / f"{who}.yaml").is_file()


def _describe_model(loaded: LoadedRecipe) -> Any:
    recipe = loaded.recipe
    model = recipe.model.model_dump(mode="json")
    if recipe.model.composition:
        kept = model["composition"].keys() - recipe.model.composition.HOW
        model["composition"] = {key: model["composition"][key] for key in kept}
    return model, [stage.name for stage in recipe.stages]


def _describe(who: str, on: Sequence[str]) -> dict[str, Any]:
    """A recipe that evaluates a model as it is."""
    is_server = who.startswith(("http://", "https://"))
    above = Path(who).parent
    if not is_server and above != Path() and above.is_dir() and not Path(who).exists():  # no hub id, then
        raise RecipeError(f"{who}: there is no such run folder or model folder")
    if not on:
        raise RecipeError(
            f"{who}: is no run folder and no recipe; if it is a model, say what to evaluate it on: --on"
            " CARD_OR_SHARDS[:SPLIT]"
        )
    name = urlsplit(who).netloc.rpartition("@")[2] if is_server else who.rstrip("/").rpartition("/")[2]
    data, pairs = {}, []
    for place, split in map(split_place, on):
        source, described = _describe_source(place)
        if find_card(described["card"]) is None:
            raise RecipeError(
                f"{who}: is no run folder and no recipe; if it is a model, --on takes a folder of shards or a data"
                f" card, and there is no card {described['card']!r}"
            )
        data[source] = described
        pairs.append(f"{source}:{split}")
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:100] or "model"
    return {"name": slug, "model": describe_model(who), "data": data, "evaluate": {"on": pairs}}


def split_place(place: str, default: str = "test") -> tuple[str, str]:
    """(card or folder, split) of CARD_OR_SHARDS[:SPLIT]."""
    where, colon, split = place.rpartition(":")
    return (where, split) if colon and "/" not in split else (place, default)


def _describe_source(place: str) -> tuple[str, dict[str, str]]:
    """Name and section `data` of a card, or of a folder of shards with the copy of the card that packing left there."""
    if (Path(place) / RECEIPT).is_file():
        return _slug(read_receipt(Path(place)).card), {"card": str(Path(place) / "card.yaml"), "shards": place}
    if Path(place).is_dir():
        raise RecipeError(
            f"--on {place}: has no shards that medvlm packed; pack its files first (medvlm data pack), or use medvlm"
            " predict, which needs no right answers"
        )
    return _slug(Path(place).stem), {"card": place if place.endswith((".yaml", ".yml")) else f"{place}.yaml"}


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).lstrip("_-") or "data"
