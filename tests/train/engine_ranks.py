"""engine_ranks.py FOLDER CASE...: a stage under each engine, for tests/train/test_engines.py. Started by torchrun or
plainly; rank R leaves FOLDER/rank-R.pt."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvlm.core.errors import DataError
from medvlm.core.sample import Batch
from medvlm.core.stage_config import Lora, Optim, StageConfig, Validate
from medvlm.data.dialogue import Document
from medvlm.models.generate import generate
from medvlm.models.lora import attach
from medvlm.models.parts import evaluating, group_of, matches, set_modes, set_trained
from medvlm.objectives.next_token import token_losses
from medvlm.stages._base import chunks
from medvlm.train import accumulate, checkpoint, engine_zero, loop
from medvlm.train.engine import Engine
from medvlm.train.engine_config import EngineConfig
from medvlm.train.engines import make_engine
from medvlm.train.log import Log
from medvlm.train.watch import Watch
from tests.models.tiny import batch_of, document, vlm

BATCH, STEPS, NORM = 8, 4, 2.0
engine_zero.PERSISTENT = 0  # else everything so small stays whole


class Answering(loop.Stage):
    """The tiny vision-language model with adapters and a trained connector. In every second step, the later half of the
    batch has no image: all of the second rank's."""

    updates = 1

    def __init__(self, engine: Engine, trains: tuple[str, ...] = ("connectors", "lora")):
        self.engine, self.model = engine, vlm()
        attach(self.model, Lora(rank=2, alpha=16, targets=("language",)), seed=3)
        with torch.no_grad():  # B starts at zero, and A without a gradient
            for name, parameter in self.model.named_parameters():
                if ".lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
        set_trained(self.model, trains, "answer")
        self.said: list[list[list[int]]] = []

    def batches(self, consumed: int) -> Iterator[tuple[int, list[Document]]]:
        share = BATCH // self.engine.world
        while True:
            first = consumed + self.engine.rank * share
            yield consumed, [self.prepared(position) for position in range(first, first + share)]
            consumed += BATCH

    def used(self, consumed: int) -> dict[str, tuple[int, float]]:
        return {}

    def counted(self, prepared: list[Document]) -> loop.Terms:
        return {}

    def prepared(self, position: int) -> Document:
        generator = torch.Generator().manual_seed(position)
        media = (
            []
            if position // BATCH % 2 and position % BATCH >= BATCH // 2
            else [("film",), ("volume",), ("film", "volume")][position % 3]
        )
        made = document(generator, media, 3 + position % 4, [(3 + position % 5, 1), (4, 0)])
        return Document(f"sample-{position}", made.prefix, made.branches, made.media)

    def micros(self, prepared: list[Document], count: int) -> list[Batch]:
        return [batch_of(part) for part in chunks(prepared, count)]

    def weight(self, micro: Batch) -> float:
        return len(micro.targets_L)

    def loss(self, model: nn.Module, micro: Batch) -> tuple[torch.Tensor, loop.Terms]:
        return token_losses(
            model(micro.to(self.engine.device))["logits_LV"], micro.targets_L.to(self.engine.device)
        ).sum(), {}

    def validate(self, model: nn.Module, samples: int) -> loop.Terms:
        """Each rank draws another number of answers, of its own length."""
        rank = self.engine.rank
        prompts = batch_of([self.prepared(1000 + i) for i in range(2 + rank)], pack=False)
        with evaluating(self.model), self.engine.unsharded(self.model):
            self.said.append(
                generate(self.model, prompts.to(self.engine.device), max_new_tokens=3 + 2 * rank, end_ids=[])
            )
        return {"loss": (1.0, 1.0)}

    def set_modes(self) -> None:
        set_modes(self.model)
        self.model.runs_all = self.engine.is_sharded

    def matches(self, parameter: str, pattern: str) -> bool:
        return matches(parameter, pattern)

    def group_of(self, parameter: str) -> str:
        return group_of(parameter)


