"""Compares a linear layer with its adapter with the layer of peft: forward and backward pass in turn, in one process.

    python benchmarks/lora.py [--rows 1024] [--width 1024] [--rank 16] [--device cuda] [--dtype bfloat16]

Prints the median of the ratios of all pairs with their quartiles, in CPU seconds or, on a GPU, seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear
from torch import nn

from medvlm.models.lora_layer import LoraLinear


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 1024), ("width", 1024), ("rank", 16), ("pairs", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    kind = {"device": torch.device(arguments.device), "dtype": getattr(torch, arguments.dtype)}
    model = nn.ModuleDict({"up": nn.Linear(arguments.width, arguments.width, **kind)}).requires_grad_(False)
    config = LoraConfig(r=arguments.rank, target_modules=["up"])
    layer = inject_adapter_in_model(config, model)["up"]  # type: ignore[arg-type, index]
    layer.to(**kind)
    x = torch.randn(arguments.rows, arguments.width, **kind).requires_grad_()
    ratios = []
    for number in range(arguments.pairs + 3):
        took = {}
        for one in (Linear, LoraLinear) if number % 2 else (LoraLinear, Linear):
            layer.__class__ = one
            took[one] = measure(layer, x)
        if number >= 3:
            ratios.append(took[LoraLinear] / took[Linear])
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{middle:.3f} of peft's time [{low:.3f}, {high:.3f}], {len(ratios)} pairs")


def measure(layer: nn.Module, x: torch.Tensor) -> float:
    on_gpu = x.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    began = time.monotonic() if on_gpu else time.process_time()
    for _ in range(3):
        layer(x).sum().backward()
    if on_gpu:
        torch.cuda.synchronize()
    return (time.monotonic() if on_gpu else time.process_time()) - began


if __name__ == "__main__":
    main()
