"""Models of the same kinds as a recipe's, made so small that a processor trains them in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlm.core.config import component

WIDTH, HEADS, LAYERS, GRID = 96, 4, 2, 12
"""96 and 12 divide by 2, 3, 4 and 6, which is what connectors divide them by."""
SIZES = {
    "hidden_size": WIDTH,
    "embed_dim": WIDTH,
    "n_embd": WIDTH,
    "d_model": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "ffn_dim": 2 * WIDTH,
    "n_inner": 2 * WIDTH,
    "num_attention_heads": HEADS,
    "n_head": HEADS,
    "num_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": WIDTH // HEADS,
    "projection_dim": WIDTH,
    "num_hidden_layers": LAYERS,
    "n_layer": LAYERS,
    "depth": LAYERS,
    "query_pre_attn_scalar": WIDTH // HEADS,
    "width": WIDTH,
    "heads": HEADS,
    "layers": LAYERS,
}
"""Key of a config -> its value in a small model; keys that a config does not have stay away."""
DEPTHS = ("num_hidden_layers", "n_layer", "depth", "layers", "attention_window")
DROPPED = (
    "vocab_size",
    "layer_types",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "max_window_layers",
    "tie_word_embeddings",
)
"""The tokenizer of the small model decides, or its size does."""


def shrunk(config: Mapping[str, Any], deep: bool = False) -> dict[str, Any]:
    """A transformers config of the same class. What was small stays. deep: with all its layers, for recipes that name
    them by number."""
    made: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and key.endswith("_config"):
            made[key] = shrunk(value, deep)
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


def small_encoder(config: Any) -> Any:
    """An encoder of the same kind, with smaller images where its patches say how small they may be, and what lies in
    it."""
    fields = type(config).model_fields
    update: dict[str, Any] = {}
    for key in fields:
        inner = getattr(config, key)
        if hasattr(inner, "kind") and key != "connector":
            update[key] = small_encoder(inner)
        elif isinstance(inner, Mapping) and inner and all(hasattr(x, "kind") for x in inner.values()):
            update[key] = {name: small_encoder(x) for name, x in inner.items()}
        elif isinstance(inner, tuple) and inner and all(hasattr(x, "kind") for x in inner):
            update[key] = tuple(small_encoder(x) for x in inner)
        elif key in ("width", "layers", "heads") and isinstance(inner, int):
            update[key] = min(inner, SIZES[key])
    if "layer" in fields and config.layer is not None and not isinstance(config.layer, str):
        update["layer"] = (
            max(config.layer, -LAYERS)
            if isinstance(config.layer, int)
            else tuple(max(n, -LAYERS) for n in config.layer)
        )
    if getattr(config, "connector", None) is not None:
        update["connector"] = small_connector(config.connector)
    if getattr(config, "config", None):
        update["config"] = shrunk(config.config)
        update |= _image(config, update["config"])
    if "net" in fields and "args" in fields:
        update |= {"pretrained": False, "weights": "", "args": {**config.args, **_small_net(config.net, config.args)}}
    made = config.model_copy(update={key: value for key, value in update.items() if key in fields})
    module = component("encoders", config.kind)
    return module.scale_down(made) if hasattr(module, "scale_down") else made


def small_connector(config: Any) -> Any:
    """A connector of the same kind, for a small encoder."""
    sizes = {
        key: min(getattr(config, key), SIZES[key])
        for key in ("width", "layers", "heads")
        if key in type(config).model_fields
    }
    if "to" in type(config).model_fields:
        sizes["to"] = tuple(min(side, GRID) for side in config.to)
    return config.model_copy(update=sizes)


def small_part(config: Any, deep: bool = False) -> Any:
    """A language model or text tower of the same class, with the tokenizer that is made for the run."""
    return (
        config.model_copy(update={"config": shrunk(config.config, deep)})
        if config is not None and getattr(config, "config", None)
        else config
    )


def _image(config: Any, small: Mapping[str, Any]) -> dict[str, Any]:
    """preprocess of the size that the shrunken tower takes."""
    before = component("encoders", config.kind).preprocess(config)
    side = small.get("image_size")
    if not isinstance(side, int) or len(before.size) != 2 or min(before.size) <= side:
        return {"preprocess": before}
    return {"preprocess": before.model_copy(update={"size": (side, side)})}


def _small_net(net: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Of a ViT of timm; other networks stay as they are."""
    if not net.split("_")[0].startswith(("vit", "eva", "deit", "beit")) or {"depth", "embed_dim"} & args.keys():
        return {}
    return {"depth": LAYERS, "embed_dim": WIDTH, "num_heads": HEADS}
