"""Checks that shapes fit from encoder to connector to language model, as far as they are known without building."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medvlm.core.card import Card
from medvlm.core.config import component, slots_of
from medvlm.core.contracts import EncoderFacts
from medvlm.core.errors import RecipeError, ShapeError
from medvlm.core.problems import Problem
from medvlm.recipe.known import inline_language, inline_tower
from medvlm.recipe.schema import Recipe

UNKNOWN = EncoderFacts(width=None, grid=None)


def find_facts(encoder: Any) -> EncoderFacts:
    """Width and grid, from the config or from what medvlm knows about a published model. Raises ShapeError for settings
    that contradict each other."""
    found: EncoderFacts = component("encoders", encoder.kind).facts(_inline_known(encoder, inline_tower))
    return found


def find_width(config: Any) -> int | None:
    """The width of a language model's token embeddings."""
    found: int | None = component("backbones", config.kind).facts(_inline_known(config, inline_language))
    return found


def count_image_tokens(encoder: Any) -> int | None:
    """Tokens per medium that reach the language model; None if only the built encoder knows. Raises ShapeError if
    encoder and connector do not fit."""
    facts = find_facts(encoder)
    if encoder.connector is None or facts.grid is None:
        return None
    tokens: int = component("connectors", encoder.connector.kind).tokens(encoder.connector, facts.grid, facts.width)
    return tokens


def find_problems(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """cards: source -> its data card. Unknown shapes yield nothing here: they are checked when the model is built,
    before the first step."""
    tokens: dict[str, int] = {}
    for name, encoder in recipe.model.encoders.items():
        yield from _check_deepstack(recipe, name, encoder)
        try:
            find_facts(encoder)
        except ShapeError as reason:
            yield Problem(("model", "encoders", name), str(reason).removeprefix("encoders: "))
            continue
        try:
            if (count := count_image_tokens(encoder)) is not None:
                tokens |= dict.fromkeys(encoder.serves or (name,), count)
        except ShapeError as reason:
            yield Problem(("model", "encoders", name, "connector"), str(reason))
    if recipe.model.language is not None:
        try:
            find_width(recipe.model.language)
        except ShapeError as reason:
            yield Problem(("model", "language"), str(reason).removeprefix("model.language: "))
    yield from _check_lengths(recipe, cards, tokens)


def _check_deepstack(recipe: Recipe, name: str, encoder: Any) -> Iterator[Problem]:
    path = ("model", "encoders", name)
    if encoder.deepstack and recipe.model.language is None:
        yield Problem((*path, "deepstack"), "adds tokens behind layers of the language model, and there is none")
    for key, inner in slots_of(encoder, "encoders").items():
        if getattr(inner, "deepstack", ()):
            yield Problem((*path, key, "deepstack"), "is for an encoder by itself, and not for one within another")


def _check_lengths(recipe: Recipe, cards: Mapping[str, Card], tokens: Mapping[str, int]) -> Iterator[Problem]:
    """With a limit that a single image exceeds, training would refuse every sample of the source, one by one."""
    for i, stage in enumerate(recipe.stages):
        limit = stage.find_token_limit()
        if limit is None or not stage.shows_media():
            continue
        for source in stage.mix:
            kinds = cards[source].media if source in cards else ()
            if kinds and (least := min(tokens.get(kind, 0) for kind in kinds)) >= limit:
                why = (
                    f"is {limit}, but one image of {source} has {least} tokens; raise it, or choose a connector that"
                    " makes fewer"
                )
                yield Problem(("stages", i, "max_tokens"), why)


def _inline_known(part: Any, describe: Any) -> Any:
    try:
        return describe(part)
    except RecipeError:  # unknown here; building the model reports it
        return part
