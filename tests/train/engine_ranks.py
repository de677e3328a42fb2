"""engine_ranks.py FOLDER CASE...: a stage under each engine, for tests/train/test_engines.py. Started by run_ranks or
directly; rank R writes FOLDER/rank-R.pt."""

from __future__ import annotations

import copy
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
from torch.utils import swap_tensors

from medvlm.core.deferred import Held, defer
from medvlm.core.engine_config import EngineConfig
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.lora_config import Lora
from medvlm.core.published import Published, mark
from medvlm.core.quantize import settle
from medvlm.core.sample import Batch
from medvlm.core.stage_config import Optim, OptimOf, StageConfig, Validate
from medvlm.data.dialogue import TokenSequence
from medvlm.models import head
from medvlm.models.attention import use_attention
from medvlm.models.generate import generate
from medvlm.models.lora import attach
from medvlm.models.parts import evaluating, group_of, matches, set_modes, set_trained
from medvlm.models.vlm import VLM
from medvlm.objectives.next_token import answer_losses, read_losses
from medvlm.stages._base import split_evenly
from medvlm.train import checkpoint, engine_zero, loop
from medvlm.train.accumulate import Update
from medvlm.train.engine import Engine
from medvlm.train.engines import make_engine
from medvlm.train.log import Log
from medvlm.train.stage import Stage
from medvlm.train.storage import TensorReader
from medvlm.train.terms import LOSS, Loss, Measured, Term, Terms
from medvlm.train.watch import Watch
from tests.models.tiny import VOCABULARY, batch_of, document, encoded_batch_of, vlm

BATCH, STEPS, NORM = 8, 4, 2.0
LR = 1e-3
"""Where a gradient is rounding alone, AdamW makes a whole step of it. With 1e-2, the losses of four steps differ by
more than 1e-5 between engines for that reason; faults of an engine are seen with 1e-3 too."""
PROMPTS = 1030
"""Where the prompts begin whose answers are compared. The first two tokens of each distribution are at least 0.01 apart
there, in logits; the rounding of another engine, which AdamW scales up, chooses between closer ones."""
WHOLE_HEAD = head.CHUNK_BYTES
engine_zero.PERSISTENT = 0  # else everything so small stays whole


