"""Measures how long a checkpoint takes until it is on disk, and how long training waits for it.

    python benchmarks/checkpoint.py [--gb 1] [--repeats 5] [--seconds 45] [--folder DIR]

Each round runs four saves on the same disk: (1) `safetensors.save_file` with fsync of the file and its folder; (2) our
save while training waits; (3) our save in the background; (4) the first again as a control: its two medians differ only
by other load on the machine. Our checkpoint is complete once it is hashed, has a manifest, is synced and renamed.
`durable` is the time of (1) and (4) divided by that of (3), from the call until the checkpoint has its name. `stall` is
the share of that time for which training waits. `step` is the time of a training step (a matrix product) during a
background save, divided by that of one without. Then the checkpoint is read back and compared, and a flipped byte must
be detected. Tensors are on the GPU if there is one. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file

from medvlm.core.durable import sync_folder
from medvlm.train import checkpoint
from medvlm.train.checkpoint import Keep
from medvlm.train.saver import Saver

LAYERS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=45, help="start no new round after this time")
    parser.add_argument(
        "--folder", type=Path, default=None, help="a folder on the disk to measure (default: that for temporary files)"
    )
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tensors = make_tensors(args.gb, device)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder, Saver(Path(folder) / "ours", 0, Keep(last=1)) as saver:
        taken, first = measure(tensors, Path(folder), saver, args.repeats, args.seconds, device)
        check_result(tensors, Path(folder) / "ours")
    middle = {name: median(values) for name, values in taken.items()}
    print(
        json.dumps(
            {
                "benchmark": "checkpoint",
                "gb": round(sum(t.nbytes for t in flatten(tensors).values()) / 1e9, 3),
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
                "processors": len(os.sched_getaffinity(0)),
                "load": round(os.getloadavg()[0], 1),
                "repeats": len(taken["stall"]),
                "torch": torch.__version__,
                "python": sys.version.split()[0],
                "durable": round(median(taken["safetensors"] + taken["again"]) / middle["background"], 2),
                "durable_waiting": round(median(taken["safetensors"] + taken["again"]) / middle["waiting"], 2),
                "control": round(middle["safetensors"] / middle["again"], 2),
                "stall": round(median(s / b for s, b in zip(taken["stall"], taken["background"], strict=True)), 3),
                "step": round(middle["step_during"] / middle["step_alone"], 2),
                "read_back": True,
                "flip_noticed": True,
                "first_stall_s": round(first, 3),
                "median_s": {name: round(value, 4) for name, value in middle.items()},
            }
        )
    )


def make_tensors(gb: float, device: torch.device) -> dict[str, Any]:
    """Weights of LAYERS layers and an embedding, with the two moments of Adam: 12 bytes per parameter."""
    torch.manual_seed(0)
    width = int((gb * 1e9 / 12 / (LAYERS * 4 + 16)) ** 0.5) // 8 * 8
    shapes = {
        "embedding": (16 * width, width),
        **{f"layers.{i}.{part}": (width, width) for i in range(LAYERS) for part in ("query", "key", "value", "output")},
    }
    model = {name: torch.randn(*shape, device=device) for name, shape in shapes.items()}
    state = {
        name: {"step": torch.tensor(1.0), "exp_avg": torch.randn_like(t), "exp_avg_sq": torch.rand_like(t)}
        for name, t in model.items()
    }
    return {"model": model, "optim": {"state": state}}


def flatten(tensors: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def measure(
    tensors: dict[str, Any], folder: Path, saver: Saver, repeats: int, seconds: float, device: torch.device
) -> tuple[dict[str, list[float]], float]:
    """Seconds by name of the measurement, and how long training waited for the first save, which allocates the memory
    of the copy."""
    taken: dict[str, list[float]] = {}
    note = lambda name, seconds: taken.setdefault(name, []).append(seconds)  # noqa: E731
    step = make_training_step(device)
    first = time_call(lambda: saver.save(0, tensors, {}))
    saver.wait()
    until = time.monotonic() + seconds
    for i in range(repeats):
        if i and time.monotonic() > until:
            break
        clean_up(folder)
        note("safetensors", time_call(lambda: save_plain(tensors, folder)))
        clean_up(folder)
        note("waiting", time_call(lambda i=i: saver.save(3 * i + 3, tensors, {}, now=True)))  # type: ignore[misc]
        clean_up(folder)
        begun = time.perf_counter()
        note("stall", time_call(lambda i=i: saver.save(3 * i + 4, tensors, {})))  # type: ignore[misc]
        saver.wait()
        note("background", time.perf_counter() - begun)
        clean_up(folder)
        note("again", time_call(lambda: save_plain(tensors, folder)))
        clean_up(folder)
        note("step_alone", median(time_call(step) for _ in range(20)))
        saver.save(3 * i + 5, tensors, {})
        during = []
        while saver.under_way and not saver.under_way.done():
            during.append(time_call(step))
        note("step_during", median(during))
        saver.wait()
    return taken, first


def save_plain(tensors: dict[str, Any], folder: Path) -> None:
    save_file(flatten(tensors), folder / "plain.safetensors")
    with (folder / "plain.safetensors").open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(folder)


def clean_up(folder: Path) -> None:
    """Removes old files and flushes the disk before the clock starts."""
    (folder / "plain.safetensors").unlink(missing_ok=True)
    for old in checkpoint.list_saved_steps(folder / "ours")[:-1]:
        shutil.rmtree(folder / "ours" / f"step-{old}")
    os.sync()


def make_training_step(device: torch.device) -> Callable[[], None]:
    side = 4096 if device.type == "cuda" else 512
    a = torch.randn(side, side, device=device)

    def step() -> None:
        b = a @ a
        b.sum().item()

    return step


def time_call(act: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def check_result(tensors: dict[str, Any], stage: Path) -> None:
    """Checks that the find_newest_good checkpoint has the saved tensors, and that a flipped byte is detected."""
    folder = checkpoint.find_newest_good(stage)
    assert folder is not None
    read = checkpoint.read_weights(folder)
    assert read.keys() == tensors["model"].keys() and all(
        torch.equal(read[name], t.cpu()) for name, t in tensors["model"].items()
    )
    file = max((folder / "tensors").iterdir(), key=lambda f: f.stat().st_size)
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))
    assert checkpoint.find_damage(folder)


if __name__ == "__main__":
    main()
