"""Peak memory of each of two processes that train a sharded model on CPUs, from a published folder of random weights.

    python benchmarks/host_memory.py               # some 12 GB of memory and 10 minutes on two cores

The language model has one billion parameters in bfloat16 (2 GB); adapters and a connector are trained in mixed
precision. `ddp` is the control: every process has the whole model. `whole` is what engines did before they read weights
into shards: every process builds the model in float32 first. The limit is the shard of a process and 3 GiB.

Peaks are those of the kernel (VmHWM, with pages of mapped files), once from the start until the model is placed, and
once for the steps of training; `before` is the process with its libraries and data, before the model is built.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
GIB = 1 << 30
LIMIT_GIB = 3.0
CASES = ("ddp", "fsdp2 whole", "fsdp2", "zero3 whole", "zero3")
SIZES = {
    "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 4,
    "vocab_size": 32000, "max_position_embeddings": 2048,
}  # fmt: skip


# --- in each process ----------------------------------------------------------------------------------


def work(recipe: Path, runs: Path, out: Path, reads_whole: bool) -> None:
    """Trains the recipe, and writes the peaks of this process to OUT-RANK.json."""
    import torch

    torch.set_num_threads(1)
    from medvlm import api
    from medvlm.commands import building
    from medvlm.commands import train as training

    begin, found = training._begin_stage, {}

    def begin_stage(*args: Any) -> Any:
        found["before"] = _read_status("VmRSS")
        _reset_peak()
        begun: Any = begin(*args)
        found["built"] = _read_status("VmHWM")
        found["shard"] = _count_shard(begun.stage.model)
        _reset_peak()
        return begun

    training._begin_stage = begin_stage  # type: ignore[assignment]
    if reads_whole:
        building.deferring = lambda: nullcontext([])  # type: ignore[assignment, return-value]
    api.train(recipe, [], runs=runs)
    found["trained"] = _read_status("VmHWM")
    out.with_name(f"{out.name}-{os.environ['RANK']}.json").write_text(json.dumps(found))


def _read_status(key: str) -> int:
    """Bytes, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _count_shard(model: Any) -> int:
    """Bytes of this process's part of the parameters."""
    from torch.distributed.tensor import DTensor

    parts = [getattr(p, "ds_tensor", p) for p in model.parameters()]
    own = [p.to_local() if isinstance(p, DTensor) else p for p in parts]
    return sum(p.numel() * p.element_size() for p in own)


# --- the process that starts the others -----------------------------------------------------------------


def save_language(folder: Path, layers: int) -> Path:
    """A published folder: random weights in bfloat16, a config and a tokenizer."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from medvlm.data.vocabulary import IMAGE, train_tokenizer

    texts = ["Is there a nodule in the left lung?", "yes", "no", "How many clips are there? 3 or 12"] * 4
    train_tokenizer(texts, 512, IMAGE).save_pretrained(folder)
    config = Qwen2Config(**SIZES, num_hidden_layers=layers, dtype="bfloat16")
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Qwen2ForCausalLM(config).state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    weights = {name: 0.02 * torch.randn(shape, generator=draw, dtype=torch.bfloat16) for name, shape in shapes.items()}
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_recipe(folder: Path, language: Path, name: str, kind: str) -> Path:
    whole = yaml.safe_load((ROOT / "recipes" / "phantom.yaml").read_text())
    del whole["evaluate"], whole["export"], whole["extends"]
    stage = {
        "name": "tune", "kind": "supervised", "mix": {"phantom": 1}, "trains": ["connectors", "lora"],
        "lora": {"rank": 8, "targets": ["language.*.q_proj"]}, "tasks": ["choice"], "steps": 2, "batch": 2,
    }  # fmt: skip
    whole |= {"name": name, "stages": [stage]}
    whole |= {"engine": {"kind": kind, "device": "cpu", "workers": 1, "precision": "bf16-mixed"}}
    whole |= {"data": {"phantom": {"card": str(ROOT / "data_cards/phantom.yaml")}}}
    whole["model"]["language"] = {"kind": "causal", "model": str(language)}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def run(folder: Path, language: Path, case: str) -> list[dict[str, int]]:
    """What each process wrote."""
    kind, _, whole = case.partition(" ")
    name = case.replace(" ", "-")
    recipe, out = write_recipe(folder, language, name, kind), folder / name
    own = [str(Path(__file__)), "work", str(recipe), str(folder / "runs"), str(out), *(["--whole"] if whole else [])]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *own]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    return [json.loads(out.with_name(f"{name}-{rank}.json").read_text()) for rank in (0, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb")
    own = verbs.add_parser("work")
    own.add_argument("recipe", type=Path)
    own.add_argument("runs", type=Path)
    own.add_argument("out", type=Path)
    own.add_argument("--whole", action="store_true")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--layers", type=int, default=20)
    args = parser.parse_args()
    if args.verb == "work":
        work(args.recipe, args.runs, args.out, args.whole)
        return
    print(f"{'GiB':<14}{'rank':>5}{'before':>8}{'built':>8}{'trained':>9}{'shard':>7}{'limit':>7}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        language = save_language(folder / "language", args.layers)
        for case in args.cases:
            for rank, found in enumerate(run(folder, language, case)):
                show(case, rank, found)


def show(case: str, rank: int, found: dict[str, int]) -> None:
    gib = {key: size / GIB for key, size in found.items()}
    # A process of ddp has no shard; the limit is that of half a model.
    limit = gib["shard"] / (2 if case == "ddp" else 1) + LIMIT_GIB
    peak = max(gib["built"], gib["trained"])
    print(f"{case:<14}{rank:>5}{gib['before']:>8.2f}{gib['built']:>8.2f}{gib['trained']:>9.2f}{gib['shard']:>7.2f}"
          f"{limit:>7.2f}  {'below' if peak < limit else 'ABOVE'}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