class Answering(Stage):
    """The tiny vision-language model with adapters and a trained connector. The weights of its language model count as
    published. In every second step, the later half of the batch has no image: all of the second rank's."""

    own_updates: tuple[str, ...] = ()

    def __init__(self, config: StageConfig, engine: Engine):
        self.config, self.engine, self.model = config, engine, self.build()
        mark(self.model.language)
        published = Published(self.model, lambda name: any(matches(name, each) for each in config.trains))
        attach(self.model, Lora(rank=2, alpha=16, targets=("language",)), seed=3)
        with torch.no_grad():  # B starts at zero, and A without a gradient
            for name, parameter in self.model.named_parameters():
                if ".lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
        self.unchanged = published.find_unchanged(self.model)
        set_trained(self.model, config.trains, "answer")
        self.said: list[list[list[int]]] = []

    def build(self) -> VLM:
        return vlm()

    def read_batches(self, consumed: int) -> Iterator[tuple[int, list[TokenSequence]]]:
        share = BATCH // self.engine.world
        while True:
            first = consumed + self.engine.rank * share
            yield consumed, [self.prepared(position) for position in range(first, first + share)]
            consumed += BATCH

    def list_optimizers(self) -> dict[str, Optim]:
        return self.config.list_optimizers()

    def make_extra_models(self) -> dict[str, nn.Module]:
        return {}

    def plan_updates(self, micros: list[Batch], step: int) -> list[Update]:
        return [Update()]

    def after_step(self, step: int) -> None:
        pass

    def measure_usage(self, consumed: int) -> dict[str, tuple[int, float]]:
        return {}

    def count(self, prepared: list[TokenSequence]) -> Terms:
        return {}

    def prepared(self, position: int) -> TokenSequence:
        generator = torch.Generator().manual_seed(position)
        media = (
            []
            if position // BATCH % 2 and position % BATCH >= BATCH // 2
            else [("film",), ("volume",), ("film", "volume")][position % 3]
        )
        made = document(generator, media, 3 + position % 4, [(3 + position % 5, 1), (4, 0)])
        return TokenSequence(f"sample-{position}", made.prefix, made.branches, made.media)

    def make_micros(self, prepared: list[TokenSequence], count: int) -> list[Batch]:
        return [batch_of(part) for part in split_evenly(prepared, count)]

    def weigh(self, micro: Batch) -> dict[str, float]:
        return {LOSS: len(micro.targets_L)}

    def compute_loss(self, model: nn.Module, micro: Batch, step: int) -> Measured:
        return {LOSS: Loss(self.losses(model, micro).sum(), len(micro.targets_L))}

    def losses(self, model: nn.Module, micro: Batch) -> torch.Tensor:
        """The loss of each token."""
        losses_L: torch.Tensor = model(micro.to(self.engine.device), read_losses)["losses_L"]
        return losses_L

    def validate(self, model: nn.Module, samples: int) -> Terms:
        """Each rank generates another number of answers, of another length."""
        rank = self.engine.rank
        prompts = batch_of([self.prepared(PROMPTS + i) for i in range(2 + rank)], pack=False)
        with evaluating(self.model), self.engine.gather_weights(self.model):
            self.said.append(
                generate(self.model, prompts.to(self.engine.device), max_new_tokens=3 + 2 * rank, end_ids=[])
            )
        return {LOSS: Term(1.0, 1.0)}

    def set_modes(self) -> None:
        set_modes(self.model)
        self.model.runs_all = self.engine.runs_all
        use_attention(self.model, self.engine.config, self.engine.device)

    def matches(self, parameter: str, pattern: str) -> bool:
        return matches(parameter, pattern)

    def group_of(self, parameter: str) -> str:
        return group_of(parameter)


class Averaged(Answering):
    """One optimizer for the connectors, which learn from tokens and from answers alike, and one for the adapters, which
    learn from answers alone; an average of the weights beside the model, and a buffer that the stage itself moves.

    Micro-batches and ranks have different shares of the two weights. In float64: in float32, AdamW makes a whole step
    of a gradient that is rounding alone.
    """

    own_updates = ("steps_done",)

    def __init__(self, config: StageConfig, engine: Engine):
        super().__init__(config, engine)
        self.unchanged = {}  # in float64, nothing is as published
        self.model.double().register_buffer("steps_done", torch.zeros(()))

    def list_optimizers(self) -> dict[str, Optim]:
        own = OptimOf(of=("lora",), lr=3e-3, schedule="linear", warmup=0.5, max_norm=0.1)
        return {"": self.config.optim, "adapters": own}

    def make_extra_models(self) -> dict[str, nn.Module]:
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        return {"average": self.average}

    def plan_updates(self, micros: list[Batch], step: int) -> list[Update]:
        return [Update(), Update("adapters", self.answer_loss)]

    def weigh(self, micro: Batch) -> dict[str, float]:
        return {"tokens": len(micro.targets_L), "answers": len(micro.answers_L.unique())}

    def compute_loss(self, model: nn.Module, micro: Batch, step: int) -> Measured:
        losses_L = self.losses(model, micro)
        weights = self.weigh(micro)
        answers = (step + 1) * answer_losses(losses_L, micro.answers_L).sum()
        return {"tokens": Loss(losses_L.sum(), weights["tokens"]), "answers": Loss(answers, weights["answers"])}

    def answer_loss(self, model: nn.Module, micro: Batch, step: int) -> Measured:
        found = answer_losses(self.losses(model, micro), micro.answers_L).sum()
        return {"answers": Loss(found, self.weigh(micro)["answers"])}

    def after_step(self, step: int) -> None:
        for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 0.25)
        self.model.steps_done += 1


