"""Checks that decoders fit the encoders that they read and the questions that they answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medvlm.core.card import Card
from medvlm.core.config import component
from medvlm.core.content import list_answered
from medvlm.core.contracts import LeveledConfig
from medvlm.core.decoder_config import (
    TEXT_FORMS,
    UNWRITTEN,
    DrawingConfig,
    find_encoder,
    find_form,
    list_texts,
    reads_levels,
    reads_tokens,
)
from medvlm.core.document import KeyPath
from medvlm.core.errors import RecipeError, ShapeError
from medvlm.core.problems import Problem
from medvlm.data.control_words import is_written
from medvlm.recipe.schema import Recipe
from medvlm.recipe.shapes import find_facts


def check_decoders(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """cards: source -> its data card. Facts that only the built encoder knows are checked when it is built."""
    for name, decoder in recipe.model.decoders.items():
        path: KeyPath = ("model", "decoders", name)
        if recipe.model.pretrained:
            yield Problem(
                path, "model.pretrained cannot have decoders; use `encoders`, whose features a decoder can read"
            )
            continue
        if list_texts(decoder) and not getattr(component("decoders", decoder.kind), "READS_TEXTS", False):
            yield Problem((*path, "prompts"), f"{decoder.kind} reads no texts; leave out {' and '.join(TEXT_FORMS)}")
            continue
        if reads_tokens(decoder) and (why := _explain_undrawn(decoder, recipe.model.language)):
            yield Problem(path, why)
            continue
        try:
            encoder = recipe.model.encoders[find_encoder(name, decoder, recipe.model.encoders)]
            known, preprocess = find_facts(encoder), component("encoders", encoder.kind).preprocess(encoder)
            if preprocess.tiles or preprocess.stack > 1:
                _refuse_views(decoder)
            if preprocess.stack > 1 and decoder.most_media > 1:
                raise ShapeError(
                    "reads the media of a sample one by one, but its encoder stacks them; leave out `stack`"
                )
            if reads_levels(decoder) and not (isinstance(encoder, LeveledConfig) and encoder.levels):
                _refuse_one_level(decoder, encoder)
            component("decoders", decoder.kind).facts(decoder, known.width, known.grid, preprocess.shape)
        except (ShapeError, RecipeError) as reason:
            yield Problem(path, str(reason).removeprefix(f"model.decoders.{name}").removeprefix(": "))
    yield from _check_evaluation(recipe, cards)


def _explain_undrawn(decoder: DrawingConfig, language: Any) -> str:
    """Why a language model cannot draw with a decoder, or ""."""
    if language is None:
        return f"{decoder.kind} reads a language model; add `language`"
    kind = component("backbones", language.kind)
    if kind.HAS_ENCODER:
        return f"{decoder.kind} reads a causal language model, and model.language is of kind {language.kind}"
    token = decoder.token
    if not language.model and not language.tokenizer and token not in kind.new_tokens(language):
        return f"token: {token} is no token of the language model; add language.special_tokens: ['{token}']"
    if token in kind.new_tokens(language) and not is_written(token):
        return f"token: {token} {UNWRITTEN}"
    return ""


def _refuse_one_level(decoder: Any, encoder: Any) -> None:
    """Raises ShapeError for a decoder of several layers and an encoder that gives one."""
    able = isinstance(encoder, LeveledConfig)
    remedy = "set `levels` of its encoder, e.g. [-4, -3, -2, -1]" if able else "use an encoder that has `levels`"
    raise ShapeError(f"{decoder.kind} reads several layers of its encoder; {remedy}")


def _refuse_views(decoder: Any) -> None:
    """Raises ShapeError for masks from several views, none of which is the whole film."""
    if find_form(decoder) == "maps":
        raise ShapeError(
            "predicts masks, but its encoder takes several views of a film as one input; use an encoder whose"
            " preprocess has neither tiles nor stack"
        )


def _check_evaluation(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """A model that only decodes needs sources with questions that its decoders answer."""
    if (
        recipe.model.language is not None
        or not recipe.model.decoders
        or any(s.list_text_towers() and component("stages", s.kind).NEEDS == "embed" for s in recipe.stages)
    ):
        return
    answered = {decoder.answers or name for name, decoder in recipe.model.decoders.items()}
    for i, (source, _) in enumerate(recipe.evaluate.pairs()):
        offered = list_answered(cards[source]) if source in cards else None
        if offered is not None and not answered & offered.keys():
            asks = f"it asks {', '.join(offered)}" if offered else "it asks nothing that a decoder can answer"
            yield Problem(
                ("evaluate", "on", i),
                f"no decoder answers a question of {source} ({asks}; the decoders answer {', '.join(answered)})",
            )
