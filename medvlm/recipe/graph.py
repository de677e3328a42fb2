"""How the parts of a recipe refer to each other: media, encoders, stages, compositions, sources, starting weights."""

from __future__ import annotations

from contextlib import suppress

from medvlm.core.composition import Composition, composition_as_is, composition_of_stage, name_of
from medvlm.core.errors import RecipeError
from medvlm.core.lora_config import Lora
from medvlm.core.stage_config import Merge, StageConfig
from medvlm.recipe.origins import Origin, StageOrigin, name_outside
from medvlm.recipe.schema import Recipe


def list_served_media(recipe: Recipe) -> dict[str, tuple[str, ...] | None]:
    """Encoder -> the kinds of media it encodes, None for any kind."""
    found = [composition.serves(recipe.model) for composition in list_compositions(recipe)]
    return {name: media for served in found for name, media in served.items()}


def list_media_kinds(recipe: Recipe) -> set[str] | None:
    """The kinds of media that the encoders take; None if one of them takes any kind."""
    served = list(list_served_media(recipe).values())
    if any(media is None for media in served):
        return None
    return {kind for media in served if media is not None for kind in media}


def find_composition(recipe: Recipe, i: int) -> Composition | None:
    """The composition of stage i; None if none fits, which rules.py reports."""
    try:
        return composition_of_stage(recipe.model, recipe.stages[i])
    except RecipeError:
        return None


def list_compositions(recipe: Recipe) -> list[Composition]:
    """The compositions of all stages, without repetition; without stages, that of the model as it is."""
    found = [find_composition(recipe, i) for i in range(len(recipe.stages))]
    if not recipe.stages:
        with suppress(RecipeError):  # which rules.py reports
            found.append(composition_as_is(recipe.model))
    return list({name_of(composition): composition for composition in found if composition is not None}.values())


def list_used_sources(recipe: Recipe) -> set[str]:
    mixed = {source for stage in recipe.stages for source in (*stage.mix, *stage.list_beside().values())}
    return mixed | {source for source, _ in recipe.evaluate.pairs()}


def find_start_stages(recipe: Recipe, i: int) -> tuple[int, ...]:
    """Indices of the stages that stage i takes weights from, without unknown names."""
    names = [stage.name for stage in recipe.stages[:i]]
    if not recipe.stages[i].from_:
        return (i - 1,) if i else ()
    wanted = set(recipe.stages[i].list_starts().values())
    return tuple(names.index(name) for name in sorted(wanted) if name in names)


def explain_whole(config: StageConfig) -> str:
    """Why a stage needs the values of all weights before an engine shards them, or ""."""
    if isinstance(config.from_, Merge):
        return "`from` merges models"
    if config.lora and (config.lora.dora or config.lora.start == "pissa"):
        return f"lora.{'dora' if config.lora.dora else 'start: pissa'} begins with values of the weights"
    return ""


def find_outside_origins(recipe: Recipe, i: int) -> dict[tuple[str, ...], Origin]:
    """Path below `from` -> the origin outside of this run that stage i starts from."""
    names, stage = [stage.name for stage in recipe.stages[:i]], recipe.stages[i]
    outside = {path: text for path, text in stage.list_starts().items() if text and text not in names}
    by_module = isinstance(stage.from_, dict)
    found = {path: name_outside(text, path[0] if by_module else "") for path, text in outside.items()}
    return {path: origin for path, origin in found.items() if origin is not None}


def find_teachers(stage: StageConfig) -> dict[str, Origin]:
    """Key of a stage -> the model outside of this run that the stage learns from."""
    found = {key: name_outside(where) for key, where in stage.list_teachers().items()}
    return {key: origin for key, origin in found.items() if origin is not None}


def find_adapters(recipe: Recipe, i: int) -> Lora | None:
    """The adapters that stage i trains or passes on: its own, those of the name that it trains, else those of the
    weights that it starts from. None as well if the files of another run are not on this machine."""
    stage = recipe.stages[i]
    if stage.lora is not None:
        return stage.lora
    if (name := stage.find_adapter()) and (kept := find_kept_adapters(recipe, i, name)):
        return kept
    return None if isinstance(stage.from_, Merge) else find_start_adapters(recipe, i)


def find_start_adapters(recipe: Recipe, i: int) -> Lora | None:
    """The adapters of the weights that stage i starts from."""
    earlier = (find_adapters(recipe, j) for j in find_start_stages(recipe, i))
    outside = (o.find_adapters() for o in find_outside_origins(recipe, i).values() if not o.find_problem())
    return next((found for found in (*earlier, *outside) if found is not None), None)


def find_kept_adapters(recipe: Recipe, i: int, name: str) -> Lora | None:
    """The adapters of this name that an earlier stage has, from which stage i can take them."""
    names, given = [stage.name for stage in recipe.stages[:i]], recipe.stages[i].from_
    start = given if isinstance(given, str) else ""
    stop = names.index(start) + 1 if start in names else 0 if start else i
    earlier = [recipe.stages[j].lora for j in range(stop)]
    outside = [o for o in find_outside_origins(recipe, i).values() if not o.find_problem()]
    before = [each for o in outside if isinstance(o, StageOrigin) for each in o.list_stages_before()]
    found = [*reversed(earlier), *(origin.find_adapters() for origin in (*outside, *before))]
    return next((lora for lora in found if lora is not None and lora.name == name), None)