def run(folder: Path, engine: Engine, **settings: Any) -> dict[str, Any]:
    """Trains from what is in the folder to the end."""
    of = settings.pop("of", Answering)
    config = StageConfig(
        **{  # type: ignore[arg-type]
            "kind": "answering",
            "name": "answer",
            "mix": {"x": 1.0},
            "trains": ("connectors", "lora"),
            "steps": STEPS,
            "batch": BATCH,
            "accumulate": 4 // engine.world,
            "optim": Optim(lr=LR, max_norm=NORM, warmup=0),
            "validate": Validate(every=2),
            "save_every": 2,
            **settings,
        }
    )
    stage, log = of(config, engine), Log(folder / "metrics.jsonl", engine.is_first, [])
    watch = Watch(folder / "ranks", engine.rank, engine.world, 0.0)
    engine.place(stage.model, stage.matches, stage.make_extra_models())
    place = loop.Place(folder / "answer", log, watch)
    fresh = loop.State("same", meta={"stage": "answer", "published": stage.unchanged})
    state, proof = loop.run(stage, config, engine, place, fresh)
    proof.check_frozen()
    records = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] if engine.is_first else []
    )
    steps = [r for r in records if "loss" in r]
    found = {
        "loss": [r["loss"] for r in steps],
        "norm": [r["grad_norm"] for r in steps],
        "terms": [r["terms"] for r in steps],
        "said": stage.said,
        "micros": state.accumulate,
        "weights": checkpoint.read_weights(folder / "answer" / f"step-{STEPS}"),
        "average": checkpoint.read_weights(folder / "answer" / f"step-{STEPS}", "average"),
        "stored": sorted(TensorReader(folder / "answer" / f"step-{STEPS}" / "tensors").stored),
    }
    moments = [
        moment
        for optimizer in engine.optimizers.values()
        for state in optimizer.state.values()
        for moment in state.values()
        if isinstance(moment, torch.Tensor)
    ]
    models = (stage.model, *engine.extra_models.values())
    tensors = [weakref.ref(tensor) for tensor in (*(p for model in models for p in model.parameters()), *moments)]
    found["held"] = alive(tensors)
    del stage, proof, state, moments, models
    engine.release()
    return {**found, "left": alive(tensors)}


def alive(tensors: list[weakref.ref[torch.Tensor]]) -> int:
    """The total number of elements of the tensors that are still alive."""
    return sum(tensor.numel() for ref in tensors if (tensor := ref()) is not None)


def again(folder: Path, other: Path, engine: Engine, **settings: Any) -> dict[str, Any]:
    """Resumes in another folder from step 2 of the first."""
    if engine.is_first:
        shutil.copytree(folder, other)
        shutil.rmtree(other / "answer" / f"step-{STEPS}")
    engine.barrier()
    return run(other, engine, **settings)


def without_clipping_said(monkey: Any) -> None:
    settings = engine_zero.Zero._make_settings
    monkey._make_settings = lambda: {k: v for k, v in settings(monkey).items() if k != "gradient_clipping"}


def weigh_own_labels(stage: Any, micros: list[Any], engine: Engine) -> dict[str, float]:
    """Each rank weighs by its own labels, and means are averaged over ranks, as in code that does not sum weights over
    ranks."""
    return {LOSS: sum(stage.weigh(m)[LOSS] for m in micros) * engine.world}


class Quantized(Answering):
    """The layers of the language model have 4 bits, except its head."""

    def build(self) -> VLM:
        from bitsandbytes.nn import Linear4bit, Params4bit

        model = vlm()
        head = model.language.get_output_embeddings()  # type: ignore[operator]
        for name, module in list(model.language.named_modules()):
            if type(module) is nn.Linear and module is not head:
                packed = Linear4bit(module.in_features, module.out_features, bias=False, quant_type="nf4")
                weight = Params4bit(module.weight.data, requires_grad=False, quant_type="nf4", module=packed)
                packed.weight, packed.bias = weight.to("cpu"), module.bias
                parent, _, last = name.rpartition(".")
                setattr(model.language.get_submodule(parent), last, packed)
        settle(model.language)
        return model