def run(folder: Path, engine: Engine, **settings: Any) -> dict[str, Any]:
    """Trains from what is in the folder to the end."""
    trains, of = settings.pop("trains", ("connectors", "lora")), settings.pop("of", Answering)
    config = StageConfig(
        **{  # type: ignore[arg-type]
            "kind": "answering",
            "name": "answer",
            "mix": {"x": 1.0},
            "trains": trains,
            "steps": STEPS,
            "batch": BATCH,
            "accumulate": 4 // engine.world,
            "optim": Optim(lr=1e-2, max_norm=NORM, warmup=0),
            "validate": Validate(every=2),
            "save_every": 2,
            **settings,
        }
    )
    stage, log = of(engine, trains), Log(folder / "metrics.jsonl", engine.is_first, [])
    watch = Watch(folder / "ranks", engine.rank, engine.world, 0.0)
    engine.place(stage.model, stage.matches)
    state, proof = loop.run(
        stage, config, engine, folder / "answer", log, loop.State("same", meta={"stage": "answer"}), 1, 1, watch
    )
    proof.check_frozen()
    records = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] if engine.is_first else []
    )
    steps = [r for r in records if "loss" in r]
    found = {
        "loss": [r["loss"] for r in steps],
        "norm": [r["grad_norm"] for r in steps],
        "said": stage.said,
        "micros": state.accumulate,
        "weights": checkpoint.read_weights(folder / "answer" / f"step-{STEPS}"),
    }
    moments = [
        moment
        for state in engine.optimizer.state.values()
        for moment in state.values()
        if isinstance(moment, torch.Tensor)
    ]
    tensors = [weakref.ref(tensor) for tensor in (*stage.model.parameters(), *moments)]
    found["held"] = alive(tensors)
    del stage, proof, state, moments
    engine.release()
    return {**found, "left": alive(tensors)}


def alive(tensors: list[weakref.ref[torch.Tensor]]) -> int:
    """Numbers in them."""
    return sum(tensor.numel() for ref in tensors if (tensor := ref()) is not None)


def again(folder: Path, other: Path, engine: Engine, **settings: Any) -> dict[str, Any]:
    """Goes on in another folder from step 2 of the first."""
    if engine.is_first:
        shutil.copytree(folder, other)
        shutil.rmtree(other / "answer" / f"step-{STEPS}")
    engine.barrier()
    return run(other, engine, **settings)


def without_clipping_said(monkey: Any) -> None:
    settings = engine_zero.Zero._settings
    monkey._settings = lambda: {k: v for k, v in settings(monkey).items() if k != "gradient_clipping"}


def by_own_labels(stage: Any, model: nn.Module, micros: list[Any], engine: Engine) -> loop.Terms:
    """The mean over each rank's own labels, averaged over ranks: what is done where nobody counts together."""
    return accumulate._backward(
        stage, model, micros, engine, sum(stage.weight(m) for m in micros) * engine.world, len(micros) - 1
    )


class Narrow(Answering):
    """Whose second rank has no memory for more than two samples at a time."""

    def loss(self, model: nn.Module, micro: Batch) -> tuple[torch.Tensor, loop.Terms]:
        loss = super().loss(model, micro)
        if self.engine.rank == self.engine.world - 1 and len(micro.answers_L.unique()) > 4:
            raise torch.OutOfMemoryError("as a GPU would say")
        return loss


class Blind(Answering):
    """Whose ranks do not know that they are several."""

    def batches(self, consumed: int) -> Iterator[tuple[int, list[Document]]]:
        for position, _ in super().batches(consumed):
            yield position, [self.prepared(position + i) for i in range(BATCH // self.engine.world)]


ENGINES: dict[str, dict[str, Any]] = {
    "recompute": {"recompute": ("language", "encoders")},
    "bf16": {"precision": "bf16-mixed"},
    "offload": {"offload": True},
}
STAGES: dict[str, dict[str, Any]] = {
    "muon": {"optim": Optim(kind="muon", lr=1e-2, warmup=0), "trains": ("connectors",)},
    "auto": {"accumulate": "auto", "of": Narrow},
    "blind": {"of": Blind, "steps": 8},
}


def case(folder: Path, name: str) -> dict[str, Any]:
    """KIND, and one word: `again` goes on from step 2 of KIND, another kind from step 2 of that one, the others are
    settings or faults."""
    kind, word = (*name.split(), "")[:2]
    engine = make_engine(EngineConfig(kind=kind, device="cpu", **ENGINES.get(word, {})))  # type: ignore[arg-type]
    if word == "again" or (folder / word / "answer").exists():
        return again(folder / (kind if word == "again" else word), folder / name, engine)
    if word == "clips":
        without_clipping_said(engine)
    counted = loop.accumulate
    loop.accumulate = by_own_labels if word == "own" else counted
    try:
        return run(folder / name, engine, **STAGES.get(word, {}))
    except DataError as refused:
        return {"refused": str(refused)}
    finally:
        loop.accumulate = counted


def main(folder: Path, names: list[str]) -> None:
    found: dict[str, Any] = {}
    for name in names:
        began = time.monotonic()
        found[name] = case(folder, name)
        print(name, round(time.monotonic() - began, 1), flush=True)
    torch.save(found, folder / f"rank-{os.environ.get('RANK', 0)}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
