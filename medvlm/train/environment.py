"""Where something was computed: versions and hardware. No name of a machine, a user or a folder."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = """
    torch torchvision transformers tokenizers safetensors timm monai peft open_clip_torch lightning deepspeed accelerate
    bitsandbytes numpy scipy pillow pydicom nibabel
"""


@cache
def describe_environment() -> dict[str, Any]:
    """system, python, cpu, cores, gpus (model -> number), cuda, and the versions of packages that change numbers."""
    import torch

    versions = {}
    for name in PACKAGES.split():
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    gpus: dict[str, int] = {}
    for number in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(number)
        gpus[name] = gpus.get(name, 0) + 1
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cpu": _find_cpu(),
        "cores": os.cpu_count(),
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "packages": versions,
    }


def _find_cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
