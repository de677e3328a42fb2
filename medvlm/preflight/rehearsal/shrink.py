"""Shrinks a recipe's models to a size that trains on a CPU in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlm.core.config import component
from medvlm.core.contracts import LoadedFile
from medvlm.recipe.config_keys import drop_unknown

WIDTH, HEADS, LAYERS, GRID = 96, 4, 2, 12
"""96 and 12 are divisible by 2, 3, 4 and 6, by which connectors divide them."""
SIZES = {
    "hidden_size": WIDTH,
    "embed_dim": WIDTH,
    "n_embd": WIDTH,
    "d_model": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "ffn_dim": 2 * WIDTH,
    "n_inner": 2 * WIDTH,
    "d_ff": 2 * WIDTH,
    "d_kv": WIDTH // HEADS,
    "num_attention_heads": HEADS,
    "n_head": HEADS,
    "num_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": WIDTH // HEADS,
    "projection_dim": WIDTH,
    "num_hidden_layers": LAYERS,
    "n_layer": LAYERS,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "depth": LAYERS,
    "query_pre_attn_scalar": WIDTH // HEADS,
    "width": WIDTH,
    "heads": HEADS,
    "layers": LAYERS,
}
"""Key of a config -> its largest value in a small model. Keys are never added to a config."""
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "depth", "layers", "attention_window")
DROPPED = (
    "vocab_size",
    "layer_types",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "max_window_layers",
    "tie_word_embeddings",
)
"""Keys that are removed, because they depend on the small model's tokenizer or size."""


def shrink_config(config: Mapping[str, Any], deep: bool = False) -> dict[str, Any]:
    """A small transformers config of the same class. Smaller values are kept. deep: keep all layers, for recipes that
    refer to layers by number."""
    made: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and key.endswith("_config"):
            made[key] = shrink_config(value, deep)
        elif deep and key in DEPTHS:
            made[key] = value
        elif key in SIZES and isinstance(value, int):
            made[key] = min(value, SIZES[key])
        elif key == "attention_window" and isinstance(value, list):
            made[key] = value[:LAYERS]
        elif key not in DROPPED:
            made[key] = value
    if made.get("num_key_value_heads") and config.get("num_key_value_heads") == config.get("num_attention_heads"):
        made["num_key_value_heads"] = made["num_attention_heads"]
    if isinstance(image := made.get("image_size"), int) and isinstance(patch := made.get("patch_size"), int):
        made["image_size"] = min(image, GRID * patch)
    return made


def shrink_encoder(config: Any) -> Any:
    """A small encoder of the same kind. Inner encoders are shrunk too; images only if the patch size is known."""
    fields = type(config).model_fields
    update: dict[str, Any] = {}
    for key in fields:
        inner = getattr(config, key)
        if hasattr(inner, "kind") and key != "connector":
            update[key] = shrink_encoder(inner)
        elif isinstance(inner, Mapping) and inner and all(hasattr(x, "kind") for x in inner.values()):
            update[key] = {name: shrink_encoder(x) for name, x in inner.items()}
        elif isinstance(inner, tuple) and inner and all(hasattr(x, "kind") for x in inner):
            update[key] = tuple(shrink_encoder(x) for x in inner)
        elif key in ("width", "layers", "heads") and isinstance(inner, int):
            update[key] = min(inner, SIZES[key])
    layer = config.layer if "layer" in fields else None
    if isinstance(layer, int):
        update["layer"] = max(layer, -LAYERS)
    elif layer is not None and not isinstance(layer, str):
        update["layer"] = tuple(max(n, -LAYERS) for n in layer)
    if config.deepstack:
        update["deepstack"] = tuple(max(n, -LAYERS) for n in config.deepstack[:LAYERS])
    if getattr(config, "connector", None) is not None:
        update["connector"] = shrink_connector(config.connector)
    if getattr(config, "config", None):
        update["config"] = drop_unknown(shrink_config(config.config))
        update |= _shrink_preprocess(config, update["config"])
    if isinstance(config, LoadedFile):
        update |= {"pretrained": False, "weights": ""}
    made = config.model_copy(update={key: value for key, value in update.items() if key in fields})
    module = component("encoders", config.kind)
    return module.scale_down(made) if hasattr(module, "scale_down") else made


def shrink_decoder(config: Any) -> Any:
    """A small decoder of the same kind, if it can be made small, with small towers if it has its own."""
    module = component("decoders", config.kind)
    if text := getattr(config, "text", None):
        config = config.model_copy(update={"text": shrink_text_model(text)})
    inner = {key: getattr(config, key) for key in type(config).model_fields if key != "text"}
    towers = {key: shrink_encoder(tower) for key, tower in inner.items() if hasattr(tower, "kind")}
    config = config.model_copy(update=towers)
    return module.scale_down(config) if hasattr(module, "scale_down") else config


def shrink_connector(config: Any) -> Any:
    """A connector of the same kind for a small encoder."""
    sizes = {
        key: min(getattr(config, key), SIZES[key])
        for key in ("width", "layers", "heads")
        if key in type(config).model_fields
    }
    if "to" in type(config).model_fields:
        sizes["to"] = tuple(min(side, GRID) for side in config.to)
    return config.model_copy(update=sizes)


def shrink_text_model(config: Any, deep: bool = False) -> Any:
    """A small language model or text tower of the same class. Its tokenizer is made for the dry run."""
    if config is None or not getattr(config, "config", None):
        return config
    small = {"config": drop_unknown(shrink_config(config.config, deep))}
    return config.model_copy(update=small | ({"tokenizer": ""} if "tokenizer" in config.model_fields_set else {}))


def _shrink_preprocess(config: Any, small: Mapping[str, Any]) -> dict[str, Any]:
    """`preprocess` with the image size of the shrunken tower."""
    before = component("encoders", config.kind).preprocess(config)
    side = small.get("image_size")
    if not isinstance(side, int) or len(before.size) != 2 or min(before.size) <= side:
        return {"preprocess": before}
    return {"preprocess": before.model_copy(update={"size": (side, side)})}
