"""A run of one stage of each kind on a generated data set, small enough to be trained again and again; and ways to cut
it off."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.distributed import TCPStore

from medvlm import cli
from medvlm.commands import train as training
from medvlm.core.config import component
from medvlm.core.engine_config import EngineConfig
from medvlm.core.run import RunFolder
from medvlm.models.lora import attach
from medvlm.models.parts import set_trained
from medvlm.recipe.load import load
from medvlm.recipe.sources import open_sources
from medvlm.train import checkpoint
from medvlm.train.engine import Engine
from medvlm.train.finished import find_final
from medvlm.train.log import Log
from tests.drills import dying

ROOT = Path(__file__).parent.parent
STAGES = ("pair", "instruct", "reason")
"""contrastive, supervised with adapters and dropout, grpo"""
STEPS, SAVE_EVERY = 6, 2

CARD = {
    "name": "tiny",
    "title": "Tiny phantom",
    "summary": "Generated films for tests.",
    "licence": {"id": "CC0-1.0", "commercial": True},
    "access": "generated",
    "phi": {"status": "synthetic"},
    "patient_key": "patient",
    "media": ["film"],
    "reader": {"kind": "phantom", "films": 60, "film_px": 96},
}
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
TOWER = {
    "kind": "transformers",
    "config": {
        "model_type": "siglip_vision_model",
        **SMALL,
        "num_hidden_layers": 1,
        "image_size": 32,
        "patch_size": 16,
    },
}
LANGUAGE = {
    "model_type": "qwen2",
    **SMALL,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}
PAIR = {
    "name": "pair",
    "kind": "contrastive",
    "mix": {"films": 1},
    "trains": ["encoders", "text", "heads"],
    "width": 8,
    "steps": STEPS,
    "batch": 8,
    "save_every": SAVE_EVERY,
    "text": {"kind": "transformers", "config": {"model_type": "bert", **SMALL, "num_hidden_layers": 1}},
    "loss": {"kind": "siglip"},
    "optim": {"kind": "muon", "lr": 1.0e-3},
}
INSTRUCT = {
    "name": "instruct",
    "kind": "supervised",
    "mix": {"films": 1},
    "trains": ["connectors", "lora"],
    "lora": {"rank": 2, "alpha": 4, "dropout": 0.3},
    "tasks": ["choice", "count"],
    "questions": 2,
    "steps": STEPS,
    "batch": 8,
    "accumulate": 2,
    "save_every": SAVE_EVERY,
    "optim": {"lr": 1.0e-2},
}
REASON = {
    "name": "reason",
    "kind": "grpo",
    "mix": {"films": 1},
    "trains": ["connectors", "lora"],
    "group": 4,
    "rewards": {"choice": 1.0, "count": 1.0},
    "tasks": ["choice", "count"],
    "max_new_tokens": 4,
    "pay_cut": True,  # a model that knows nothing seldom ends its answers
    "kl": 0.1,
    "steps": STEPS,
    "batch": 4,
    "save_every": SAVE_EVERY,
    "optim": {"lr": 1.0e-3},
}


def recipe(**changes: Any) -> dict[str, Any]:
    whole = {
        "name": "tiny",
        "seed": 7,
        "model": {
            "encoders": {"film": {**TOWER, "connector": {"kind": "mlp"}}},
            "language": {"kind": "causal", "config": LANGUAGE, "vocabulary": 512},
        },
        "data": {"films": {"card": "card.yaml"}},
        "stages": [PAIR, INSTRUCT, REASON],
        "engine": {"device": "cpu", "workers": 1},
    }
    return {**whole, **changes}


def written(folder: Path, content: Mapping[str, Any], card: Mapping[str, Any] = CARD) -> Path:
    """The recipe's file, with its card beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.yaml").write_text(yaml.safe_dump(dict(card)))
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(content)))
    return path


