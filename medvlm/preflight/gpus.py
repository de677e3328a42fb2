"""GPUs by name: memory, compute and bandwidth, from the vendors' data sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medvlm.core.errors import RecipeError, did_you_mean

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """gib: memory that torch can allocate. bf16, fp32: dense TFLOP/s. tb_s: memory bandwidth in TB/s."""

    gib: float
    bf16: float
    fp32: float
    tb_s: float


GPUS = {
    "b200": Gpu(178.0, 2250, 75, 8.0),
    "h200": Gpu(139.8, 989, 67, 4.8),
    "h100": Gpu(79.1, 989, 67, 3.35),
    "a100": Gpu(79.2, 312, 19.5, 2.0),
    "a100-40": Gpu(39.4, 312, 19.5, 1.55),
    "l40s": Gpu(44.4, 362, 91, 0.86),
    "a6000": Gpu(47.5, 155, 38, 0.77),
    "a10": Gpu(22.0, 125, 31, 0.6),
    "l4": Gpu(22.2, 121, 30, 0.3),
    "rtx4090": Gpu(23.6, 165, 82, 1.0),
    "rtx3090": Gpu(23.6, 71, 35, 0.94),
}
RESERVED_GIB = 1.5
"""CUDA's context, libraries and communication buffers, which are outside of torch's allocator."""
USABLE = 0.95
"""Usable share of the rest. The allocator loses some memory to fragmentation."""


@dataclass(frozen=True)
class Machines:
    """GPUs of one kind. `h200:8x2` means two nodes with eight GPUs each."""

    name: str
    gpu: Gpu
    per_node: int = 1
    nodes: int = 1

    @property
    def world(self) -> int:
        return self.per_node * self.nodes

    @property
    def usable(self) -> float:
        """Usable bytes of one GPU."""
        return (self.gpu.gib - RESERVED_GIB) * USABLE * GIB

    def __str__(self) -> str:
        return f"{self.world} x {self.name}" + (f" ({self.nodes} nodes of {self.per_node})" if self.nodes > 1 else "")


def parse(text: str) -> Machines:
    """NAME, NAME:GPUS or NAME:GPUSxNODES. Raises RecipeError."""
    found = re.fullmatch(r"([A-Za-z0-9-]+)(?::([1-9]\d*)(?:x([1-9]\d*))?)?", text.strip())
    if found is None:
        raise RecipeError(f"--gpus {text}: expected NAME:GPUS or NAME:GPUSxNODES, e.g. h200:8 or h100:8x2")
    name = found[1].lower()
    if name not in GPUS:
        raise RecipeError(f"--gpus {text}: unknown GPU {name!r}{did_you_mean(name, GPUS)} (known: {', '.join(GPUS)})")
    return Machines(name, GPUS[name], int(found[2] or 1), int(found[3] or 1))
