"""Measures tokens per second and peak memory of a training step under each engine; prints one JSON line.

    python benchmarks/engines.py                                            # one process, on a GPU if there is one
    torchrun --nproc-per-node 2 benchmarks/engines.py --kinds ddp fsdp2 zero2 zero3

A vision-language model with random weights is trained in full, in bfloat16 with float32 weights. A step has two
micro-batches, gradient clipping and AdamW. Warm-up steps, which also compile, are followed by steps whose median is
reported. Memory is the peak of torch's allocations, so there is none on a CPU. `loss` is that of the last step; it must
be equal in all cases up to rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import torch
from torch import nn

from medvlm.backbones import causal
from medvlm.connectors import mlp
from medvlm.core.engine_config import EngineConfig
from medvlm.core.stage_config import Optim
from medvlm.data.dialogue import TokenSequence
from medvlm.data.rows import collate
from medvlm.encoders import transformers
from medvlm.models.attention import use_attention
from medvlm.models.parts import matches
from medvlm.models.vlm import VLM
from medvlm.objectives.next_token import token_losses
from medvlm.train.accumulate import Update, accumulate, sum_weights
from medvlm.train.engines import make_engine
from medvlm.train.optim import make_optimizer
from medvlm.train.terms import LOSS, Loss, Measured

SIZES: dict[str, dict[str, Any]] = {
    "cuda": {
        "hidden": 1536,
        "layers": 16,
        "heads": 12,
        "width": 768,
        "towers": 12,
        "side": 384,
        "patch": 16,
        "words": 448,
        "rows": 16,
        "vocabulary": 32000,
    },
    "cpu": {
        "hidden": 64,
        "layers": 2,
        "heads": 4,
        "width": 32,
        "towers": 2,
        "side": 32,
        "patch": 16,
        "words": 60,
        "rows": 4,
        "vocabulary": 512,
    },
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {}, "recompute": {"recompute": ("language", "encoders")}, "compile": {"compile": ("language", "encoders")},
    "recompute, compile": {"recompute": ("language", "encoders"), "compile": ("language", "encoders")},
}  # fmt: skip
WARM, COUNTED, MICROS = 3, 6, 2


class Ids:
    """The part of a tokenizer that building a backbone needs."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size


class Stage:
    """The part of a stage that accumulate() needs."""

    def __init__(self, engine: Any):
        self.engine = engine

    def make_micros(self, prepared: list[Any], count: int) -> list[Any]:
        return prepared

    def plan_updates(self, micros: list[Any], step: int) -> list[Update]:
        return [Update()]

    def weigh(self, micro: Any) -> dict[str, float]:
        return {LOSS: len(micro.targets_L)}

    def compute_loss(self, model: nn.Module, micro: Any, step: int) -> Measured:
        micro = micro.to(self.engine.device)
        return {LOSS: Loss(token_losses(model(micro), micro.targets_L).sum(), len(micro.targets_L))}


def build_model(size: dict[str, Any]) -> VLM:
    torch.manual_seed(0)
    tower_config = {
        "model_type": "siglip_vision_model",
        "hidden_size": size["width"],
        "intermediate_size": 4 * size["width"],
        "num_hidden_layers": size["towers"],
        "num_attention_heads": size["heads"],
        "image_size": size["side"],
        "patch_size": size["patch"],
    }
    language_config = {
        "model_type": "qwen2",
        "hidden_size": size["hidden"],
        "intermediate_size": 4 * size["hidden"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size["heads"] // 4,
        "max_position_embeddings": 4096,
        "vocab_size": size["vocabulary"],
    }
    tower = transformers.build(transformers.Config(kind="transformers", config=tower_config))
    language = causal.build(causal.Config(kind="causal", config=language_config), Ids(size["vocabulary"]))
    connector = mlp.build(mlp.Config(kind="mlp"), size["width"], size["hidden"], tower.grid)
    return VLM(nn.ModuleDict({"film": tower}), nn.ModuleDict({"film": connector}), language, image_token_id=3)


def make_micro_batches(size: dict[str, Any], rank: int) -> list[Any]:
    generator = torch.Generator().manual_seed(rank)
    tokens = (size["side"] // size["patch"]) ** 2

    def one() -> TokenSequence:
        words = torch.randint(4, size["vocabulary"], (size["words"],), generator=generator).tolist()
        pixels = torch.randn(3, size["side"], size["side"], generator=generator)
        return TokenSequence(
            "sample",
            [1] + [3] * tokens + words[: size["words"] // 2],
            [(words[size["words"] // 2 :], 0)],
            [("film", pixels)],
        )

    rows = [one() for _ in range(size["rows"])]
    share = size["rows"] // MICROS
    return [collate(rows[i * share : (i + 1) * share], {"film": tokens}, 0, pack=False) for i in range(MICROS)]


def measure(kind: str, case: dict[str, Any], device: str) -> dict[str, Any]:
    size = SIZES[device]
    settings: dict[str, Any] = {"kind": kind, "precision": "bf16-mixed", "device": device, **case}
    engine = make_engine(EngineConfig(**settings))
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with engine.device:  # half a billion random weights would take ten seconds on a CPU
        model = build_model(size)
    micros, stage = make_micro_batches(size, engine.rank), Stage(engine)
    parameters = sum(p.numel() for p in model.parameters())
    model.train()
    model.runs_all = engine.runs_all
    engine.place(model, matches)
    use_attention(model, engine.config, engine.device)
    optimizer = make_optimizer(model, Optim(lr=1e-4), matches, "benchmark", engine.steps_on)
    wrapped = engine.setup(model, {"": optimizer})
    tokens = sum(int((m.docs_BT >= 0).sum()) for m in micros) * engine.world
    seconds, began = [], time.monotonic()
    for step in range(WARM + COUNTED):
        start = time.monotonic()
        terms = accumulate(stage.compute_loss, wrapped, micros, engine, sum_weights(stage, micros, engine), step)
        engine.clip(1.0)
        engine.step()
        if device == "cuda":
            torch.cuda.synchronize()
        if step >= WARM:
            seconds.append(time.monotonic() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {
        "tokens_per_s": round(tokens / statistics.median(seconds), 1),
        "step_s": round(statistics.median(seconds), 4),
        "peak_gib": peak and round(peak, 2),
        "warm_s": round(time.monotonic() - began - sum(seconds), 1),
        "loss": round(terms[LOSS].sum / terms[LOSS].weight, 4),
        "parameters": parameters,
        "tokens": tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kinds", nargs="*", default=["ddp", "fsdp2"] if "WORLD_SIZE" in os.environ else ["single", "fsdp2"]
    )
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument(
        "--seconds",
        type=float,
        default=50,
        help="start no new case after this time; one that compiles takes half a minute",
    )
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    began, results, left_out = time.monotonic(), {}, []
    for case in args.cases:
        for kind in args.kinds:
            name = kind if case == "plain" else f"{kind}, {case}"
            # Ranks must agree on the next case, and their clocks differ, so several ranks run all cases.
            if "WORLD_SIZE" not in os.environ and time.monotonic() - began > args.seconds:
                left_out.append(name)
                continue
            results[name] = measure(kind, CASES[case], device)
            torch.compiler.reset()
    if int(os.environ.get("RANK", 0)) == 0:
        print(
            json.dumps(
                {
                    "benchmark": "engines",
                    "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
                    "world": int(os.environ.get("WORLD_SIZE", 1)),
                    "torch": torch.__version__,
                    "engines": results,
                    "left_out": left_out,
                    "seconds": round(time.monotonic() - began, 1),
                }
            )
        )


if __name__ == "__main__":
    main()
