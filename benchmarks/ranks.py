"""Compares one process with two on stages of the phantom recipe: speed, CPU time and what the ranks exchange.

    python benchmarks/ranks.py speed                  # 1 and 2 processes in turn, one core each; 2 cores must be free
    python benchmarks/ranks.py count                  # collectives and bytes of a step under each engine

Each run is a training run of one stage. A step counts from the ninth on, after the proof that everything is trained;
validation and checkpoints are not counted. `speed` prints the samples per second of the median step, their ratio to
twice those of one process for each pair, and the CPU seconds per sample of all processes together. A process is bound
to one core with all its threads, those that read samples included.

`count` sees every collective that reaches a process group, those of DDP, FSDP2 and DeepSpeed included, with the
function of medvlm that it was started from. Bytes are those of the tensors that a rank gives. A step cannot do without
the sum of the gradients, the rows that a contrastive loss compares and their gradients, the updates that Muon shares,
and a sum of what is logged and decided together; with sharded weights, also without gathering them twice.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
WARM = 9
STAGES = {"contrastive": "pair", "supervised": "instruct", "grpo": "reason"}
KINDS = ("ddp", "fsdp2", "zero1", "zero2", "zero3")


# --- in each process ----------------------------------------------------------------------------------


def work(recipe: Path, runs: Path, out: Path, steps: int, counts: bool, core: int | None) -> None:
    """Trains the last stage of a recipe and writes what its steps took to OUT-RANK.json."""
    rank = int(os.environ.get("RANK", 0))
    if core is not None:
        os.sched_setaffinity(0, {core + rank})
    import torch

    torch.set_num_threads(1)
    from medvlm import api
    from medvlm.train import loop

    records: list[dict[str, Any]] = []
    step = loop._Loop.take_step
    began = [time.monotonic(), time.process_time()]

    def take_step(self: Any, *args: Any) -> Any:
        if self.state.step and self.state.step == self.config.steps - 1 and counts:
            with _Collectives() as seen:
                found = step(self, *args)
            _write(out, rank, {"seen": seen.found, "trained": _count_trained(self)})
        else:
            found = step(self, *args)
        now = [time.monotonic(), time.process_time()]
        records.append({"s": now[0] - began[0], "cpu": now[1] - began[1], "batch": self.config.batch})
        began[:] = now
        return found

    loop._Loop.take_step = take_step  # type: ignore[method-assign, assignment]
    api.train(recipe, [], runs=runs)
    if not counts:
        _write(out, rank, {"steps": records[-steps:]})


def _write(out: Path, rank: int, found: Any) -> None:
    out.with_name(f"{out.name}-{rank}.json").write_text(json.dumps(found))


def _count_trained(loop: Any) -> dict[str, int]:
    trained = [p for p in loop.stage.model.parameters() if p.requires_grad]
    sizes = [getattr(p, "ds_numel", p.numel()) for p in trained]
    whole = [getattr(p, "ds_numel", p.numel()) for p in loop.stage.model.parameters()]
    return {"numbers": sum(sizes), "tensors": len(sizes), "all": sum(whole)}


def _Collectives() -> Any:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Collectives(TorchDispatchMode):
        """Records name, bytes and caller of every collective."""

        def __init__(self) -> None:
            super().__init__()
            self.found: list[tuple[str, int, str]] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = function.name()
            if name.startswith(("c10d::", "_c10d_functional::")) and "wait" not in name and "wrap" not in name:
                given = args[1] if "allgather" in name or "reduce_scatter" in name else args[0]
                self.found.append((name.split("::")[1].strip("_"), sum(map(_bytes, _tensors(given))), _find_caller()))
            return function(*args, **(kwargs or {}))

    return Collectives()


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _tensors(value: Any) -> Iterator[Any]:
    if hasattr(value, "element_size"):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _find_caller() -> str:
    """The innermost function of medvlm on the stack, without those that only pass on."""
    for frame in reversed(traceback.extract_stack()):
        path = frame.filename.replace(os.sep, "/")
        if "/medvlm/" in path and frame.name not in ("sum_over_ranks", "merge_names", "gather", "forward"):
            return f"{path.split('/medvlm/')[-1]} {frame.name}"
    return "?"


# --- the process that starts the others -----------------------------------------------------------------


def write_recipe(folder: Path, kind: str, stage: str, steps: int, number: int) -> Path:
    """The phantom recipe with this stage alone."""
    whole = _read_phantom()
    (own,) = [dict(each) for each in whole["stages"] if each["name"] == stage]
    own = {k: v for k, v in own.items() if k != "validate"} | {"steps": steps}
    if stage == "reason":
        own["from"] = f"{folder}/runs/start:instruct"
    if kind.startswith("zero"):
        own["optim"] = {"lr": 1.0e-4}  # Muon needs whole matrices, which DeepSpeed does not show it
    name = f"{stage}-{kind}-{number}-{time.time_ns()}"
    whole |= {"stages": [own], "name": name}
    whole["engine"]["kind"] = kind
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def make_start(folder: Path) -> Path:
    """A run with an `instruct` stage of a few steps, so that answers of the grpo stage are worth different rewards."""
    whole = _read_phantom()
    stages = [{k: v for k, v in each.items() if k != "validate"} for each in whole["stages"]]
    small = {"read": {"steps": 60}, "instruct": {"steps": 60}}
    whole |= {"name": "start", "stages": [each | small[each["name"]] for each in stages if each["name"] in small]}
    path = folder / "start.yaml"
    path.write_text(yaml.safe_dump(whole))
    _run([sys.executable, "-m", "medvlm", "train", str(path), "--runs", str(folder / "runs")])
    return folder / "runs" / "start"


def _read_phantom() -> dict[str, Any]:
    whole = yaml.safe_load((ROOT / "recipes" / "phantom.yaml").read_text())
    del whole["evaluate"], whole["export"]
    whole |= {"extends": [str(ROOT / "recipes/base/tiny.yaml")], "engine": {"device": "cpu", "workers": 1}}
    return whole | {"data": {"phantom": {"card": str(ROOT / "data_cards/phantom.yaml")}}}


def run(folder: Path, stage: str, kind: str, world: int, steps: int, options: list[str], number: int = 0) -> list[Any]:
    """What each rank wrote."""
    recipe = write_recipe(folder, kind, stage, steps + WARM, number)
    out = folder / f"{recipe.stem}-{world}"
    own = [str(Path(__file__)), "work", str(recipe), str(folder / "runs"), str(out), str(steps), *options]
    starter = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world), "--standalone"]
    _run([*(starter if world > 1 else [sys.executable]), *own])
    return [json.loads(out.with_name(f"{out.name}-{rank}.json").read_text()) for rank in range(world)]


def _run(command: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")


def count(folder: Path, stages: list[str], kinds: list[str]) -> None:
    for stage in stages:
        for kind in kinds:
            first, *_ = run(folder, STAGES[stage], kind, 2, 3, ["--counts"])
            seen, trained = Counter[tuple[str, str]](), first["trained"]
            sizes = Counter[tuple[str, str]]()
            for name, size, caller in first["seen"]:
                seen[name, caller] += 1
                sizes[name, caller] += size
            print(f"\n{stage}, {kind}: {sum(seen.values())} collectives, {sum(sizes.values()) / 1e6:.3f} MB; trained"
                  f" {4 * trained['numbers'] / 1e6:.3f} of {4 * trained['all'] / 1e6:.3f} MB")  # fmt: skip
            for key, times in seen.most_common():
                print(f"  {times:4} {key[0]:<28} {sizes[key]:>12,} bytes  {key[1]}", flush=True)


def speed(folder: Path, stages: list[str], kind: str, pairs: int, steps: int, workers: int) -> None:
    for stage in stages:
        found: list[tuple[float, float]] = []
        for pair in range(pairs):
            both = [run(folder, STAGES[stage], kind if n > 1 else "single", n, steps, ["--core", "0"], pair)
                    for n in ((1, 2), (2, 1))[pair % 2]]  # fmt: skip
            one, two = sorted(both, key=len)
            speeds = [_speed_of(ranks) for ranks in (one, two)]
            found.append((speeds[0], speeds[1]))
            cpu = [_cpu_of(ranks) for ranks in (one, two)]
            print(f"{stage}: {speeds[0]:.1f} and {speeds[1]:.1f} samples/s, {speeds[1] / speeds[0] / 2:.3f} of twice;"
                  f" CPU ms per sample {cpu[0]:.2f} and {cpu[1]:.2f} ({cpu[0] / cpu[1]:.3f})", flush=True)  # fmt: skip
        ratios = sorted(two / one / 2 for one, two in found)
        print(f"{stage}: median {statistics.median(ratios):.3f} of twice [{ratios[0]:.3f}, {ratios[-1]:.3f}]")


def _speed_of(ranks: list[Any]) -> float:
    return float(statistics.median(step["batch"] / step["s"] for step in ranks[0]["steps"]))


def _cpu_of(ranks: list[Any]) -> float:
    """CPU milliseconds per sample of all processes."""
    return (
        1000 * sum(statistics.median(s["cpu"] for s in rank["steps"]) for rank in ranks) / ranks[0]["steps"][0]["batch"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("speed", "count"):
        own = verbs.add_parser(name)
        own.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
        own.add_argument("--folder", type=Path, help="keeps data and runs there; by default, a temporary folder")
    verbs.choices["count"].add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    verbs.choices["speed"].add_argument("--kind", default="ddp", choices=KINDS)
    verbs.choices["speed"].add_argument("--pairs", type=int, default=5)
    verbs.choices["speed"].add_argument("--steps", type=int, default=40)
    own = verbs.add_parser("work")
    own.add_argument("recipe", type=Path)
    own.add_argument("runs", type=Path)
    own.add_argument("out", type=Path)
    own.add_argument("steps", type=int)
    own.add_argument("--counts", action="store_true")
    own.add_argument("--core", type=int)
    args = parser.parse_args()
    if args.verb == "work":
        work(args.recipe, args.runs, args.out, args.steps, args.counts, args.core)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "runs" / "start" / "instruct" / "stage.json").exists():
            make_start(folder)
        if args.verb == "count":
            count(folder, args.stages, args.kinds)
        else:
            speed(folder, args.stages, args.kind, args.pairs, args.steps, 1)


if __name__ == "__main__":
    main()
