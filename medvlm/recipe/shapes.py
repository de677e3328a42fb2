"""Whether what flows from encoder to connector to language model has the shapes they take, as far as that is known
without building."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medvlm.core.card import Card
from medvlm.core.config import component
from medvlm.core.contracts import EncoderFacts
from medvlm.core.errors import RecipeError, ShapeError
from medvlm.core.problems import Problem
from medvlm.recipe.known import language, tower
from medvlm.recipe.schema import Recipe

UNKNOWN = EncoderFacts(width=None, grid=None)


def facts_of(encoder: Any) -> EncoderFacts:
    """Width and grid by the config, or by what medvlm knows of a published model. Raises ShapeError for settings that
    contradict each other."""
    found: EncoderFacts = component("encoders", encoder.kind).facts(_described(encoder, tower))
    return found


def width_of(config: Any) -> int | None:
    """Of a language model's token embeddings."""
    found: int | None = component("backbones", config.kind).facts(_described(config, language))
    return found


def image_tokens(encoder: Any) -> int | None:
    """Tokens per medium that reach the language model; None where only the built encoder knows. Raises ShapeError where
    they do not fit."""
    facts = facts_of(encoder)
    if encoder.connector is None or facts.grid is None:
        return None
    tokens: int = component("connectors", encoder.connector.kind).tokens(encoder.connector, facts.grid, facts.width)
    return tokens


def problems(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """cards: source -> its data card. What is not known yields nothing: it is checked when the model is built, before
    the first step."""
    tokens: dict[str, int] = {}
    for name, encoder in recipe.model.encoders.items():
        try:
            facts_of(encoder)
        except ShapeError as reason:
            yield Problem(("model", "encoders", name), str(reason).removeprefix("encoders: "))
            continue
        try:
            if (count := image_tokens(encoder)) is not None:
                tokens |= dict.fromkeys(encoder.serves or (name,), count)
        except ShapeError as reason:
            yield Problem(("model", "encoders", name, "connector"), str(reason))
    if recipe.model.language is not None:
        try:
            width_of(recipe.model.language)
        except ShapeError as reason:
            yield Problem(("model", "language"), str(reason).removeprefix("model.language: "))
    yield from _lengths(recipe, cards, tokens)


def _lengths(recipe: Recipe, cards: Mapping[str, Card], tokens: Mapping[str, int]) -> Iterator[Problem]:
    """A limit that a single image goes beyond would refuse every sample of the source, one by one."""
    for i, stage in enumerate(recipe.stages):
        limit = stage.find_token_limit()
        if limit is None or not stage.shows_media():
            continue
        for source in stage.mix:
            kinds = cards[source].media if source in cards else ()
            if kinds and (least := min(tokens.get(kind, 0) for kind in kinds)) >= limit:
                why = (
                    f"is {limit}, and one image of {source} alone is {least} tokens; raise it, or choose a connector"
                    " that makes fewer"
                )
                yield Problem(("stages", i, "max_tokens"), why)


def _described(part: Any, describe: Any) -> Any:
    try:
        return describe(part)
    except RecipeError:  # nothing is known of it: it says so itself when it is built
        return part