def staged(path: Path, runs: Path, name: str, *overrides: str) -> Any:
    """One stage as the loop is given it, with the weights it is built with."""
    loaded, engine = load(path, overrides), Engine(EngineConfig(device="cpu", workers=0))
    run = RunFolder(runs / loaded.recipe.name)
    run.root.mkdir(parents=True, exist_ok=True)
    sources = open_sources(loaded, runs, say=lambda _: None)
    (config,) = (stage for stage in loaded.recipe.stages if stage.name == name)
    assemblies = training._assemble_all(loaded, run, engine, sources)
    setup = training._make_setup(config, assemblies, loaded, run, engine, sources)
    stage = component("stages", config.kind).build(config, setup)
    if config.lora:
        attach(stage.model, config.lora, seed=0)
    set_trained(stage.model, config.trains, name)
    stage.set_modes()
    return stage


def trained(path: Path, runs: Path, *overrides: str, **how: Any) -> RunFolder:
    """Trained in this process, on one thread, as the processes that are cut off are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return training.train(load(path, overrides), runs, **how)
    finally:
        torch.set_num_threads(threads)


def stop_after(path: Path, runs: Path, step: int) -> int:
    """The exit code of `medvlm train` in this process, which gets SIGTERM after that step is logged."""
    write = Log.write

    def told(self: Log, record: dict[str, Any]) -> None:
        write(self, record)
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "write", told)
        try:
            return cli.main(["train", str(path), "--runs", str(runs)])
        finally:
            torch.set_num_threads(threads)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def cut_off(path: Path, runs: Path, stage: str, step: int, at: str = "logged") -> None:
    """Trains in a fork of this process that is killed (-9) at a step of a stage: see tests/drills/dying.py for `at`.

    A fork, because a process of its own imports for as long as it trains."""
    process = multiprocessing.get_context("fork").Process(target=_die, args=(path, runs, stage, str(step), at))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL, process.exitcode


def _die(path: Path, *arguments: str) -> None:
    torch.set_num_threads(1)
    os.chdir(path.parent)
    _begin_anew_unless_it_trains("-m", "tests.drills.dying", path, *arguments)
    dying.main(str(path), *map(str, arguments))


def run_ranks(script: Path, *arguments: object, ranks: int = 2) -> None:
    """Runs a script as torchrun would, in forks of this process, which need not import torch again.

    This process serves their store, as torchrun does: a port that is free now may be taken before a rank opens it."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    fork = multiprocessing.get_context("fork").Process
    words = [str(script), *map(str, arguments)]
    processes = [fork(target=_run_rank, args=(words, rank, ranks, store.port)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * ranks


def _run_rank(words: list[str], rank: int, ranks: int, port: int) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    named = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "tests",
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }
    os.environ.update({key: str(value) for key, value in {**place, **named}.items()})
    torch.set_num_threads(1)
    _begin_anew_unless_it_trains(*words)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _begin_anew_unless_it_trains(*words: object) -> None:
    """Replaces a fork by a process of its own if an earlier test has started threads of autograd, which forks lack."""
    try:
        torch.ones(1, requires_grad=True).sum().backward()
    except RuntimeError:
        os.execve(sys.executable, [sys.executable, *map(str, words)], environment())


def trace(run: RunFolder, stage: str) -> list[tuple[int, str, dict[str, str]]]:
    """Step by step: which samples in which order, and every number that does not measure time, to the last bit."""
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [(r["step"], r["samples"], exact(r)) for r in records if r["stage"] == stage and "loss" in r]


def exact(record: dict[str, Any]) -> dict[str, str]:
    numbers = {"loss": record["loss"], "lr": record["lr"], "grad_norm": record["grad_norm"], **record["terms"]}
    return {name: float(value).hex() for name, value in numbers.items()}


def samples(run: RunFolder, stage: str) -> list[str]:
    return [keys for _, keys, _ in trace(run, stage)]


def weights(run: RunFolder, stage: str) -> dict[str, torch.Tensor]:
    """As the finished stage hands them on."""
    return checkpoint.read_weights(find_final(run.stage(stage)))


def differing(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not the same to the last bit."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]
