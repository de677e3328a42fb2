"""How the parts of a recipe refer to each other: media, encoders, stages, compositions, sources, starting weights."""

from __future__ import annotations

from contextlib import suppress

from medvlm.core.composition import Composition, composition_as_is, composition_of_stage, name_of
from medvlm.core.errors import RecipeError
from medvlm.recipe.origins import Origin, name_outside
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
    mixed = {source for stage in recipe.stages for source in stage.mix}
    return mixed | {source for source, _ in recipe.evaluate.pairs()}


def find_start_stages(recipe: Recipe, i: int) -> tuple[int, ...]:
    """Indices of the stages that stage i takes weights from, without unknown names."""
    names = [stage.name for stage in recipe.stages[:i]]
    given = recipe.stages[i].from_
    if not given:
        return (i - 1,) if i else ()
    wanted = {given} if isinstance(given, str) else set(given.values())
    return tuple(names.index(name) for name in sorted(wanted) if name in names)


def find_outside_origins(recipe: Recipe, i: int) -> dict[str, Origin]:
    """Module ("" = all others) -> the origin outside of this run that stage i starts from."""
    names = [stage.name for stage in recipe.stages[:i]]
    given = recipe.stages[i].from_
    named = {"": given} if isinstance(given, str) else given
    outside = {module: text for module, text in named.items() if text and text not in names}
    found = {module: name_outside(text, module) for module, text in outside.items()}
    return {module: origin for module, origin in found.items() if origin is not None}
