"""A trained VLM as a stock LlavaForConditionalGeneration folder, which transformers loads without our code.

Written for transformers 5 (models/llava/modeling_llava.py of 5.23). Weights are loaded and saved by the stock class,
so that no file format is written by hand.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from medvlm.core.contracts import Preprocess
from medvlm.core.errors import ShapeError
from medvlm.data.transforms import make_processor_settings
from medvlm.export.audit import Audit, account, list_tensors
from medvlm.export.fits import check_one_tower, explain_drawing, find_model_type, stock_class_of
from medvlm.export.language import (
    LOADING_ANSWERS,
    check_head_is_linear,
    find_module_name,
    make_generation_config,
    pad_left,
)
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
    # The tower's model_type -> (vision_feature_select_strategy, number of tokens that are no patches). CLIP and DINOv2
    # have a class token, which "default" drops. SigLIP has none, and "default" would drop the first patch instead.
    # DINOv2 with registers has more of them than the class can drop.
    "clip_vision_model": ("default", 1),
    "dinov2": ("default", 1),
    "siglip_vision_model": ("full", 0),
}


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Needs one CLIP, DINOv2 or SigLIP tower, a connector linear - GELU - linear, and a causal language model."""
    if why := explain_drawing(model) or check_one_tower(model):
        return why
    ((name, encoder),) = model.encoders.items()
    if stock_class_of(encoder.connector) != CONNECTOR:
        return f"encoders.{name}.connector is of kind {encoder.connector.kind}, and LLaVA needs `mlp`"
    known = find_model_type(encoder)
    if known and known not in TOWERS:
        return f"encoders.{name} is a {known}, and LLaVA needs a {' or '.join(TOWERS)}"
    if encoder.layer == "normed":
        return f"encoders.{name}.layer is normed, and LLaVA uses hidden states before the final norm"
    return None


def write_reference(trained: Trained, folder: Path) -> None:
    references.write_answers(trained.drop_windows(), folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently."""
    from transformers import LlavaForConditionalGeneration

    model, tokenizer = trained.model, trained.tokenizer
    ((name, encoder),) = model.encoders.items()
    (preprocess,) = trained.preprocess.values()
    tower, connector, language = encoder.tower, model.connectors[name], model.language
    adapters = [n for n, _ in model.named_parameters() if ".lora_" in n]
    merge(model)
    config = make_config(tower, language, tokenizer, model.image_token_id, list(encoder.layers), preprocess.size)
    with torch.device("meta"):
        stock = LlavaForConditionalGeneration(config)
    source = {
        **list_tensors(f"encoders.{name}.tower", tower),
        **list_tensors(f"connectors.{name}", connector),
        **list_tensors("language", language),
    }
    placed, audit = account(source, map_names(trained), stock.state_dict(), adapters, trained.is_trained)
    check_head_is_linear(language)
    stock.load_state_dict(placed, strict=True, assign=True)
    stock.tie_weights()
    if config.tie_word_embeddings:
        audit.shared["lm_head.weight"] = (
            "model.language_model." + find_module_name(language.base_model, language.get_input_embeddings()) + ".weight"
        )
    audit.unused.update(_list_unused(tower, config, audit))
    stock.generation_config = make_generation_config(model, tokenizer)
    stock.config.dtype = language.get_input_embeddings().weight.dtype
    stock.save_pretrained(folder)
    save_processor(tokenizer, preprocess, tower, folder)
    return audit


def map_names(trained: Trained) -> Callable[[str], str | None]:
    """A parameter's name -> its name in the stock class, or None."""
    ((name, _),) = trained.model.encoders.items()
    language = trained.model.language
    head = find_module_name(language, language.get_output_embeddings())
    moves = {
        f"encoders.{name}.tower.": "model.vision_tower.",
        f"connectors.{name}.": "model.multi_modal_projector.",
        f"language.{language.base_model_prefix}.": "model.language_model.",
        f"language.{head}.": "lm_head.",
    }
    return lambda full: next((new + full[len(old) :] for old, new in moves.items() if full.startswith(old)), None)


def make_config(
    tower: Any, language: Any, tokenizer: Any, image_token_id: int, layers: list[int], size: tuple[int, ...]
) -> Any:
    """The LlavaConfig of the trained model. size: (height, width) of its images; DINOv2 interpolates its position
    embeddings to it. Raises ShapeError for a tower that LLaVA is not used with."""
    from transformers import LlavaConfig

    kind = tower.config.model_type
    if kind not in TOWERS:
        raise ShapeError(f"export: the tower is a {kind}, and LLaVA needs a {' or '.join(TOWERS)}; {REMEDY}")
    strategy, _ = TOWERS[kind]
    vision, text = copy.deepcopy(tower.config), copy.deepcopy(language.config)
    vision.architectures = [type(tower).__name__]
    text.architectures = [type(language).__name__]  # llama.cpp chooses its converter by this
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token_id,
        image_seq_length=math.prod(side // vision.patch_size for side in size),
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
    """Writes processor_config.json, chat_template.jinja, the tokenizer, and preprocessor_config.json for older
    loaders."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    strategy, extra = TOWERS[tower.config.model_type]
    tokenizer = pad_left(tokenizer)
    images = CLIPImageProcessor(**make_processor_settings(preprocess))
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


def _list_unused(tower: Any, config: Any, audit: Audit) -> dict[str, str]:
    """Tensors of the tower after the hidden state that LLaVA uses, each with its reason."""
    layer = config.vision_feature_layer
    # Negative: -1 is the last layer. `num_run` counts the layers that are computed for the hidden state.
    num_run = tower.config.num_hidden_layers + 1 + (layer if isinstance(layer, int) else max(layer))
    unused = {}
    for name in audit.merged + audit.replaced + audit.copied:
        part = name.removeprefix("model.vision_tower.")
        if part == name:
            continue
        if part.startswith("head."):
            unused[name] = "attention pooling of SigLIP: LLaVA uses the patches"
        elif part.startswith(("post_layernorm.", "layernorm.")):
            unused[name] = "norm of the last output: LLaVA uses the hidden state before it"
        elif part == "embeddings.mask_token":
            unused[name] = "token of masked patches: only pretraining masks some"
        elif part.startswith(("encoder.layers.", "encoder.layer.")) and int(part.split(".")[2]) >= num_run:
            unused[name] = f"layer after vision_feature_layer {layer}"
    return unused
