"""A recipe at toy size, for a rehearsal on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medvlm.core.card import Card, copy_text
from medvlm.core.config import component
from medvlm.core.document import to_yaml
from medvlm.core.errors import RecipeError
from medvlm.core.needs import Toy
from medvlm.core.stage_config import StageConfig
from medvlm.data.estimate import is_deep
from medvlm.data.processor import Processor
from medvlm.data.source import KINDS_OF_GROUPS, SourceView, find_group
from medvlm.io.opening import open_shards
from medvlm.preflight.rehearsal import fake_reward as spread
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.preflight.rehearsal.shrink import shrink_decoder, shrink_encoder, shrink_text_model
from medvlm.recipe.graph import find_adapters, find_outside_origins, list_served_media
from medvlm.recipe.known import inline_configs, look_up_model
from medvlm.recipe.load import LoadedRecipe, load
from medvlm.recipe.schema import Recipe

STEPS, SAMPLES = 2, 4
TOY = Toy(
    steps=STEPS,
    batch=4,
    samples=SAMPLES,
    answers=4,
    answer_tokens=8,
    sample_tokens=1 << 15,
    shrink=shrink_text_model,
    rewards={spread.__name__: spread.Config(weight=1)},
)


def make_small_recipe(loaded: LoadedRecipe, shards: Mapping[str, Path], folder: Path) -> tuple[LoadedRecipe, str]:
    """The recipe at toy size, written to `folder`: small models, few samples, two steps a stage, one process on a CPU.
    And its export target, if that cannot hold the small model and `custom` replaces it, else "".

    shards: source -> its shards."""
    return _load_small(_write_recipe(loaded, shards, folder))


def count_axes(recipe: Recipe, cards: Mapping[str, Card]) -> dict[str, int]:
    """Kind of medium -> number of axes of the input of its encoder. Of several kinds for an encoder of volumes, those
    that are not named after volumes or videos are pictures."""
    axes: dict[str, int] = {}
    for name, media in list_served_media(recipe).items():
        if media is None:
            axes |= {kind: 3 if is_deep(kind) else 2 for card in cards.values() for kind in card.media}
        else:
            encoder = recipe.model.encoders[name]
            count = len(component("encoders", encoder.kind).preprocess(encoder).size)
            are_mixed = any(map(is_deep, media))
            axes |= {kind: 2 if are_mixed and not is_deep(kind) else count for kind in media}
    return axes


def _write_recipe(loaded: LoadedRecipe, shards: Mapping[str, Path], folder: Path) -> Path:
    recipe = inline_configs(loaded.recipe)
    changed: dict[str, Any] = {
        "encoders": {name: shrink_encoder(e) for name, e in recipe.model.encoders.items()},
        "decoders": {name: shrink_decoder(d) for name, d in recipe.model.decoders.items()},
        "language": shrink_text_model(recipe.model.language),
    }
    if recipe.model.pretrained:
        family = look_up_model(recipe.model.pretrained).config["model_type"]
        tiny = save_tiny(family, folder / "model")
        Processor(tiny, recipe.model.processor)  # raises RecipeError for a setting that the family does not have
        changed |= {"pretrained": str(tiny), "processor": {}}
    model = recipe.model.model_copy(update=changed)
    stages = tuple(_start_inside(recipe, i).scale_down(TOY) for i in range(len(recipe.stages)))
    plain = recipe.model_copy(update={"model": model, "stages": stages}).model_dump(
        mode="json", by_alias=True, exclude={"extends": True}
    )
    for name, source in plain["data"].items():
        (folder / f"{name}.yaml").write_text(copy_text(loaded.cards[name], loaded.card_paths[name]), encoding="utf-8")
        source |= {"card": f"{name}.yaml", "root": "", "salt_file": "", "shards": str(shards[name])}
        if (hold := recipe.data[name].hold_out) is None or hold.by in KINDS_OF_GROUPS:
            continue
        if hold.combination:
            source["hold_out"] |= {"combination": _choose_combination(shards[name], hold.groups)}
        else:
            source["hold_out"] = {"by": hold.by, "values": [_choose_group(shards[name], hold.by)]}
    plain["engine"] |= {"kind": "single", "device": "cpu", "precision": "32-true", "workers": 0}
    plain["evaluate"] |= {"samples": SAMPLES, "bootstrap": 20, "max_new_tokens": 8}
    plain["track"] = {}
    plain["hooks"] = []
    plain["plugins"].append(spread.__name__.partition(".")[0])
    path = folder / "recipe.yaml"
    path.write_text(to_yaml(plain), encoding="utf-8")
    return path


def _start_inside(recipe: Recipe, i: int) -> StageConfig:
    """A stage that starts without the weights from outside of the run, which do not fit a small model."""
    stage: StageConfig = recipe.stages[i]
    outside = find_outside_origins(recipe, i)
    if not outside:
        return stage
    left = {}
    if isinstance(stage.from_, dict):
        left = {module: name for module, name in stage.from_.items() if (module,) not in outside}
    return stage.model_copy(update={"from_": left or "", "lora": find_adapters(recipe, i)})


def _choose_group(folder: Path, by: str) -> str:
    """A group that some sample is in. With so few samples, a share of the groups could be empty."""
    shards = open_shards(folder)
    return next(name for name in SourceView(shards, shards.splits).groups(by) if name)


def _choose_combination(folder: Path, groups: Sequence[str]) -> dict[str, str]:
    """A combination in training of values each of which is in another one there too; the first one if there is none."""
    shards = open_shards(folder)
    view = SourceView(shards, [split for split in shards.splits if split not in ("val", "test")])
    found = list(dict.fromkeys(tuple(find_group(view.entry(i), by) for by in groups) for i in range(len(view))))
    complete = [values for values in found if all(values)]
    shared = (
        values
        for values in complete
        if all(any(other[n] == value and other != values for other in found) for n, value in enumerate(values))
    )
    return dict(zip(groups, next(shared, complete[0]), strict=True))


def _load_small(path: Path) -> tuple[LoadedRecipe, str]:
    """The small recipe, and the export target if it cannot hold the small model. Then `custom` replaces it."""
    try:
        return load(path), ""
    except RecipeError as reason:
        if " export.target:" not in str(reason):
            raise
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    target = plain["export"]["target"]
    plain["export"] = {"target": "custom"}
    path.write_text(to_yaml(plain), encoding="utf-8")
    return load(path), str(target)
