"""A checked recipe in a few lines: what goes where, what trains what, and what could not be checked without weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from medvlm.core.card import Card
from medvlm.core.config import component
from medvlm.recipe.graph import outside_origins, serves, starts_from
from medvlm.recipe.schema import Recipe
from medvlm.recipe.shapes import facts_of, image_tokens, width_of
from medvlm.recipe.targets import resolve

NOT_CHECKED = "not checked (known when it is built)"


def summary(recipe: Recipe, cards: Mapping[str, Card]) -> list[str]:
    """One line a part, source, stage and output, in the order of a recipe."""
    return [*_model(recipe), *_data(recipe, cards), *_stages(recipe), *_outputs(recipe)]


def _model(recipe: Recipe) -> Iterator[str]:
    if recipe.model.pretrained:
        yield f"  model: {recipe.model.pretrained}, of its family's own classes; its parts and tokens are {NOT_CHECKED}"
    width = recipe.model.language and width_of(recipe.model.language)
    for name, encoder in recipe.model.encoders.items():
        facts = facts_of(encoder)
        grid = " x ".join(map(str, facts.grid)) if facts.grid else None
        seen = f"{grid} tokens of width {facts.width}" if grid and facts.width else f"tokens {NOT_CHECKED}"
        line = f"  encoder {name}: {encoder.kind}, {seen}, serves {', '.join(serves(recipe)[name] or ('any media',))}"
        if encoder.connector is not None:
            tokens = image_tokens(encoder)
            line += f"; through {encoder.connector.kind} " + (
                f"{tokens} tokens of width {width or NOT_CHECKED}" if tokens else f"tokens {NOT_CHECKED}"
            )
        yield line
    if recipe.model.language is not None:
        language = recipe.model.language
        yield f"  language: {language.kind}, " + (f"width {width}" if width else f"width {NOT_CHECKED}")


def _data(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[str]:
    for name, source in recipe.data.items():
        card = cards[name]
        fold = f", fold {source.fold} of {card.splits.folds} is the test set" if card.splits.folds else ""
        allowed = "commercial use allowed" if card.licence.commercial else "non-commercial"
        yield f"  data {name}: {card.title}; {card.licence.id}, {allowed}; media {', '.join(card.media)}{fold}"


def _stages(recipe: Recipe) -> Iterator[str]:
    for i, stage in enumerate(recipe.stages):
        outside = [str(origin) for origin in outside_origins(recipe, i).values()]
        before = " and ".join([*(recipe.stages[j].name for j in starts_from(recipe, i)), *outside])
        before = before or "the model as it is"
        yield (
            f"  stage {stage.name}: {stage.kind}, {stage.steps} steps of {stage.batch} from {_mix(stage.mix)}; trains"
            f" {', '.join(stage.trains)}; starts from {before}"
        )


def _mix(mix: Mapping[str, float]) -> str:
    total = sum(mix.values())
    return ", ".join(name if len(mix) == 1 else f"{name} ({weight / total:.0%})" for name, weight in mix.items())


def _outputs(recipe: Recipe) -> Iterator[str]:
    for source, split in recipe.evaluate.pairs():
        yield f"  evaluates on {source}:{split} against {', '.join(recipe.evaluate.all_baselines) or 'no baseline'}"
    for target in recipe.export.targets:
        kind, part, _ = resolve(target, recipe.model, recipe.stages)
        yield (
            f"  exports {f'encoders.{part} ' if part else ''}as {kind}, which loads with"
            f" {component('export.targets', kind).LIBRARY} alone"
        )
    yield "  weights, files and memory are not checked here"
