"""The cases of gpu.py: models of published shapes with random weights, and the micro-batches of one step.

- contrastive: CLIP, ViT-B/16 of 224 px and 12 layers of text, trained in full; 1,024 pairs with captions of 10 to 30
  words. The plain loop pads captions to 77 tokens.
- supervised: SigLIP So400m of 384 px and Qwen2 1.5B, LoRA of rank 16; 32,768 tokens a step, 60 % of the answers of 20
  tokens and 40 % of 50 to 900. The plain loop has one sample per row, padded to the longest.
- grpo: the same model; 8 prompts of 1,024 tokens with 8 answers of 256 each. The plain loop has one answer per row,
  with its prompt and image. The training pass is measured; `drawn_s` is the time of generation.
- text: Llama 3.1 8B, trained in full in bfloat16, 8,192 tokens. There is nothing to pad.
- 8b: SigLIP So400m of 384 px and Qwen3 8B, LoRA of rank 16, blocks recomputed; samples as in `supervised`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from engines import Ids
from torch import nn

from medvlm.backbones import causal
from medvlm.connectors import mlp
from medvlm.core.lora_config import Lora
from medvlm.core.sample import Batch
from medvlm.data.dialogue import TokenSequence
from medvlm.data.rows import collate
from medvlm.encoders import transformers as towers
from medvlm.models import lora
from medvlm.models.generate import generate
from medvlm.models.towers import DualEncoder, Pairs
from medvlm.models.vlm import VLM
from medvlm.objectives.next_token import read_losses
from medvlm.objectives.pairs import clip
from medvlm.texts import transformers as texts

IMAGE_ID = 3


@dataclass(frozen=True)
class Size:
    """tower, language, text: configs of transformers. side: of images in pixels. batch: pairs, prompts or rows of
    `tokens`. answer: tokens of a drawn answer. micros: micro-batches of a step."""

    tower: dict[str, Any]
    language: dict[str, Any]
    side: int
    tokens: int
    batch: int
    answer: int = 0
    micros: int = 1


def describe_tower(kind: str, width: int, inner: int, layers: int, heads: int, side: int, patch: int) -> dict[str, Any]:
    return {
        "model_type": f"{kind}_vision_model", "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "image_size": side, "patch_size": patch,
    }  # fmt: skip


def describe_language(
    kind: str, width: int, inner: int, layers: int, heads: int, shared: int, words: int
) -> dict[str, Any]:
    return {
        "model_type": kind, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": shared, "vocab_size": words, "head_dim": width // heads,
        "max_position_embeddings": 16384, "tie_word_embeddings": False,
    }  # fmt: skip


VIT_B = describe_tower("clip", 768, 3072, 12, 12, 224, 16)
SO400M = describe_tower("siglip", 1152, 4304, 27, 16, 384, 14)
TOY_TOWER = describe_tower("siglip", 32, 64, 2, 4, 32, 8)
TOY_LANGUAGE = describe_language("qwen2", 64, 128, 2, 4, 2, 512)
QWEN2 = describe_language("qwen2", 1536, 8960, 28, 12, 2, 151_936)
QWEN3_8B = describe_language("qwen3", 4096, 12288, 36, 32, 8, 151_936)
LLAMA_8B = describe_language("llama", 4096, 14336, 32, 32, 8, 128_256)
CLIP_TEXT = {
    "model_type": "clip_text_model", "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 2,
}  # fmt: skip
SIZES = {
    "contrastive": Size(VIT_B, CLIP_TEXT, 224, 77, 1024),
    "supervised": Size(SO400M, QWEN2, 384, 8192, 4, micros=2),
    "grpo": Size(SO400M, QWEN2, 384, 1024, 8, answer=256, micros=2),
    "text": Size({}, LLAMA_8B, 0, 8192, 1),
    "8b": Size(SO400M, QWEN3_8B, 384, 8192, 4, micros=4),
}
TOYS = {
    "contrastive": Size(
        describe_tower("clip", 32, 64, 2, 4, 32, 8),
        {**CLIP_TEXT, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        32, 77, 8,
    ),
    "supervised": Size(TOY_TOWER, TOY_LANGUAGE, 32, 1024, 4, micros=2),
    "grpo": Size(TOY_TOWER, TOY_LANGUAGE, 32, 48, 2, answer=8, micros=1),
    "text": Size({}, TOY_LANGUAGE, 0, 256, 1),
    "8b": Size(TOY_TOWER, {**TOY_LANGUAGE, "model_type": "qwen3"}, 32, 1024, 4, micros=2),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is measured. ours, plain: the micro-batches of the same step; plain is empty where they would be the same.
    flops: that the step needs. units: name -> how many of them a step has. cells: tokens of a micro-batch, padding
    included. draw: generates the answers of a step, where there are any; by medvlm and by a plain loop."""

    model: Any
    loss: Callable[[nn.Module, Any], torch.Tensor]
    weigh: Callable[[Any], int]
    ours: list[Any]
    plain: list[Any]
    flops: float
    units: dict[str, int]
    cells: Callable[[Any], int]
    trains: tuple[str, ...]
    engine: dict[str, Any]
    draw: tuple[Callable[[], Any], Callable[[], Any]] | None = None


