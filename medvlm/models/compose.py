"""Builds a composed vision-language model from the configs of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlm.core.config import component
from medvlm.core.deferred import has_values
from medvlm.core.media_words import list_media_ids
from medvlm.models.decoding import build_decoders
from medvlm.models.encoder_decoder import EncoderDecoderVLM
from medvlm.models.parts import build_connectors, build_encoders, build_seeded
from medvlm.models.vlm import VLM

NO_DECODERS: Mapping[str, Any] = {}


def build_vlm(
    encoders: Mapping[str, Any],
    language: Any,
    tokenizer: Any,
    image_token: str,
    seed: int,
    decoders: Mapping[str, Any] = NO_DECODERS,
) -> VLM:
    """encoders: name -> encoder config with its connector. language: a backbone config. decoders: those that read
    hidden states of the language model.

    Raises ShapeError for a language model that computes something else for rows of a batch than for each text alone.
    """
    kind = component("backbones", language.kind)
    backbone = build_seeded(seed, "language", lambda: kind.build(language, tokenizer))
    towers = build_encoders(encoders, seed)
    width = backbone.get_input_embeddings().embedding_dim
    connectors = build_connectors(encoders, towers, width, seed)
    drawing, reads = build_decoders(encoders, towers, decoders, seed, token_width=width)
    model = choose_class(kind.HAS_ENCODER)(
        towers,
        connectors,
        backbone,
        tokenizer.convert_tokens_to_ids(image_token),
        tuple(tokenizer.convert_tokens_to_ids(t) for t in kind.new_tokens(language)),
        list_media_ids(tokenizer),
        drawing,
        reads,
    )
    if has_values(backbone):
        model.check()
    return model


def choose_class(has_encoder: bool) -> type[VLM]:
    """has_encoder: of the language model."""
    return EncoderDecoderVLM if has_encoder else VLM
