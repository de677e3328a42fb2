"""Time and memory of one layer's attention, forward and backward, by each kernel; prints one JSON line per length.

    python benchmarks/attention.py            # on a GPU; without one it says so

Rows have documents of 512 tokens; in the first case they are plain, in the second the last 128 tokens of each are two
answers to one prompt. The heads are those of Qwen3-8B: 32 of queries, 8 of keys, 128 wide, in bfloat16. `off` is the
largest difference of output and gradients from the dense attention, relative to the largest number. Times are medians
of 20 runs after 5.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch

from medvlm.models.kernels import compute, compute_densely
from medvlm.models.masks import evaluate, make_rule
from medvlm.models.row_mask import RowMask

HEADS, KEY_HEADS, WIDTH, DOCUMENT = 32, 8, 128, 512
LENGTHS = (2048, 8192, 32768)
WARM, COUNTED = 5, 20
LARGEST_MASK = 16384
"""Longer rows are not computed densely: mask and scores would need several GB."""


def make_rows(T: int, is_branched: bool, kernel: str) -> Any:
    at = torch.arange(T, device="cuda")[None]
    docs, positions = at // DOCUMENT, at % DOCUMENT
    branches = torch.where(positions < 384, 0, (positions - 384) // 64 + 1) if is_branched else None
    positions = torch.where(positions >= 448, positions - 64, positions) if is_branched else positions
    rule = make_rule(docs, branches, positions, None, None)
    if kernel == "dense":
        return evaluate(rule, docs)[:, None]
    if kernel == "varlen":
        return RowMask.of_documents(docs, None, rule)
    return RowMask.of_blocks(docs, branches, positions, None, None, rule)


def measure(run: Callable[..., torch.Tensor], rows: Any, inputs: list[torch.Tensor]) -> dict[str, Any]:
    torch.cuda.reset_peak_memory_stats()
    before, times, found = torch.cuda.memory_allocated(), [], []
    for step in range(WARM + COUNTED):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()  # type: ignore[no-untyped-call]
        out = run(*inputs, rows, WIDTH**-0.5, None, None)
        found = [out.detach(), *torch.autograd.grad(out.sum(), inputs)]
        end.record()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        if step >= WARM:
            times.append(begin.elapsed_time(end))  # type: ignore[no-untyped-call]
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return {"ms": round(statistics.median(times), 3), "mib": round(peak), "found": found}


def main() -> None:
    if not torch.cuda.is_available():
        print("not checked: the kernels need a GPU, and torch finds none here")
        return
    for T in LENGTHS:
        for is_branched in (False, True):
            torch.manual_seed(0)
            inputs = [
                torch.randn(1, heads, T, WIDTH, device="cuda", dtype=torch.bfloat16, requires_grad=True)
                for heads in (HEADS, KEY_HEADS, KEY_HEADS)
            ]
            kernels = ["dense"] * (T <= LARGEST_MASK) + ["flex"] + ["varlen"] * (not is_branched)
            results = {
                kernel: measure(
                    compute_densely if kernel == "dense" else compute, make_rows(T, is_branched, kernel), inputs
                )
                for kernel in kernels
            }
            expected = results["dense" if "dense" in results else "flex"]["found"]
            for result in results.values():
                pairs = zip(result.pop("found"), expected, strict=True)
                result["off"] = round(max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs), 4)
            print(json.dumps({"tokens": T, "branched": is_branched, **results}), flush=True)
    print(torch.__version__, torch.cuda.get_device_name(), file=sys.stderr)


if __name__ == "__main__":
    main()