def make_contrastive(size: Size) -> Case:
    tower = build_tower(size)
    words = texts.build(
        texts.Config(kind="transformers", config=size.language, max_tokens=77), Ids(size.language["vocab_size"])
    )
    model = DualEncoder(nn.ModuleDict({"film": tower}), words, size.language["hidden_size"], 2.659, None)
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(10, 31, (size.batch,), generator=random).tolist()
    rows = [torch.randint(4, 49000, (n,), generator=random) for n in lengths]
    pixels = torch.randn(size.batch, 3, size.side, size.side, generator=random, device="cpu")

    def collate_to(width: int) -> Pairs:
        ids = torch.full((size.batch, width), 2, device="cpu")
        mask = torch.zeros(size.batch, width, dtype=torch.long, device="cpu")
        for row, own in enumerate(rows):
            ids[row, : len(own)], mask[row, : len(own) + 1] = own, 1  # the end token, 2, follows
        order = torch.arange(size.batch, device="cpu")
        return Pairs({"film": pixels}, order, ids, mask, order, tuple(map(str, range(size.batch))))

    def loss(wrapped: nn.Module, pairs: Pairs) -> torch.Tensor:
        found, config = wrapped(pairs), clip.Config(kind="clip")
        same = torch.eye(size.batch, dtype=torch.bool, device=found["log_scale"].device)
        return clip.pair_loss(
            config, found["media_NP"], found["texts_NP"], slice(0, size.batch), found["log_scale"], None, same
        )

    patches = (size.side // size.tower["patch_size"]) ** 2 + 1
    flops = 3 * size.batch * count_block_flops(size.tower, patches, patches**2)
    flops += 3 * sum(count_block_flops(size.language, n + 1, triangle(n + 1)) for n in lengths)
    return Case(
        model, loss, lambda pairs: size.batch, [collate_to(max(lengths) + 1)], [collate_to(77)], flops,
        {"samples": size.batch, "tokens": size.batch * patches + sum(lengths) + size.batch},
        lambda pairs: pairs.ids_BT.numel() + size.batch * patches,
        ("encoders", "text", "heads"), {"precision": "bf16-mixed"},
    )  # fmt: skip


def make_supervised(size: Size, **engine: Any) -> Case:
    model, image_tokens = build_vlm(size)
    random = torch.Generator().manual_seed(0)
    most = size.tokens - image_tokens - 24
    documents: list[TokenSequence] = []
    while sum(map(len, documents)) < size.batch * size.tokens - most // 4:
        is_short = torch.rand(1, generator=random).item() < 0.6
        drawn = torch.randn(1, generator=random).mul(0.5).add(5.6).exp().clamp(50, 900).item()
        answer = min(20 if is_short else int(drawn), most)
        documents.append(make_document(size, image_tokens, 20, [answer], random))
    rows = fill_rows(documents, size.tokens)
    share = -(-len(rows) // size.micros)
    ours = [[d for row in rows[at : at + share] for d in row] for at in range(0, len(rows), share)]
    each = -(-len(documents) // size.micros)
    plain = [documents[at : at + each] for at in range(0, len(documents), each)]
    return make_language_case(model, size, image_tokens, ours, plain, engine)


def make_8b(size: Size) -> Case:
    return make_supervised(size, recompute=("language",))


def make_grpo(size: Size) -> Case:
    model, image_tokens = build_vlm(size)
    random = torch.Generator().manual_seed(0)
    asked = size.tokens - image_tokens - 1
    group = 8
    groups = [make_document(size, image_tokens, asked, [size.answer] * group, random) for _ in range(size.batch)]
    alone = [
        replace(document, branches=[branch], media=[(name, pixels.clone()) for name, pixels in document.media])
        for document in groups
        for branch in document.branches
    ]
    share, each = -(-len(groups) // size.micros), -(-len(alone) // size.micros)
    ours = [groups[at : at + share] for at in range(0, len(groups), share)]
    plain = [alone[at : at + each] for at in range(0, len(alone), each)]
    case = make_language_case(model, size, image_tokens, ours, plain, {})
    once = collate([replace(d, branches=[]) for d in groups], {"film": image_tokens}, 0, pack=False)
    often = collate([replace(d, branches=[]) for d in alone], {"film": image_tokens}, 0, pack=False)
    uniform = [lambda number: torch.rand(group, generator=random).tolist()] * size.batch
    apart = [lambda number: torch.rand(1, generator=random).tolist()] * len(alone)

    def draw(prompts: Batch, copies: int, draws: Sequence[Any]) -> Any:
        device = next(model.parameters()).device
        return generate(
            model, prompts.to(device), max_new_tokens=size.answer, end_ids=(), copies=copies, temperature=1.0,
            draws=draws,
        )  # fmt: skip

    return replace(case, draw=(lambda: draw(once, group, uniform), lambda: draw(often, 1, apart)))


def make_text(size: Size) -> Case:
    language = causal.build(causal.Config(kind="causal", config=size.language), Ids(size.language["vocab_size"]))
    model = VLM(nn.ModuleDict(), nn.ModuleDict(), language, IMAGE_ID)
    random = torch.Generator().manual_seed(0)
    document = TokenSequence("text", [1], [(draw_words(size, size.tokens - 1, random), 0)], [])
    engine = {"precision": "bf16-true", "recompute": ("language",)}
    return make_language_case(model, size, 0, [[document]], [], engine, trains=("language",))


def make_language_case(
    model: VLM,
    size: Size,
    image_tokens: int,
    ours: list[list[TokenSequence]],
    plain: list[list[TokenSequence]],
    engine: dict[str, Any],
    trains: tuple[str, ...] = ("lora",),
) -> Case:
    documents = [document for micro in ours for document in micro]
    tokens = sum(map(len, documents))
    labels = sum(len(ids) - untrained for d in documents for ids, untrained in d.branches)
    passes = 3 if trains == ("language",) else 2
    seen = sum(map(count_seen, documents))
    flops = passes * count_block_flops(size.language, tokens, 0) + 3 * count_attention_flops(size.language, seen)
    flops += passes * 2 * labels * size.language["vocab_size"] * size.language["hidden_size"]
    if image_tokens:
        flops += len(documents) * count_block_flops(size.tower, image_tokens, image_tokens**2)
    return Case(
        model, compute_language_loss, lambda batch: len(batch.targets_L),
        [collate(micro, {"film": image_tokens}, 0) for micro in ours],
        [collate(micro, {"film": image_tokens}, 0, pack=False) for micro in plain], flops,
        {"tokens": tokens, "samples": len(documents)}, lambda batch: batch.ids_BT.numel(), trains,
        {"precision": "bf16-mixed", **engine},
    )  # fmt: skip


def compute_language_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    losses_L: torch.Tensor = model(batch, read_losses)["losses_L"]
    return losses_L.sum()


def build_tower(size: Size) -> Any:
    return towers.build(towers.Config(kind="transformers", config=size.tower))


def build_vlm(size: Size) -> tuple[VLM, int]:
    tower = build_tower(size)
    language = causal.build(causal.Config(kind="causal", config=size.language), Ids(size.language["vocab_size"]))
    connector = mlp.build(mlp.Config(kind="mlp"), tower.width, size.language["hidden_size"], tower.grid)
    model = VLM(nn.ModuleDict({"film": tower}), nn.ModuleDict({"film": connector}), language, IMAGE_ID)
    lora.attach(model, Lora(rank=16, alpha=32), seed=0)
    return model, tower.grid[0] * tower.grid[1]


def make_document(
    size: Size, image_tokens: int, asked: int, answers: Sequence[int], random: torch.Generator
) -> TokenSequence:
    pixels = torch.randn(3, size.side, size.side, generator=random, device="cpu")
    prefix = [1, *[IMAGE_ID] * image_tokens, *draw_words(size, asked, random)]
    return TokenSequence("sample", prefix, [(draw_words(size, n, random), 0) for n in answers], [("film", pixels)])


def draw_words(size: Size, count: int, random: torch.Generator) -> list[int]:
    return torch.randint(4, size.language["vocab_size"], (count,), generator=random, device="cpu").tolist()


def fill_rows(documents: Sequence[TokenSequence], width: int) -> list[list[TokenSequence]]:
    """First fit by falling length."""
    rows: list[list[TokenSequence]] = []
    for document in sorted(documents, key=len, reverse=True):
        row = next((row for row in rows if sum(map(len, row)) + len(document) <= width), None)
        if row is None:
            rows.append([document])
        else:
            row.append(document)
    return rows


# --- operations that a step needs -----------------------------------------------------------------------


def count_seen(document: TokenSequence) -> int:
    """The sum over tokens of how many tokens they attend to."""
    prefix = len(document.prefix)
    return triangle(prefix) + sum(prefix * len(ids) + triangle(len(ids)) for ids, _ in document.branches)


def triangle(count: int) -> int:
    return count * (count + 1) // 2


def count_block_flops(config: dict[str, Any], tokens: int, seen: int) -> float:
    """Of a forward pass through all blocks: 2 for each weight of a matrix and token, and attention."""
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    shared = config.get("num_key_value_heads", config["num_attention_heads"]) / config["num_attention_heads"]
    is_gated = "num_key_value_heads" in config
    weights = layers * (width * width * (2 + 2 * shared) + width * inner * (3 if is_gated else 2))
    return 2 * weights * tokens + count_attention_flops(config, seen)


def count_attention_flops(config: dict[str, Any], seen: int) -> float:
    """Of a forward pass: queries times keys, and weights times values."""
    return float(4 * config["num_hidden_layers"] * config["hidden_size"] * seen)


MAKERS: dict[str, Callable[[Size], Case]] = {
    "contrastive": make_contrastive, "supervised": make_supervised, "grpo": make_grpo, "text": make_text, "8b": make_8b,
}  # fmt: skip
