"""A stage on the meta device: its real class, with a model without weights and batches without pixels."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch

from medvlm.core.composition import composition_of_stage, name_of
from medvlm.core.config import component
from medvlm.core.errors import DataError, RecipeError, UserError
from medvlm.core.stage_config import Lora, StageConfig
from medvlm.data.estimate import NoFiles
from medvlm.data.mixture import Mixture
from medvlm.models.parts import matches, set_trained
from medvlm.preflight import adapters
from medvlm.preflight.draft import Draft, make_draft
from medvlm.preflight.samples import Look
from medvlm.recipe.graph import outside_origins, starts_from
from medvlm.recipe.schema import Recipe
from medvlm.stages._base import Setup
from medvlm.train.optim import make_optimizers

LOOKED_AT = 8
"""Samples that are prepared where one takes up to a tenth of a second."""
DRAWN = 32
"""Micro-batches that are drawn to find one as long as the longest of many steps."""


def check_stages(given: Recipe, numbers: Sequence[int]) -> str:
    """Each of these stages against its model, before an earlier one has cost hours. Returns why that was not possible,
    "" where it was.

    Raises RecipeError for `trains`, `lr_of` and adapters that match nothing in the model.
    """
    with TemporaryDirectory() as folder:
        try:
            draft = make_draft(given, {}, Path(folder))
        except RecipeError as reason:  # it is fetched when it is built
            return str(reason)
        for number in numbers:
            config = draft.recipe.stages[number]
            try:
                stage = stage_on_meta(draft, number, 1)
            except UserError:
                raise
            except Exception as reason:  # a part of a plugin that cannot be built without data may be built with it
                return f"{config.name}: {type(reason).__name__}: {reason}"
            optimizers_of(stage, config)
    return ""


def optimizers_of(stage: Any, config: StageConfig) -> list[torch.optim.Optimizer]:
    """Of a stage on meta. One in 8 bits is made on a GPU alone; here AdamW stands for it. Raises RecipeError where
    `lr_of` names nothing."""
    settings = {
        name: optim.model_copy(update={"kind": "adamw"}) if optim.kind == "adamw8bit" else optim
        for name, optim in stage.list_optimizers().items()
    }
    return list(make_optimizers(stage.model, settings, matches, config.name).values())


def adapters_of(recipe: Recipe, number: int) -> Lora | None:
    """Those that the stage puts in, or finds in the weights it starts from; a dual encoder between hands them on."""
    own: Lora | None = recipe.stages[number].lora
    earlier = (adapters_of(recipe, j) for j in starts_from(recipe, number))
    outside = (o.find_adapters() for o in outside_origins(recipe, number).values() if not o.find_problem())
    return own or next((found for found in (*earlier, *outside) if found is not None), None)


def stage_on_meta(draft: Draft, number: int, world: int) -> Any:
    """Raises RecipeError for what its `trains` and adapters do not find in the model."""
    recipe = draft.recipe
    config = recipe.stages[number]
    composition = composition_of_stage(recipe.model, config)
    lora = adapters_of(recipe, number) if "lora" in composition.PARTS else None
    setup = Setup(
        **vars(draft.assemblies[name_of(composition)]),
        composition=composition,
        open_source=lambda *_: None,  # type: ignore[arg-type,return-value]
        augments={},
        engine=_alone(world),
        workers=0,
        quarantine=lambda *_: None,
    )
    with torch.device("meta"):
        stage = component("stages", config.kind).build(config, setup)
    if lora:
        try:
            adapters.attach(stage.model, lora, recipe.seed)
        except RecipeError as reason:
            raise RecipeError(f"stages.{config.name}.{reason}") from None
    set_trained(stage.model, config.trains, config.name)
    stage.set_modes()
    return stage


def items_of(stage: Any, config: StageConfig, looks: Mapping[str, Look]) -> tuple[dict[str, list[Any]], list[str]]:
    """Source -> samples as the stage prepares them; and why it could not use some."""
    refused: dict[str, int] = {}
    made: dict[str, list[Any]] = {}
    for source in config.mix:
        samples = looks[source].samples
        step = max(1, len(samples) // LOOKED_AT) if stage.setup.prepare.is_slow else 1
        for i, sample in enumerate(samples[::step]):
            try:
                item = stage.prepare_sample(sample, NoFiles(), 0, i)
                made.setdefault(source, []).append(item)
            except (DataError, RecipeError) as reason:  # a run would leave such samples out, or stop
                why = str(reason).partition(": ")[2]
                refused[why] = refused.get(why, 0) + 1
    return made, [f"not used: {n} of the samples: {why}" for why, n in refused.items()]


def longest(stage: Any, config: StageConfig, items: Mapping[str, list[Any]], count: int, seed: int) -> list[Any]:
    """`count` prepared samples, as the mixture deals them: of many such draws the one with the most tokens."""
    mixture, rng = Mixture({s: w for s, w in config.mix.items() if s in items}, seed, config.name), random.Random(seed)
    draws = [[rng.choice(items[mixture.at(d * count + i)[0]]) for i in range(count)] for d in range(DRAWN)]
    return max(draws, key=lambda drawn: sum(map(stage.count_tokens, drawn)))


def _alone(world: int) -> Any:
    """What a loss asks of an engine, with the features of all ranks where it gathers them."""
    return SimpleNamespace(
        rank=0,
        world=world,
        device=torch.device("cpu"),
        is_first=True,
        is_sharded=False,
        gather=lambda x: x if world == 1 else torch.cat([x, *[x.detach()] * (world - 1)]),
        total=lambda values: [float(v) for v in values],
    )
