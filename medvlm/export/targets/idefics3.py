"""A trained VLM as a stock Idefics3ForConditionalGeneration folder, which transformers and vLLM load and llama.cpp
converts to GGUF.

The class has a SigLIP tower up to its final norm, a pixel shuffle with one matrix, and a causal language model. Its
processor writes Idefics3's own tokens around every image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from medvlm.core.contracts import Preprocess
from medvlm.data.transforms import PIL_BICUBIC
from medvlm.export.audit import Audit, account, list_tensors
from medvlm.export.fits import check_one_tower, explain_drawing, find_model_type, stock_class_of
from medvlm.export.language import (
    LOADING_ANSWERS,
    check_head_is_linear,
    find_module_name,
    make_generation_config,
    pad_left,
    rename_token,
)
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained
from medvlm.models.lora import merge
from medvlm.models.vlm import VLM

LIBRARY, LOADER = "transformers", "stock"
HOLDS = Holds(VLM, order=2, servers=("vllm", "gguf"), tags=("idefics3",))
LOADING = LOADING_ANSWERS
AROUND = ("<fake_token_around_image><global-img>", "<fake_token_around_image>")
CONNECTOR = "Idefics3Connector"
IMAGE = "<image>"
"""The image token of Idefics3Processor."""
END = "<end_of_utterance>"
"""Idefics3Processor adds this token to every tokenizer. Without a row of its own, its id would be beyond the end of
the embeddings."""


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Needs one SigLIP tower, pixel_shuffle with one layer, square images, and Idefics3's tokens around images."""
    if why := explain_drawing(model) or check_one_tower(model):
        return why
    ((name, encoder),) = model.encoders.items()
    at, connector, language = f"encoders.{name}", encoder.connector, model.language
    if stock_class_of(connector) != CONNECTOR:
        given = ", ".join(f"{key}: {value}" for key, value in connector.model_dump().items())
        return f"{at}.connector is {{{given}}}, and Idefics3 needs {{kind: pixel_shuffle, layers: 1}}"
    known = find_model_type(encoder)
    if known and known != "siglip_vision_model":
        return f"{at} is a {known}, and Idefics3 needs a siglip_vision_model"
    if encoder.layer != "normed":
        return f"{at}.layer is {encoder.layer}, and Idefics3 uses the last layer after the norm: set layer: normed"
    before = encoder.preprocess
    if before is not None and (before.fit != "squash" or before.size[0] != before.size[1]):
        return (
            f"{at}.preprocess makes {list(before.size)} with fit: {before.fit}, and Idefics3's processor needs squares"
            " with fit: squash"
        )
    has_words = "around_image" in type(language).model_fields
    if has_words and (tuple(language.around_image) != AROUND or END not in language.special_tokens):
        return (
            f"language has different tokens around images than Idefics3: set around_image: {list(AROUND)} and"
            f" special_tokens: [{END}]"
        )
    return None


def write_reference(trained: Trained, folder: Path) -> None:
    references.write_answers(trained.drop_windows(), folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    model, tokenizer = trained.model, trained.tokenizer
    ((name, encoder),) = model.encoders.items()
    tower, connector, language = encoder.tower, model.connectors[name], model.language
    adapters = [n for n, _ in model.named_parameters() if ".lora_" in n and ".tower.head." not in n]
    merge(model)
    vision, text = tower.config.to_dict(), copy.deepcopy(language.config)
    text.architectures = [type(language).__name__]  # llama.cpp chooses its converter by this
    config = Idefics3Config(
        vision_config=Idefics3VisionConfig(
            **{k: v for k, v in vision.items() if k in Idefics3VisionConfig.__dataclass_fields__ and k != "model_type"}
        ),
        text_config=text,
        image_token_id=model.image_token_id,
        scale_factor=connector.factor,
        tie_word_embeddings=bool(text.tie_word_embeddings),
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device("meta"):
        stock = Idefics3ForConditionalGeneration(config)
    source = {
        **list_tensors(f"encoders.{name}.tower", tower),
        **list_tensors(f"connectors.{name}", connector),
        **list_tensors("language", language),
    }
    pooling = {n for n in source if n.startswith(f"encoders.{name}.tower.head.")}
    placed, audit = account(
        {n: t for n, t in source.items() if n not in pooling},
        map_names(trained),
        stock.state_dict(),
        adapters,
        trained.is_trained,
    )
    if pooling:
        audit.left_out[f"encoders.{name}.tower.head"] = (
            "attention pooling of SigLIP, which Idefics3 does not have and does not need"
        )
    check_head_is_linear(language)
    stock.load_state_dict(placed, strict=True, assign=True)
    stock.tie_weights()
    if config.tie_word_embeddings:
        audit.shared["lm_head.weight"] = (
            f"model.text_model.{find_module_name(language.base_model, language.get_input_embeddings())}.weight"
        )
    stock.generation_config = make_generation_config(model, tokenizer)
    stock.config.dtype = language.get_input_embeddings().weight.dtype
    stock.save_pretrained(folder)
    (preprocess,) = trained.preprocess.values()
    _save_processor(tokenizer, preprocess, encoder, connector, folder)
    return audit


def map_names(trained: Trained) -> Callable[[str], str | None]:
    """A parameter's name -> its name in the stock class, or None."""
    ((name, _),) = trained.model.encoders.items()
    language = trained.model.language
    moves = {
        **{
            f"encoders.{name}.tower.{own}.": f"model.vision_model.{own}."
            for own in ("embeddings", "encoder", "post_layernorm")
        },
        f"connectors.{name}.proj.": "model.connector.modality_projection.proj.",
        f"language.{language.base_model_prefix}.": "model.text_model.",
        f"language.{find_module_name(language, language.get_output_embeddings())}.": "lm_head.",
    }
    return lambda full: next((new + full[len(old) :] for old, new in moves.items() if full.startswith(old)), None)


def _save_processor(tokenizer: Any, preprocess: Preprocess, encoder: Any, connector: Any, folder: Path) -> None:
    """Resizes images to a square in one step, without tiles and without resizing before."""
    from transformers import Idefics3ImageProcessor, Idefics3Processor

    rows, columns = encoder.grid
    images = Idefics3ImageProcessor(
        do_resize=False,
        do_image_splitting=False,
        max_image_size={"longest_edge": preprocess.size[0]},
        resample=PIL_BICUBIC,
        image_mean=list(preprocess.mean),
        image_std=list(preprocess.std),
    )
    tokenizer = pad_left(rename_token(tokenizer, tokenizer.image_token, IMAGE))
    # The processor writes the tokens around an image itself, so they are removed from the template.
    template = tokenizer.chat_template.replace(f" | replace({IMAGE!r}, {AROUND[0] + IMAGE + AROUND[1]!r})", "")
    tokenizer.chat_template = template
    Idefics3Processor(
        images, tokenizer, image_seq_len=rows * columns // connector.factor**2, chat_template=template
    ).save_pretrained(folder)
    images.save_pretrained(folder)
