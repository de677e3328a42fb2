"""Measures training steps on one GPU at real sizes: throughput, share of the peak (MFU), padding and peak memory.

    python benchmarks/gpu.py                       # all five cases, less than nine minutes on an H200
    python benchmarks/gpu.py --cases text 8b
    python benchmarks/gpu.py --toy                 # the same code at toy size, on a CPU too

The cases are in gpu_cases.py. Each is measured as medvlm trains it and as a plain loop would, in turn, on the same
model. MFU counts the operations that a step needs (forward and backward pass over real tokens, backward only where
something is trained, the head where a label is; nothing recomputed, no padding), against 989 TFLOP/s (an H200 without
sparsity) and 790 (what it reaches in large products). Data are made beforehand, so loading is not measured;
benchmarks/stream.py does this. `spare_tokens` is the share of tokens that are computed and not needed: padding, and
prompts that are repeated. Prints one JSON line per case. open_clip and TRL themselves are `not checked` here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from gpu_cases import MAKERS, SIZES, TOYS, Case, Size
from peers import spread
from torch import nn

from medvlm.core.engine_config import EngineConfig
from medvlm.core.stage_config import Optim
from medvlm.models.parts import matches, set_trained
from medvlm.train.accumulate import Update, accumulate, sum_weights
from medvlm.train.engines import make_engine
from medvlm.train.optim import make_optimizer
from medvlm.train.terms import LOSS, Loss, Measured

PEAKS_TFLOPS = (790, 989)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--toy", action="store_true", help="toy sizes, on a CPU too")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each, after as many as --warm")
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=480, help="no new case is started after this time")
    arguments = parser.parse_args()
    is_gpu, began = torch.cuda.is_available(), time.monotonic()
    if not is_gpu and not arguments.toy:
        print(json.dumps({"benchmark": "gpu", **dict.fromkeys(arguments.cases, "not checked: no GPU")}))
        return
    for name in arguments.cases:
        if time.monotonic() - began > arguments.seconds:
            print(json.dumps({"benchmark": "gpu", "case": name, "result": "not checked: no time left"}), flush=True)
            continue
        found = measure(name, (TOYS if arguments.toy else SIZES)[name], arguments.warm, arguments.steps)
        print(json.dumps({"benchmark": "gpu", "case": name, "toy": arguments.toy, **found}), flush=True)
        if is_gpu:
            torch.cuda.empty_cache()


@dataclass
class Side:
    """One of two ways to train a step, and what was measured of it."""

    micros: list[Any]
    draw: Callable[[], Any] | None
    took_s: list[float] = field(default_factory=list)
    drawn_s: float = 0.0
    peak_gib: float = 0.0
    loss: float = 0.0


def measure(name: str, size: Size, warm: int, steps: int) -> dict[str, Any]:
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:  # random weights of a billion parameters would take minutes on a CPU
        torch.manual_seed(0)
        case = MAKERS[name](size)
    engine = make_engine(EngineConfig(kind="single", device=device.type, **case.engine))
    case.model.train()
    set_trained(case.model, case.trains, "benchmark")
    engine.place(case.model, matches)
    optimizer = make_optimizer(case.model, Optim(lr=1e-5), matches, "benchmark", engine.steps_on)
    wrapped = engine.setup(case.model, {"": optimizer})
    prepared_s = time.monotonic() - began
    draws = case.draw or (None, None)
    sides = {"ours": Side(case.ours, draws[0]), **({"plain": Side(case.plain, draws[1])} if case.plain else {})}
    for step in range(warm + steps):
        for side in sides.values():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            if side.draw is not None and step in (0, warm):
                with engine.gather_weights(case.model), torch.no_grad():
                    side.drawn_s = time_of(side.draw, device)
            stage = Stage(case, engine)
            seconds = time_of(partial(stage.train, wrapped, side.micros, step), device)
            side.loss = stage.last_loss
            if step >= warm:
                side.took_s.append(seconds)
            if device.type == "cuda":
                side.peak_gib = max(side.peak_gib, torch.cuda.max_memory_allocated() / 2**30)
    engine.release()
    ratios = [b / a for a, b in zip(sides["ours"].took_s, sides["plain"].took_s, strict=True)] if case.plain else []
    return {
        **{name: describe(case, side) for name, side in sides.items()},
        "speed_ratio": spread(ratios) if ratios else "nothing to compare",
        "parameters": sum(p.numel() for p in case.model.parameters()),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "prepared_s": round(prepared_s, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


def describe(case: Case, side: Side) -> dict[str, Any]:
    step_s, is_gpu = median(side.took_s), torch.cuda.is_available()
    shares = {f"mfu_{peak}": round(case.flops / step_s / 1e12 / peak, 3) for peak in PEAKS_TFLOPS}
    return {
        "step_s": round(step_s, 4),
        **{f"{unit}_per_s": round(count / step_s, 1) for unit, count in case.units.items()},
        **({"drawn_s": round(side.drawn_s, 3)} if side.draw else {}),
        **(shares if is_gpu else dict.fromkeys(shares, "not checked")),
        "spare_tokens": round(1 - case.units["tokens"] / sum(map(case.cells, side.micros)), 3),
        "peak_gib": round(side.peak_gib, 2) if is_gpu else "not checked",
        "loss": round(side.loss, 4),
    }


class Stage:
    """The part of a stage that a step needs."""

    last_loss = 0.0

    def __init__(self, case: Case, engine: Any):
        self.case, self.engine = case, engine

    def make_micros(self, prepared: list[Any], count: int) -> list[Any]:
        return prepared

    def plan_updates(self, micros: list[Any], step: int) -> list[Update]:
        return [Update()]

    def weigh(self, micro: Any) -> dict[str, float]:
        return {LOSS: self.case.weigh(micro)}

    def compute_loss(self, model: nn.Module, micro: Any, step: int) -> Measured:
        return {LOSS: Loss(self.case.loss(model, micro.to(self.engine.device)), self.case.weigh(micro))}

    def train(self, model: nn.Module, micros: list[Any], step: int) -> None:
        weights = sum_weights(self, micros, self.engine)
        terms = accumulate(self.compute_loss, model, micros, self.engine, weights, step)
        self.engine.clip(1.0)
        self.engine.step()
        self.last_loss = terms[LOSS].sum / terms[LOSS].weight


def time_of(act: Callable[[], Any], device: torch.device) -> float:
    began = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
