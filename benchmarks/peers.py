"""Runs medvlm and the tool that a user would pick instead in turn, each in a process of its own.

contrastive.py, supervised.py and grpo.py use it. They need two things that are not part of medvlm: `--peers`, a folder
with runnable scripts of open_clip and TRL on one made workload (common.py, tinyvlm.py, open_clip_contrastive.py,
trl_sft.py, trl_grpo.py), and `--python`, the Python of an environment that has these tools. Without the second, only
medvlm runs, and the ratios are `not checked`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

MARK = "RESULT "
"""What a line with the result of a peer starts with."""


@dataclass(frozen=True)
class Run:
    """samples_per_s: median over the steps after the first ones. peak_mib: largest resident memory of the process."""

    samples_per_s: float
    peak_mib: float
    first_loss: float
    last_loss: float


def parse_arguments(parser: argparse.ArgumentParser, pairs: int, steps: int) -> argparse.Namespace:
    """Adds the arguments that all comparisons have. pairs, steps: their defaults."""
    parser.add_argument("--peers", type=Path, required=True, help="folder with the scripts of the peers")
    parser.add_argument("--python", type=Path, help="Python of the environment that has the peers")
    parser.add_argument("--pairs", type=int, default=pairs)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def compare(name: str, pairs: int, ours: Callable[[], Run], peer: Callable[[], Run] | None) -> None:
    """Runs both in turn, and prints a JSON line: the median and the range of the ratios of `pairs` pairs."""
    runs: list[tuple[Run, Run | None]] = []
    for number in range(pairs):
        runs.append((ours(), peer() if peer else None))
        print(f"pair {number + 1} of {pairs}: {runs[-1]}", file=sys.stderr, flush=True)
    mine, theirs = [own for own, _ in runs], [other for _, other in runs if other]
    both = [(own, other) for own, other in runs if other]
    found: dict[str, Any] = {"benchmark": name, "pairs": pairs, "ours": summarize(mine)}
    if theirs:
        found |= {
            "peer": summarize(theirs),
            "samples_per_s_ratio": spread([own.samples_per_s / other.samples_per_s for own, other in both]),
            "peak_memory_ratio": spread([own.peak_mib / other.peak_mib for own, other in both]),
        }
    else:
        found |= {"peer": "not checked", "samples_per_s_ratio": "not checked", "peak_memory_ratio": "not checked"}
    print(json.dumps(found), flush=True)


def summarize(runs: Sequence[Run]) -> dict[str, float]:
    return {
        "samples_per_s": round(median(run.samples_per_s for run in runs), 2),
        "peak_mib": round(median(run.peak_mib for run in runs)),
        "first_loss": round(median(run.first_loss for run in runs), 4),
        "last_loss": round(median(run.last_loss for run in runs), 4),
    }


def spread(ratios: Sequence[float]) -> dict[str, float]:
    return {"median": round(median(ratios), 3), "from": round(min(ratios), 3), "to": round(max(ratios), 3)}


def run_peer(python: Path, script: Path, arguments: Sequence[str], threads: int, **variables: str) -> Run:
    """Runs a script of the peers and reads its line `RESULT {...}`."""
    output, peak_mib = launch([str(python), str(script), *arguments], script.parent, threads, variables)
    found = json.loads(next(line for line in output.splitlines() if line.startswith(MARK)).removeprefix(MARK))
    return Run(found["samples_per_s"], peak_mib, found["loss_first"], found["loss_last"])


def train(recipe: Path, threads: int, *, warm: int = 3, answers: int = 1) -> Run:
    """Trains the only stage of a recipe in a new run folder. warm: number of first steps that are not counted, as many
    as the peer's script leaves out. answers: per sample, where these are counted."""
    name = recipe.stem
    shutil.rmtree(recipe.parent / "runs", ignore_errors=True)
    package = Path(__file__).resolve().parents[1]
    paths = f"{package}{os.pathsep}{package / 'benchmarks'}"
    command = [sys.executable, "-m", "medvlm", "train", recipe.name]
    _, peak_mib = launch(command, recipe.parent, threads, {"PYTHONPATH": paths})
    steps = [json.loads(line) for line in (recipe.parent / "runs" / name / "metrics.jsonl").read_text().splitlines()]
    took_s = [after["seconds"] - before["seconds"] for before, after in pairwise(steps)][warm - 1 :]
    batch: int = json.loads(recipe.read_text())["stages"][0]["batch"]
    return Run(answers * batch / median(took_s), peak_mib, steps[0]["loss"], steps[-1]["loss"])


def launch(command: list[str], folder: Path, threads: int, variables: Mapping[str, str]) -> tuple[str, float]:
    """The output of a process and the peak of its resident memory in MiB. Raises SystemExit with what it printed if it
    fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **variables}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        said.seek(0)
        output = said.read()
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{output[-4000:]}")
    return output, used.ru_maxrss / 1024


def write_recipe(folder: Path, recipe: Mapping[str, Any], card: Mapping[str, Any]) -> Path:
    """Writes a recipe and its card as JSON, which is YAML too."""
    path = folder / f"{recipe['name']}.yaml"
    (folder / "card.yaml").write_text(json.dumps(card, indent=1))
    path.write_text(json.dumps(recipe, indent=1))
    return path


def make_card(name: str, reader: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a made data set that has one split."""
    return {
        "name": name, "title": name, "summary": "Made radiographs with one ellipse.",
        "licence": {"id": "CC0-1.0", "commercial": True}, "access": "generated", "phi": {"status": "synthetic"},
        "media": ["film"], "splits": {"by": "image", "ratios": {"train": 1.0}}, "reader": dict(reader),
    }  # fmt: skip


def import_peers(folder: Path, data: Path) -> None:
    """Makes common.py and tinyvlm.py of the peers importable. data: where they keep what they make."""
    os.environ["PEERS_DIR"] = str(data)
    sys.path.insert(0, str(folder))
