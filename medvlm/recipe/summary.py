"""Summarises a checked recipe: its parts, data, stages and outputs, and what cannot be checked without weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from medvlm.core.card import Card
from medvlm.core.config import component
from medvlm.core.protocols import find_protocol, list_baselines, read_protocols
from medvlm.recipe.graph import find_outside_origins, find_start_stages, list_compositions, list_served_media
from medvlm.recipe.schema import Recipe
from medvlm.recipe.shapes import count_image_tokens, find_facts, find_width
from medvlm.recipe.targets import resolve

NOT_CHECKED = "not checked (known after building)"


def summarise(recipe: Recipe, cards: Mapping[str, Card]) -> list[str]:
    """One line per part, source, stage and output, in the order of a recipe."""
    return [
        *_summarise_model(recipe),
        *_summarise_data(recipe, cards),
        *_summarise_stages(recipe),
        *_summarise_outputs(recipe),
    ]


def _summarise_model(recipe: Recipe) -> Iterator[str]:
    if recipe.model.pretrained:
        yield f"  model: {recipe.model.pretrained}, built with its own classes; its parts and tokens are {NOT_CHECKED}"
    elif not recipe.model.encoders:
        yield f"  model: {composition.NOUN if (composition := next(iter(list_compositions(recipe)), None)) else 'none'}"
    width = recipe.model.language and find_width(recipe.model.language)
    for name, encoder in recipe.model.encoders.items():
        facts = find_facts(encoder)
        grid = " x ".join(map(str, facts.grid)) if facts.grid else None
        output = f"{grid} tokens of width {facts.width}" if grid and facts.width else f"tokens {NOT_CHECKED}"
        media = list_served_media(recipe)[name] or ("any media",)
        line = f"  encoder {name}: {encoder.kind}, {output}, serves {', '.join(media)}"
        if encoder.connector is not None:
            tokens = count_image_tokens(encoder)
            line += f"; through {encoder.connector.kind} " + (
                f"{tokens} tokens of width {width or NOT_CHECKED}" if tokens else f"tokens {NOT_CHECKED}"
            )
        yield line
    if recipe.model.language is not None:
        language = recipe.model.language
        yield f"  language: {language.kind}, " + (f"width {width}" if width else f"width {NOT_CHECKED}")


def _summarise_data(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[str]:
    for name, source in recipe.data.items():
        card = cards[name]
        fold = f", fold {source.fold} of {card.splits.folds} is the test set" if card.splits.folds else ""
        allowed = "commercial use allowed" if card.licence.commercial else "non-commercial"
        yield f"  data {name}: {card.title}; {card.licence.id}, {allowed}; media {', '.join(card.media)}{fold}"


def _summarise_stages(recipe: Recipe) -> Iterator[str]:
    if not recipe.stages:
        yield "  no stages: `medvlm evaluate` evaluates the model as it is"
    for i, stage in enumerate(recipe.stages):
        outside = [str(origin) for origin in find_outside_origins(recipe, i).values()]
        before = " and ".join([*(recipe.stages[j].name for j in find_start_stages(recipe, i)), *outside])
        before = before or "the initial model"
        yield (
            f"  stage {stage.name}: {stage.kind}, {stage.length} from {_describe_mix(stage.mix)};"
            f" trains {', '.join(stage.trains)}; starts from {before}"
        )


def _describe_mix(mix: Mapping[str, float]) -> str:
    total = sum(mix.values())
    return ", ".join(name if len(mix) == 1 else f"{name} ({weight / total:.0%})" for name, weight in mix.items())


def _summarise_outputs(recipe: Recipe) -> Iterator[str]:
    can = {ability for composition in list_compositions(recipe) for ability in composition.CAN}
    asked = [each for each in read_protocols(recipe.evaluate.protocols) if find_protocol(each).NEEDS in can]
    baselines = [name for name in list_baselines(asked) if name in recipe.evaluate.all_baselines]
    for source, split in recipe.evaluate.pairs():
        yield f"  evaluates on {source}:{split} against {', '.join(baselines) or 'no baseline'}"
    for target in recipe.export.targets if recipe.stages else ():
        kind, part, _ = resolve(target, recipe.model, recipe.stages)
        yield (
            f"  exports {f'encoders.{part} ' if part else ''}as {kind}, which needs only"
            f" {component('export.targets', kind).LIBRARY} to load"
        )
    yield "  weights, files and memory are not checked here"
