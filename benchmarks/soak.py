"""Measures whether the memory of a long run grows.

    python benchmarks/soak.py [--minutes 6] [--ranks 2] [--leak]

Trains a tiny vision-language model on 60 generated films with torchrun: epochs of a few steps, each sample read,
decoded and augmented every time, a checkpoint in the background every 50 steps, a validation every 100. It records the
resident memory of each process every second. The first third of the time is warm-up; the median of the last third must
be within 5 % of that of the second. `equals_hours` is the time that a run of one step per second would take for the
same number of steps. --leak is a control: each process leaks 2 MB per second, which must be detected. Prints one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import yaml

CARD = {
    "name": "soak",
    "title": "Soak phantom",
    "summary": "Generated films.",
    "licence": {"id": "CC0-1.0", "commercial": True},
    "access": "generated",
    "phi": {"status": "synthetic"},
    "patient_key": "patient",
    "media": ["film"],
    "reader": {"kind": "phantom", "films": 60, "film_px": 96},
}
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
RECIPE = {
    "name": "soak",
    "seed": 7,
    "engine": {"device": "cpu", "workers": 1},
    "data": {"films": {"card": "card.yaml"}},
    "model": {
        "encoders": {
            "film": {
                "kind": "transformers",
                "config": {
                    "model_type": "siglip_vision_model",
                    **SMALL,
                    "num_hidden_layers": 1,
                    "image_size": 32,
                    "patch_size": 16,
                },
                "connector": {"kind": "mlp"},
            }
        },
        "language": {
            "kind": "causal",
            "config": {
                "model_type": "qwen2",
                **SMALL,
                "num_hidden_layers": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 512,
            },
            "vocabulary": 512,
        },
    },
    "stages": [
        {
            "name": "instruct",
            "kind": "supervised",
            "mix": {"films": 1},
            "trains": ["connectors", "lora"],
            "lora": {"rank": 2, "alpha": 4, "dropout": 0.1},
            "tasks": ["choice", "count"],
            "questions": 2,
            "steps": 10_000_000,
            "batch": 8,
            "save_every": 50,
            "validate": {"every": 100, "samples": 4},
        }
    ],
}
LEAK = """
import sys, time
from medvlm import cli
from medvlm.train.engine import Engine
kept, step, began = [], Engine.step, time.monotonic()
def leaking(self):
    step(self)
    kept.append(b"x" * max(0, int(2e6 * (time.monotonic() - began)) - sum(map(len, kept))))
Engine.step = leaking
sys.exit(cli.main(sys.argv[1:]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--leak", action="store_true", help="control: leak 2 MB per second")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        memory, steps = run_soak(Path(folder), args.ranks, args.minutes * 60, args.leak)
    growth = {rank: round(compute_growth(samples), 4) for rank, samples in sorted(memory.items())}
    print(
        json.dumps(
            {
                "benchmark": "soak",
                "minutes": args.minutes,
                "ranks": args.ranks,
                "leak": args.leak,
                "steps": steps,
                "epochs": steps * 8 // 50,
                "checkpoints": steps // 50,
                "equals_hours": round(steps / 3600, 2),
                "growth": growth,
                "flat": all(abs(g - 1) <= 0.05 for g in growth.values()),
                "mb": {
                    rank: round(median(samples[-len(samples) // 3 :]) / 1e6, 1)
                    for rank, samples in sorted(memory.items())
                },
                "processors": len(os.sched_getaffinity(0)),
                "load": round(os.getloadavg()[0], 1),
            }
        )
    )


def run_soak(folder: Path, ranks: int, seconds: float, leak: bool) -> tuple[dict[str, list[int]], int]:
    """Resident bytes of each process, once a second, and the number of steps."""
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "leak.py").write_text(LEAK)
    program = [str(folder / "leak.py")] if leak else ["-m", "medvlm"]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        *program,
        "train",
        str(folder / "recipe.yaml"),
        "--runs",
        str(folder / "runs"),
    ]
    metrics = folder / "runs" / "soak" / "metrics.jsonl"
    log = (folder / "log").open("w")
    job = subprocess.Popen(command, stdout=log, stderr=log, env={"OMP_NUM_THREADS": "1", **os.environ})
    memory: dict[str, list[int]] = {}
    try:
        wait_for(metrics, job, folder / "log")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(1)
            assert job.poll() is None, (folder / "log").read_text()[-3000:]
            for i, pid in enumerate(sorted(list_children(job.pid))):
                memory.setdefault(f"rank {i}", []).append(read_resident_bytes(pid))
    finally:
        job.send_signal(signal.SIGTERM)
        job.wait()
    steps = max(json.loads(line)["step"] for line in metrics.read_text().splitlines()[-3:])
    return memory, steps


def wait_for(metrics: Path, job: subprocess.Popen[Any], log: Path) -> None:
    while not metrics.exists():
        assert job.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)


def list_children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def read_resident_bytes(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def compute_growth(samples: list[int]) -> float:
    """Median of the last third divided by that of the second; the first third is warm-up."""
    third = len(samples) // 3
    return median(samples[-third:]) / median(samples[third : 2 * third])


if __name__ == "__main__":
    main()
