"""Vision-language models of a few thousand parameters with random weights, and documents of random tokens for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from medvlm.backbones import causal, seq2seq
from medvlm.connectors import mlp, resampler
from medvlm.data.dialogue import TokenSequence
from medvlm.data.encoded import split_prompts
from medvlm.data.rows import collate
from medvlm.encoders import monai, transformers
from medvlm.models.compose import choose_class
from medvlm.models.vlm import VLM

IMAGE_ID, PAD_ID, END_ID, VOCABULARY = 63, 0, 2, 64
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = {
    **SMALL,
    "vocab_size": VOCABULARY,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
    "bos_token_id": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": GROUPED,
    "llama": GROUPED,
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 128,
        "eos_token_id": END_ID,
        "bos_token_id": 1,
    },
    "gemma2": {
        **GROUPED,
        "head_dim": 8,
        "final_logit_softcapping": 0.2,
    },  # logits of random weights are small: a cap that bends them
    "cohere": {**GROUPED, "logit_scale": 0.3},
    "granite": {**GROUPED, "logits_scaling": 3.0},
}
WINDOWED: dict[str, dict[str, Any]] = {
    "mistral": {**GROUPED, "sliding_window": 3},
    "gemma2": {**FAMILIES["gemma2"], "sliding_window": 3},
}
T5 = {
    "model_type": "t5",
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "dropout_rate": 0.0,
}
ENCODED: dict[str, dict[str, Any]] = {
    "t5": T5,
    "t5 1.1": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {**T5, "model_type": "mt5"},
    "bart": {
        "model_type": "bart",
        "vocab_size": VOCABULARY,
        "d_model": 16,
        **{f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 2), ("ffn_dim", 32))},
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "max_position_embeddings": 64,
        "dropout": 0.0,
        "forced_eos_token_id": None,
    },
}
"""Language models of an encoder and a decoder."""

FILM, FILM_TOKENS = (3, 16, 16), 4
VOLUME, VOLUME_TOKENS = (1, 4, 8, 8), 3
TOKENS = {"film": FILM_TOKENS, "volume": VOLUME_TOKENS}


class Ids:
    """As much of a tokenizer as a backbone looks at when it is built."""

    pad_token_id, bos_token_id, eos_token_id = PAD_ID, 1, END_ID

    def __len__(self) -> int:
        return VOCABULARY

    def convert_tokens_to_ids(self, token: str) -> int:
        return IMAGE_ID


def language(family: str, **changes: Any) -> nn.Module:
    config = causal.Config(kind="causal", config={"model_type": family, **FAMILIES[family], **changes})
    return causal.build(config, Ids()).eval()


def encoded(family: str = "t5", **changes: Any) -> nn.Module:
    config = seq2seq.Config(kind="seq2seq", config={**ENCODED[family], **changes})
    return seq2seq.build(config, Ids()).eval()


def vlm(family: str = "qwen2", seed: int = 0) -> VLM:
    """With an encoder for films [3, 16, 16] of 4 tokens, and one for volumes [1, 4, 8, 8] of 3."""
    torch.manual_seed(seed)
    film = transformers.build(
        transformers.Config(
            kind="transformers",
            config={"model_type": "siglip_vision_model", **SMALL, "image_size": 16, "patch_size": 8},
        )
    )
    volume = monai.build(
        monai.Config(
            kind="monai", patch=(2, 4, 4), width=24, layers=1, heads=2, preprocess={"size": (4, 8, 8), "channels": 1}
        )
    )
    to_language = {
        "film": mlp.build(mlp.Config(kind="mlp"), 16, 16, (2, 2)),
        "volume": resampler.build(
            resampler.Config(kind="resampler", tokens=VOLUME_TOKENS, layers=1, heads=2), 24, 16, (2, 2, 2)
        ),
    }
    built = encoded(family) if family in ENCODED else language(family)
    towers = nn.ModuleDict({"film": film, "volume": volume})
    return choose_class(family in ENCODED)(towers, nn.ModuleDict(to_language), built, IMAGE_ID).eval()


def spread(model: nn.Module, by: float = 8.0) -> nn.Module:
    """Weights scaled up, so that its distributions are far from uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(by)
    return model


def medium(name: str, generator: torch.Generator) -> tuple[str, torch.Tensor]:
    return name, torch.randn({"film": FILM, "volume": VOLUME}[name], generator=generator)


def document(
    generator: torch.Generator, media: Sequence[str], prefix: int, branches: Sequence[tuple[int, int]]
) -> TokenSequence:
    """Random tokens, with the placeholders of the media in front. branches: (length, leading tokens that are not
    trained)."""
    seen = [medium(name, generator) for name in media]

    def words(n: int) -> list[int]:
        return torch.randint(3, IMAGE_ID, (n,), generator=generator).tolist()

    ids = [1] + [IMAGE_ID for name in media for _ in range(TOKENS[name])] + words(prefix)
    return TokenSequence(f"doc-{len(ids)}", ids, [(words(n), untrained) for n, untrained in branches], seen)


def batch_of(documents: Sequence[TokenSequence], pack: bool = True) -> Any:
    return collate(documents, TOKENS, PAD_ID, pack)


def encoded_batch_of(documents: Sequence[TokenSequence]) -> Any:
    """One prompt per row, with the answers to it."""
    return collate([part for d in documents for part in split_prompts(d, IMAGE_ID, TOKENS)], TOKENS, PAD_ID, False)
