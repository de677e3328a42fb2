"""Measures the loss of a language model's head: in chunks (medvlm/models/head.py), and with all logits at once.

    python benchmarks/head_loss.py

Peak bytes of the forward and backward pass, counted on the meta device for 16,000 labels of 262,144 words in bfloat16,
without the weights of the head and two tensors for their gradient. Seconds for 2,048 labels of 65,536 words in float32
on this machine, in turn, medians of `--pairs` pairs. Prints one JSON line for a frozen and one for a trained head.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from medvlm.models import head
from medvlm.objectives.next_token import read_losses
from medvlm.preflight.ledger import Ledger

WHOLE = 1 << 60
"""Bytes of a chunk that holds all labels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    for is_trained in (False, True):
        sizes = [count_bytes(limit, is_trained) for limit in (head.CHUNK_BYTES, WHOLE)]
        ratios = [time_pass(head.CHUNK_BYTES // 4, is_trained) / time_pass(WHOLE, is_trained) for _ in range(pairs)]
        print(
            json.dumps(
                {
                    "head": "trained" if is_trained else "frozen",
                    "peak_gib_in_chunks": round(sizes[0] / 2**30, 2),
                    "peak_gib_at_once": round(sizes[1] / 2**30, 2),
                    "seconds_ratio": round(median(ratios), 2),
                    "range": [round(min(ratios), 2), round(max(ratios), 2)],
                    "pairs": pairs,
                }
            ),
            flush=True,
        )


def make_model(width: int, vocabulary: int, is_trained: bool, **kind: Any) -> Any:
    linear = nn.Linear(width, vocabulary, bias=False, **kind).requires_grad_(is_trained)
    config = SimpleNamespace(vocab_size=vocabulary)
    config.get_text_config = lambda: config
    return SimpleNamespace(get_output_embeddings=lambda: linear, config=config)


def run(model: Any, hidden_LW: torch.Tensor, targets_L: torch.Tensor, limit: int) -> None:
    before, head.CHUNK_BYTES = head.CHUNK_BYTES, limit
    head.read_head(model, hidden_LW, targets_L, read_losses)["losses_L"].sum().backward()
    head.CHUNK_BYTES = before


def count_bytes(limit: int, is_trained: bool) -> int:
    model = make_model(2560, 262_144, is_trained, device="meta", dtype=torch.bfloat16)
    weight = model.get_output_embeddings().weight
    hidden_LW = torch.empty(16_000, 2560, device="meta", dtype=torch.bfloat16, requires_grad=True)
    ledger = Ledger(model.get_output_embeddings())
    with ledger:
        ledger.start_section("pass")
        run(model, hidden_LW, torch.zeros(16_000, dtype=torch.long), limit)
    of_weight = (1 + (limit != WHOLE)) * weight.numel() * weight.element_size() if is_trained else 0
    return sum(ledger.peaks["pass"].values()) - of_weight


def time_pass(limit: int, is_trained: bool) -> float:
    generator = torch.Generator().manual_seed(0)
    model = make_model(512, 65_536, is_trained)
    hidden_LW = torch.randn(2_048, 512, generator=generator).requires_grad_()
    targets_L = torch.randint(65_536, (2_048,), generator=generator)
    began = time.perf_counter()
    run(model, hidden_LW, targets_L, limit)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
