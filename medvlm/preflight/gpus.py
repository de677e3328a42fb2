"""GPUs by name: memory, compute and bandwidth, from the vendors' data sheets."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from medvlm.core.errors import RecipeError, did_you_mean

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """gib: memory that torch can allocate. bf16, fp32: dense TFLOP/s; 0 if not known. tb_s: memory bandwidth in
    TB/s. GPUs without bfloat16 (T4, V100) compute it in float32."""

    gib: float
    bf16: float = 0
    fp32: float = 0
    tb_s: float = 0


GPUS = {
    "b200": Gpu(178.0, 2250, 75, 8.0),
    "mi300x": Gpu(191.5, 1307, 163, 5.3),
    "h200": Gpu(139.8, 989, 67, 4.8),
    "h20": Gpu(95.1, 148, 44, 4.0),
    "h100": Gpu(79.1, 989, 67, 3.35),
    "h800": Gpu(79.1, 989, 67, 3.35),
    "a100": Gpu(79.2, 312, 19.5, 2.0),
    "a100-40": Gpu(39.4, 312, 19.5, 1.55),
    "l40s": Gpu(44.4, 362, 91, 0.86),
    "a6000": Gpu(47.5, 155, 38, 0.77),
    "a30": Gpu(23.5, 165, 10.3, 0.93),
    "a10": Gpu(22.0, 125, 31, 0.6),
    "l4": Gpu(22.2, 121, 30, 0.3),
    "t4": Gpu(14.6, 8.1, 8.1, 0.32),
    "v100": Gpu(31.7, 15.7, 15.7, 0.9),
    "v100-16": Gpu(15.8, 15.7, 15.7, 0.9),
    "rtx5090": Gpu(31.4, 210, 105, 1.8),
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


def parse(text: str, gib: float | None = None) -> Machines:
    """NAME, NAME:GPUS or NAME:GPUSxNODES. gib: memory of one GPU in GiB, in place of that of the model; with it, the
    name may be that of any GPU, or empty. Raises RecipeError."""
    if gib is not None and not RESERVED_GIB < gib < math.inf:
        raise RecipeError(f"--gpu-gib {gib:g}: expected the memory of one GPU in GiB, more than {RESERVED_GIB:g}")
    text = text.strip() or ("gpu" if gib is not None else "")
    found = re.fullmatch(r"([A-Za-z0-9-]*[A-Za-z][A-Za-z0-9-]*)(?::([1-9]\d*)(?:x([1-9]\d*))?)?", text)
    if found is None:
        raise RecipeError(f"--gpus {text}: expected NAME:GPUS or NAME:GPUSxNODES, e.g. h200:8 or h100:8x2")
    name = found[1].lower()
    if name not in GPUS and gib is None:
        raise RecipeError(
            f"--gpus {text}: unknown GPU {name!r}{did_you_mean(name, GPUS)} (known: {', '.join(GPUS)}); for another"
            " one, give its memory: --gpu-gib 24"
        )
    gpu = GPUS.get(name, Gpu(0))
    if gib is not None:
        name, gpu = f"{name} of {gib:g} GiB", replace(gpu, gib=gib)
    return Machines(name, gpu, int(found[2] or 1), int(found[3] or 1))
