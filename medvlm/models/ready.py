"""Opens a ready vision-language model, as the class that computes it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from medvlm.core import published
from medvlm.core.contracts import Quantize
from medvlm.core.deferred import has_values
from medvlm.core.errors import RecipeError
from medvlm.core.families import family_of
from medvlm.core.quantize import quantization_args, quantize_on_meta, settle
from medvlm.core.weights import build_stock, is_on_meta, load_stock, open_stock
from medvlm.models.native import NativeVLM
from medvlm.models.native_encoded import NativeEncoderDecoder
from medvlm.models.parts import build_seeded


def build_native(
    pretrained: str | Path,
    blank: Mapping[str, torch.Tensor],
    seed: int,
    weights: bool = True,
    dtype: str = "float32",
    quantize: Quantize | None = None,
    barred_ids: Sequence[int] = (),
) -> NativeVLM:
    """pretrained: hub id or folder. blank: the processor's output for one picture. weights: False for random weights,
    to be overwritten later. dtype: of the weights that are read; `auto` keeps the stored one. quantize: of the language
    model. barred_ids: tokens that stand for media, in addition to the image placeholder.

    Raises RecipeError for a model that cannot be found or of an unknown family, ShapeError if shared rows change its
    outputs."""
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

    try:
        config = open_stock(AutoConfig, pretrained)
        family = family_of(config.model_type)
        outside = [f"model.{path}" for path in (family.tower, *family.connectors, *family.unread)]
        if weights:
            packed = quantization_args("model.quantize", [*outside, "lm_head"]) if quantize else {}
            stock, loading = load_stock(
                AutoModelForImageTextToText, str(pretrained), "model.pretrained", dtype=dtype, **packed
            )
            settle(stock)
        else:
            stock, loading = (
                build_seeded(
                    seed,
                    "native",
                    lambda: build_stock(AutoModelForImageTextToText, config, dtype=torch.float32),
                ),
                {},
            )
            if quantize and is_on_meta():
                quantize_on_meta(stock.model.get_submodule(family.language), ())
            with suppress(OSError):  # where there is none, it is made from the config
                stock.generation_config = GenerationConfig.from_pretrained(pretrained)
    except OSError as reason:
        raise RecipeError(
            f"model.pretrained: {pretrained} cannot be read ({_get_first_line(reason)}); log in to the hub if it is"
            " gated, or give the path of a folder"
        ) from None
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if wrong := sorted(map(str, loading.get(kind) or ())):
            raise RecipeError(
                f"model.pretrained: {pretrained}: {kind.replace('_', ' ')}: {', '.join(wrong[:5])} ({len(wrong)}); it"
                f" is not a whole {type(stock).__name__}"
            )
    if not family.has_encoder:
        _check_takes_features(stock)
    published.mark(stock, () if weights or is_on_meta() else stock.state_dict())
    model = (NativeEncoderDecoder if family.has_encoder else NativeVLM)(stock, blank, barred_ids)
    # Without values there is nothing to compare; in lower precisions, rounding exceeds the tolerance.
    if has_values(model) and next(model.parameters()).dtype == torch.float32:
        model.check()
    return model


def _check_takes_features(stock: Any) -> None:
    if "mm_encoder_outputs" not in inspect.signature(stock.forward).parameters:
        raise RecipeError(
            "model.pretrained: ready models need transformers 5.24 or newer, which accepts precomputed image features"
        )


def _get_first_line(reason: Exception) -> str:
    return str(reason).strip().splitlines()[0].rstrip(".")[:200]
