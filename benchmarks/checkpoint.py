"""How long does a checkpoint take until it is on disk, and how long does training wait for it?

    python benchmarks/checkpoint.py [--gb 1] [--repeats 5] [--seconds 45] [--folder DIR]

Rounds of four, in turn, on the same disk: (1) `safetensors.save_file` and fsync of the file and its folder; (2) our
save that training waits for; (3) our save in the background; (4) the first again, a control: its two medians differ by
what the machine does beside. Ours is hashed, has a manifest, is synced and renamed before it counts. `durable` is the
time of (1) and (4) over that of (3), from the call until the checkpoint has its name; `stall` is the share of it in
which training waits. `step` is the time of a step of training (a product of matrices) while a save runs in the
background, over that of one alone. Then the checkpoint is read back and compared, and one byte is flipped, which must
be noticed. Tensors lie on the GPU where there is one. Prints one JSON line.
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
    parser.add_argument("--seconds", type=float, default=45, help="no further round is begun after that")
    parser.add_argument(
        "--folder", type=Path, default=None, help="on the disk to be measured (default: the folder for temporary files)"
    )
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tensors = made(args.gb, device)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder, Saver(Path(folder) / "ours", 0, Keep(last=1)) as saver:
        taken, first = measured(tensors, Path(folder), saver, args.repeats, args.seconds, device)
        checked(tensors, Path(folder) / "ours")
    middle = {name: median(values) for name, values in taken.items()}
    print(
        json.dumps(
            {
                "benchmark": "checkpoint",
                "gb": round(sum(t.nbytes for t in flat(tensors).values()) / 1e9, 3),
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
                "step": round(middle["step_beside"] / middle["step_alone"], 2),
                "read_back": True,
                "flip_noticed": True,
                "first_stall_s": round(first, 3),
                "median_s": {name: round(value, 4) for name, value in middle.items()},
            }
        )
    )


def made(gb: float, device: torch.device) -> dict[str, Any]:
    """Weights of LAYERS layers and an embedding, with the two moments of Adam: 12 bytes a parameter."""
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


def flat(tensors: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def measured(
    tensors: dict[str, Any], folder: Path, saver: Saver, repeats: int, seconds: float, device: torch.device
) -> tuple[dict[str, list[float]], float]:
    """Seconds by what was timed, and how long training waited for the first save, in which memory for the copy is
    taken."""
    taken: dict[str, list[float]] = {}
    note = lambda name, seconds: taken.setdefault(name, []).append(seconds)  # noqa: E731
    step = training_step(device)
    first = timed(lambda: saver.save(0, tensors, {}))
    saver.wait()
    until = time.monotonic() + seconds
    for i in range(repeats):
        if i and time.monotonic() > until:
            break
        clean(folder)
        note("safetensors", timed(lambda: plain(tensors, folder)))
        clean(folder)
        note("waiting", timed(lambda i=i: saver.save(3 * i + 3, tensors, {}, now=True)))  # type: ignore[misc]
        clean(folder)
        begun = time.perf_counter()
        note("stall", timed(lambda i=i: saver.save(3 * i + 4, tensors, {})))  # type: ignore[misc]
        saver.wait()
        note("background", time.perf_counter() - begun)
        clean(folder)
        note("again", timed(lambda: plain(tensors, folder)))
        clean(folder)
        note("step_alone", median(timed(step) for _ in range(20)))
        saver.save(3 * i + 5, tensors, {})
        beside = []
        while saver.under_way and not saver.under_way.done():
            beside.append(timed(step))
        note("step_beside", median(beside))
        saver.wait()
    return taken, first


def plain(tensors: dict[str, Any], folder: Path) -> None:
    save_file(flat(tensors), folder / "plain.safetensors")
    with (folder / "plain.safetensors").open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(folder)


def clean(folder: Path) -> None:
    """Nothing waits for the disk when the clock starts."""
    (folder / "plain.safetensors").unlink(missing_ok=True)
    for old in checkpoint.list_saved_steps(folder / "ours")[:-1]:
        shutil.rmtree(folder / "ours" / f"step-{old}")
    os.sync()


def training_step(device: torch.device) -> Callable[[], None]:
    side = 4096 if device.type == "cuda" else 512
    a = torch.randn(side, side, device=device)

    def step() -> None:
        b = a @ a
        b.sum().item()

    return step


def timed(act: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def checked(tensors: dict[str, Any], stage: Path) -> None:
    """The newest checkpoint holds what was saved, and one flipped byte of it is noticed."""
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