class Deferred(Answering):
    """The weights of the language model are read when it is sharded."""

    def build(self) -> VLM:
        model = vlm()
        for parameter in model.language.parameters():
            other = nn.Parameter(torch.empty_like(parameter, device="meta"))
            swap_tensors(parameter, other)
            defer(parameter, Held(other.detach()))
        return model


class Encoded(Answering):
    """Its language model has an encoder and a decoder. Its adapters are small, because T5 does not scale the scores of
    its attention: large ones would make each rounding error grow from step to step."""

    def __init__(self, config: StageConfig, engine: Engine):
        super().__init__(config, engine)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if ".lora_B" in name:
                    parameter.mul_(0.02)

    def build(self) -> VLM:
        return vlm("t5")

    def make_micros(self, prepared: list[TokenSequence], count: int) -> list[Batch]:
        return [encoded_batch_of(part) for part in split_evenly(prepared, count)]


class Narrow(Answering):
    """The second rank has no memory for more than two samples at a time."""

    def compute_loss(self, model: nn.Module, micro: Batch, step: int) -> Measured:
        loss = super().compute_loss(model, micro, step)
        if self.engine.rank == self.engine.world - 1 and len(micro.answers_L.unique()) > 4:
            raise torch.OutOfMemoryError("as a GPU would say")
        return loss


class Blind(Answering):
    """Every rank behaves like the only one."""

    def read_batches(self, consumed: int) -> Iterator[tuple[int, list[TokenSequence]]]:
        for position, _ in super().read_batches(consumed):
            yield position, [self.prepared(position + i) for i in range(BATCH // self.engine.world)]


ENGINES: dict[str, dict[str, Any]] = {
    "recompute": {"recompute": ("language", "encoders")},
    "flex": {"attention": "flex", "recompute": ("language",)},
    "bf16": {"precision": "bf16-mixed"},
    "offload": {"offload": True},
    "dealt": {"deal_media": True},
}
STAGES: dict[str, dict[str, Any]] = {
    "muon": {"optim": Optim(kind="muon", lr=1e-2, warmup=0), "trains": ("connectors",)},
    "auto": {"accumulate": "auto", "of": Narrow},
    "blind": {"of": Blind, "steps": 8},
    "averaged": {"of": Averaged},
    "head": {"trains": ("connectors", "language")},
    "quantized": {"of": Quantized},
    "read": {"of": Deferred},
    "encoded": {"of": Encoded},
}


def case(folder: Path, name: str) -> dict[str, Any]:
    """KIND, and one word: `again` goes on from step 2 of KIND, another kind from step 2 of that one, the others are
    settings or faults."""
    kind, word, *more = (*name.split(), "")
    # Five labels at a time, so ranks have different numbers of chunks. In float64, where results agree to 1e-9, all at
    # once: the order in which a gradient is scaled and rounded to float32 differs.
    head.CHUNK_BYTES = WHOLE_HEAD if word == "averaged" else 4 * VOCABULARY * 5
    engine = make_engine(EngineConfig(kind=kind, device="cpu", **ENGINES.get(word, {})))  # type: ignore[arg-type]
    if word == "again" or (folder / word / "answer").exists():
        return again(folder / (kind if word == "again" else word), folder / name, engine)
    if "again" in more:
        return again(folder / f"{kind} {word}", folder / name, engine, **STAGES[word])
    if word == "clips":
        without_clipping_said(engine)
    own = loop.sum_weights
    loop.sum_weights = weigh_own_labels if word == "own" else own  # type: ignore[assignment]
    try:
        return run(folder / name, engine, **STAGES.get(word, {}))
    except (DataError, RecipeError) as refused:
        return {"refused": str(refused)}
    finally:
        loop.sum_weights = own


def main(folder: Path, names: list[str]) -> None:
    found: dict[str, Any] = {}
    for name in names:
        began = time.monotonic()
        found[name] = case(folder, name)
        print(name, round(time.monotonic() - began, 1), flush=True)
    torch.save(found, folder / f"rank-{os.environ.get('RANK', 0)}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
