"""A trained VLM as a stock LlavaForConditionalGeneration folder, which transformers loads without our code.

Written for transformers 5 (models/llava/modeling_llava.py of 5.23): weights go in and out through the stock class,
never through a state dict written by hand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from medvlm.core.contracts import Preprocess
from medvlm.core.errors import ShapeError
from medvlm.data.transforms import processor_settings
from medvlm.export.audit import Audit, account, named
from medvlm.export.fits import model_type, one_tower, stock_class_of
from medvlm.export.language import LOADING_ANSWERS, generation_config, head_is_linear, module_name, padded_left
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained
from medvlm.models.lora import merge
from medvlm.models.vlm import VLM
from medvlm.recipe.targets import REMEDY

LIBRARY, LOADER = "transformers", "stock"
HOLDS = Holds(VLM, order=1, servers=("vllm",), tags=("llava",))
LOADING = LOADING_ANSWERS
CONNECTOR = "LlavaMultiModalProjector"
TOWERS = {
    # tower's model_type -> (vision_feature_select_strategy, tokens beside the patches): CLIP has a class token, which
    # "default" drops; SigLIP has none, and "default" would drop the first patch instead.
    "clip_vision_model": ("default", 1),
    "siglip_vision_model": ("full", 0),
}


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """The class holds one CLIP or SigLIP tower, linear - GELU - linear, and a causal language model."""
    if why := one_tower(model):
        return why
    ((name, encoder),) = model.encoders.items()
    if stock_class_of(encoder.connector) != CONNECTOR:
        return f"encoders.{name}.connector is of kind {encoder.connector.kind}, and LLaVA holds `mlp`"
    known = model_type(encoder)
    if known and known not in TOWERS:
        return f"encoders.{name} is a {known}, and LLaVA is used with {' or '.join(TOWERS)}"
    if encoder.layer == "normed":
        return f"encoders.{name}.layer is normed, and LLaVA takes hidden states before the final norm"
    return None


def reference(trained: Trained, folder: Path) -> None:
    references.answers(trained.for_stock(), folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Adapters are folded into the model for good."""
    from transformers import LlavaForConditionalGeneration

    model, tokenizer = trained.model, trained.tokenizer
    ((name, encoder),) = model.encoders.items()
    (preprocess,) = trained.preprocess.values()
    tower, connector, language = encoder.tower, model.connectors[name], model.language
    adapters = [n for n, _ in model.named_parameters() if ".lora_" in n]
    merge(model)
    config = llava_config(tower, language, tokenizer, model.image_token_id, list(encoder.layers))
    with torch.device("meta"):
        stock = LlavaForConditionalGeneration(config)
    source = {
        **named(f"encoders.{name}.tower", tower),
        **named(f"connectors.{name}", connector),
        **named("language", language),
    }
    placed, audit = account(source, places(trained), stock.state_dict(), adapters, trained.is_trained)
    head_is_linear(language)
    stock.load_state_dict(placed, strict=True, assign=True)
    stock.tie_weights()
    if config.tie_word_embeddings:
        audit.shared["lm_head.weight"] = (
            "model.language_model." + module_name(language.base_model, language.get_input_embeddings()) + ".weight"
        )
    audit.unused.update(_unused(tower, config, audit))
    stock.generation_config = generation_config(model, tokenizer)
    stock.config.dtype = language.get_input_embeddings().weight.dtype
    stock.save_pretrained(folder)
    save_processor(tokenizer, preprocess, tower, folder)
    return audit


def places(trained: Trained) -> Callable[[str], str | None]:
    """A parameter's name -> its name in the stock class, or None."""
    ((name, _),) = trained.model.encoders.items()
    language = trained.model.language
    head = module_name(language, language.get_output_embeddings())
    moves = {
        f"encoders.{name}.tower.": "model.vision_tower.",
        f"connectors.{name}.": "model.multi_modal_projector.",
        f"language.{language.base_model_prefix}.": "model.language_model.",
        f"language.{head}.": "lm_head.",
    }
    return lambda full: next((new + full[len(old) :] for old, new in moves.items() if full.startswith(old)), None)


def llava_config(tower: Any, language: Any, tokenizer: Any, image_token_id: int, layers: list[int]) -> Any:
    """Raises ShapeError when the tower is not one that the stock class is used with."""
    from transformers import LlavaConfig

    kind = tower.config.model_type
    if kind not in TOWERS:
        raise ShapeError(
            f"export: the tower is a {kind}, and the stock class is used with {' or '.join(TOWERS)}; {REMEDY}"
        )
    strategy, _ = TOWERS[kind]
    vision, text = copy.deepcopy(tower.config), copy.deepcopy(language.config)
    vision.architectures = [type(tower).__name__]
    text.architectures = [type(language).__name__]  # llama.cpp picks its converter by this
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        projector_hidden_act="gelu",
        vision_feature_select_strategy=strategy,
        vision_feature_layer=layers[0] if len(layers) == 1 else layers,
        multimodal_projector_bias=True,
        tie_word_embeddings=bool(text.tie_word_embeddings),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def save_processor(tokenizer: Any, preprocess: Preprocess, tower: Any, folder: Path) -> None:
    """processor_config.json, chat_template.jinja, the tokenizer, and preprocessor_config.json for older readers."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    strategy, extra = TOWERS[tower.config.model_type]
    tokenizer = padded_left(tokenizer)
    images = CLIPImageProcessor(**processor_settings(preprocess))
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy=strategy,
        chat_template=tokenizer.chat_template,
        num_additional_image_tokens=extra,
    )
    processor.save_pretrained(folder)
    images.save_pretrained(folder)


def _unused(tower: Any, config: Any, audit: Audit) -> dict[str, str]:
    """Tensors of the tower behind the hidden state that LLaVA takes."""
    taken = config.vision_feature_layer
    last = (
        tower.config.num_hidden_layers + 1 + (taken if isinstance(taken, int) else max(taken))
    )  # number of layers that are run for it
    unused = {}
    for name in audit.merged + audit.replaced + audit.copied:
        part = name.removeprefix("model.vision_tower.")
        if part == name:
            continue
        if part.startswith("head."):
            unused[name] = "attention pooling of SigLIP: LLaVA takes the patches"
        elif part.startswith("post_layernorm."):
            unused[name] = "norm of the pooled output: LLaVA takes the hidden state before it"
        elif part.startswith("encoder.layers.") and int(part.split(".")[2]) >= last:
            unused[name] = f"layer behind vision_feature_layer {taken}"
    return unused
