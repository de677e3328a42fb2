"""Builds the real class of a stage on the meta device, with a model without weights and batches without pixels."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch

from medvlm.compositions._train_with_context import train_with_context
from medvlm.core.composition import composition_of_stage, name_of
from medvlm.core.config import component
from medvlm.core.engine_config import EngineConfig
from medvlm.core.errors import DataError, RecipeError, UserError
from medvlm.core.sample import Sample
from medvlm.core.stage_config import StageConfig
from medvlm.data.epochs import find_steps
from medvlm.data.estimate import NoFiles
from medvlm.data.mixture import Mixture
from medvlm.data.source import SourceView
from medvlm.io.shard_index import facts_of
from medvlm.io.shards import Entry
from medvlm.models.parts import matches, set_trained
from medvlm.preflight import adapters
from medvlm.preflight.draft import Draft, make_draft
from medvlm.preflight.samples import Look
from medvlm.recipe.graph import find_adapters
from medvlm.recipe.schema import Recipe
from medvlm.stages._base import Setup
from medvlm.train.optim import make_optimizers

LOOKED_AT = 8
"""Samples that are prepared if the data path is slow, up to a tenth of a second per sample."""
DRAWN = 32
"""Micro-batches that are drawn, to find one that is about as long as the longest of a run."""


def check_stages(given: Recipe, numbers: Sequence[int]) -> str:
    """Checks these stages against their models, before an earlier stage takes hours. Returns why that was not possible,
    or "".

    Raises RecipeError for `trains`, `lr_of` and adapters that match nothing in the model.
    """
    with TemporaryDirectory() as folder:
        try:
            draft = make_draft(given, {}, Path(folder))
        except RecipeError as reason:  # the model's config is only downloaded when it is built
            return str(reason)
        for number in numbers:
            config = draft.recipe.stages[number]
            try:
                stage = build_stage(draft, number, 1)
            except UserError:
                raise
            except Exception as reason:  # a plugin's part may not support the meta device
                return f"{config.name}: {type(reason).__name__}: {reason}"
            optimizers_of(stage, config)
    return ""


def optimizers_of(stage: Any, config: StageConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a stage on the meta device. AdamW replaces the 8-bit optimizer, which needs a GPU. Raises
    RecipeError if `lr_of` matches nothing."""
    settings = {
        name: optim.model_copy(update={"kind": "adamw"}) if optim.kind == "adamw8bit" else optim
        for name, optim in stage.list_optimizers().items()
    }
    return list(make_optimizers(stage.model, settings, matches, config.name).values())


def build_stage(draft: Draft, number: int, world: int, looks: Mapping[str, Look] | None = None) -> Any:
    """Stage `number` on the meta device. looks: the sources, to count their samples.

    Raises RecipeError for `trains` and adapters that match nothing."""
    recipe = draft.recipe
    config = recipe.stages[number]
    composition = composition_of_stage(recipe.model, config)
    lora = find_adapters(recipe, number) if "lora" in composition.PARTS else None

    def open_source(name: str, split: str, wants: Callable[[Entry], bool]) -> SourceView:
        source = (looks or {})[name].source
        assert source is not None, name
        return source.view(split, wants)

    assembly = draft.assemblies[name_of(composition)].limit(config.max_pixels)
    setup = Setup(
        **vars(train_with_context(assembly, recipe.context, is_plan=True)),
        composition=composition,
        open_source=open_source,
        augments={},
        engine=_make_engine(world, recipe.engine),
        workers=0,
        quarantine=lambda *_: None,
        environment=recipe.environment,
    )
    with torch.device("meta"):
        stage = component("stages", config.kind).build(config, setup)
    if lora and config.lora is None and not adapters.has_place(stage.model, lora):
        lora = None  # they stay with the modules that this stage does not have
    if lora:
        try:
            adapters.attach(stage.model, lora, recipe.seed)
        except RecipeError as reason:
            raise RecipeError(f"stages.{config.name}.{reason}") from None
    set_trained(stage.model, config.trains, config.name)
    stage.set_modes()
    return stage


def count_steps(stage: Any, looks: Mapping[str, Look]) -> tuple[StageConfig, tuple[str, ...]]:
    """The settings with the number of steps, as far as it is known before training, and notes on it. Raises RecipeError
    for epochs that `sampling.epochs` does not allow."""
    config: StageConfig = stage.config
    own = [looks[source] for source in config.mix]
    if config.epochs is None:
        return config, ()
    if all(look.source for look in own):
        return stage.count_steps(), ()
    counts = [look.count for look in own]
    if None in counts:
        return config, ("number of steps: not known before the data are packed",)
    steps = find_steps(config.epochs, sum(filter(None, counts)), config.batch)
    return config.model_copy(update={"steps": steps}), (
        "number of steps: estimated, because the data are not packed yet",
    )


def prepare_items(stage: Any, config: StageConfig, looks: Mapping[str, Look]) -> tuple[dict[str, list[Any]], list[str]]:
    """Source -> samples prepared by the stage, and notes on samples that it cannot use. Raises RecipeError for a sample
    of the real data at which training would stop."""
    refused: dict[str, int] = {}
    made: dict[str, list[Any]] = {}
    for source in config.mix:
        samples = looks[source].samples
        step = max(1, len(samples) // LOOKED_AT) if stage.setup.prepare.is_slow else 1
        for i, sample in enumerate(samples[::step]):
            if not stage.wants(_make_entry(sample)):
                continue
            try:
                item = stage.prepare_sample(sample, NoFiles(), 0, i)
                made.setdefault(source, []).append(item)
            except (DataError, RecipeError) as reason:
                if isinstance(reason, RecipeError) and looks[source].is_real:
                    raise
                why = str(reason).partition(": ")[2] or str(reason)  # without the name of the sample
                refused[why] = refused.get(why, 0) + 1
    return made, [f"not used: {n} of the samples: {why}" for why, n in refused.items()]


def _make_entry(sample: Sample) -> Entry:
    """The entry of the sample in the index of shards."""
    facts = facts_of(sample)
    return Entry(facts.key, facts.tasks, facts.has_report, facts.kinds, facts.groups)


def draw_longest(stage: Any, config: StageConfig, items: Mapping[str, list[Any]], count: int, seed: int) -> list[Any]:
    """`count` prepared samples in the proportions of the mixture. Of DRAWN such draws, the one with the most tokens."""
    mixture, rng = Mixture({s: w for s, w in config.mix.items() if s in items}, seed, config.name), random.Random(seed)
    draws = [[rng.choice(items[mixture.at(d * count + i)[0]]) for i in range(count)] for d in range(DRAWN)]
    return max(draws, key=lambda drawn: sum(map(stage.count_tokens, drawn)))


def _make_engine(world: int, config: EngineConfig) -> Any:
    """The parts of an engine that a loss uses. `gather` returns features for all ranks, and `rotate` those of one."""
    return SimpleNamespace(
        config=config,
        rank=0,
        world=world,
        device=torch.device("cpu"),
        is_first=True,
        is_sharded=False,
        merge_names=sorted,
        runs_all=False,
        gather=lambda *xs: xs if world == 1 else tuple(torch.cat([x, *[x.detach()] * (world - 1)]) for x in xs),
        find_most=lambda number: number,
        rotate=lambda *xs: tuple(x.detach().clone() for x in xs),
        autocast=nullcontext,
        total=lambda values: [float(v) for v in values],
    )
