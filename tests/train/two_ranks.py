"""two_ranks.py FOLDER: what tests/train/test_ranks.py compares with one process. Started by run_ranks; each rank writes
FOLDER/rank-R.pt."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from medvlm.core.run import RunFolder
from medvlm.core.stage_config import Optim
from medvlm.train import checkpoint, loop
from medvlm.train.accumulate import accumulate, sum_weights
from medvlm.train.optim import make_optimizer
from medvlm.train.stopping import Preempted
from medvlm.train.terms import report
from tests.tiny_run import SMALL, staged, trained, weights

EARNS = (
    "plugins=[medvlm]",
    "stages.2.rewards={medvlm.preflight.rehearsal.fake_reward: 1, format: 1}",
    "stages.2.lora={rank: 2}",
)
"""A model that knows nothing is seldom right."""
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Each rank draws its own dropout, so they equal one process only without it."""
TERMS: dict[str, Any] = {
    "local": {"kind": "word_regions", "width": 8},
    "concepts": {
        "kind": "patch_concepts", "width": 8,
        "dictionary": {"version": "1", "entries": {"nodule": ["cavity", "band"], "clear": ["clips", "zone"]}},
    },
    "written": {"kind": "captioning", "width": 8, "heads": 2, "layers": 1, "dropout": 0.0},
}  # fmt: skip
JOINT = (
    f"stages.0.terms={json.dumps(TERMS)}", "stages.0.trains=[encoders, text, heads, terms]", "stages.0.weight=0.5"
)  # fmt: skip
FUSED = {
    "kind": "fusion", "width": 8, "layers": 2, "heads": 2, "painted_from": 1, "decoder_width": 8, "decoder_layers": 1,
    "dropout": 0.0, "dictionary": TERMS["concepts"]["dictionary"],
}  # fmt: skip
VIT = {
    "kind": "transformers", "connector": {"kind": "mlp"},
    "config": {"model_type": "vit", **SMALL, **STILL, "num_hidden_layers": 1, "image_size": 32, "patch_size": 16},
}  # fmt: skip
FUSION = (
    f"stages.0.terms={json.dumps({'fused': FUSED})}", f"model.encoders.film={json.dumps(VIT)}", JOINT[1],
    "export.target=custom",
)  # fmt: skip
"""With an encoder that can leave out patches."""
ALIGN = {**TERMS["concepts"], "dictionary": {"version": "1", "entries": {"none": ["focal finding"]}}}
STUDIES = (
    "data.studies.card=studies/card.yaml", "data.studies.root=HERE/studies", "stages.0.mix={studies: 1}",
    "stages.0.loss={kind: clip}",
)  # fmt: skip
"""Studies of one to three films, with boxes of regions and labels (tests/studies.py). HERE: the recipe's folder."""
VIEWS = (*STUDIES, "stages.0.views=2")
ANATOMY: dict[str, Any] = {
    "kind": "anatomy", "width": 8, "layers": 1, "heads": 2, "most": 2, "dropout": 0.0, "opposed": 0.5, "of": "findings",
    "regions": {
        "version": "1", "entries": {"cardiac silhouette": ["heart"], "left lung": ["left"], "right lung": ["right"]}
    },
    "findings": {"version": "1", "entries": {"cardiomegaly": ["a large heart"], "pleural effusion": ["fluid"]}},
}  # fmt: skip
ASKED: dict[str, Any] = {
    "asked": {"kind": "query_decoder", "of": "findings", "width": 8, "heads": 2, "layers": 1, "dropout": 0.0,
              "dictionary": ANATOMY["findings"]},
    "traits": {"kind": "decoded", "losses": ["binary_cross_entropy"], "decoder": {
        "kind": "linear", "classes": list(ANATOMY["findings"]["entries"]), "exclusive": False, "answers": "findings"
    }},
}  # fmt: skip
REGIONS = (*STUDIES, f"stages.0.terms={json.dumps({'anatomy': ANATOMY, **ASKED})}", JOINT[1])
RARE = (f"stages.0.terms={json.dumps({'concepts': ALIGN})}", JOINT[1])
"""Of the first eight reports, only the fourth names the entry."""
NEVER = {**ALIGN, "dictionary": {"version": "1", "entries": {"unicorn": ["horn"]}}}
WAITS = (f"stages.0.terms={json.dumps({'concepts': NEVER})}", JOINT[1], "stages.0.steps=3")
RING, TWO = "stages.0.exchange=ring", "stages.0.accumulate=2"
TOOLS = (
    "plugins=[medvlm, tests]", EARNS[1], EARNS[2], "environment={turns: 2, tools: [zoom]}",
    "stages.2.rollouts={kind: tests.stages.calling}",
)  # fmt: skip
"""Answers that call a tool, which shows another image; some calls are refused."""
CASES = {
    "clip": ("pair", "stages.0.loss={kind: clip}"), "siglip": ("pair", "stages.0.loss={kind: siglip}"),
    "clip, ring": ("pair", "stages.0.loss={kind: clip}", RING), "siglip, ring": ("pair", RING),
    "clip, 2 micro-batches": ("pair", "stages.0.loss={kind: clip}", TWO), "siglip, both": ("pair", RING, TWO),
    "fusion": ("pair", *FUSION), "fusion, 2 micro-batches": ("pair", *FUSION, TWO),
    "joint, for one rank": ("pair", *RARE), "joint, for no rank": ("pair", *WAITS), "joint": ("pair", *JOINT),
    "joint, both": ("pair", *JOINT, RING, TWO),
    "views": ("pair", *VIEWS),
    "anatomy": ("pair", *REGIONS), "anatomy, 2 micro-batches": ("pair", *REGIONS, TWO),
    **{f"supervised, {n} micro-batches": ("instruct", f"stages.1.accumulate={n}") for n in (1, 2, 4)},
    "grpo, gdpo": ("reason", "stages.2.objective=gdpo", *EARNS),
    "grpo, gspo": ("reason", "stages.2.objective=gspo", *EARNS),
    "grpo, dapo": ("reason", "stages.2.objective=dapo", "stages.2.refill=1", *EARNS),
    **{f"grpo, {name}": ("reason", f"stages.2.objective={name}", *EARNS) for name in ("rloo", "dr_grpo")},
    "grpo, tools": ("reason", *TOOLS), "grpo, tools, 2 micro-batches": ("reason", *TOOLS, "stages.2.accumulate=2"),
    "preference": ("prefer", "stages.3.objective=simpo"), "preference, dpo": ("prefer", "stages.3.objective=dpo"),
    "distill": ("learn",), "preference_round": ("round",),
    "supervised, weights": ("instruct", "stages.1.loss_weights={sources: {films: 3}, tasks: {count: 0.25}}"),
}  # fmt: skip


def first_step(path: Path, runs: Path, name: str, *overrides: str) -> dict[str, Any]:
    """Loss, terms and gradients of a stage's first step, before any clipping, and the keys of this rank's samples."""
    stage = staged(path, runs, name, *(each.replace("HERE", str(path.parent)) for each in overrides))
    stage.make_extra_models()
    optimizer = make_optimizer(stage.model, Optim(), stage.matches, name)
    model = stage.engine.setup(stage.model, {"": optimizer})
    stage.begin()
    batches = stage.read_batches(0)
    _, prepared = next(batches)
    batches.close()
    micros = stage.make_micros(prepared, stage.config.accumulate)
    stage.plan_updates(micros, 0)
    weights = sum_weights(stage, micros, stage.engine)
    terms = accumulate(stage.compute_loss, model, micros, stage.engine, weights, 0)
    found = report(terms, weights, stage.engine)
    return {
        "keys": [item.key for item in prepared], "terms": {**found.losses, **found.terms},
        "weight": sum(sum(stage.weigh(micro).values()) for micro in micros),
        "gradients": {n: p.grad.clone() for n, p in stage.model.named_parameters() if p.grad is not None},
    }  # fmt: skip


def flip_newest(stage_folder: Path) -> None:
    newest = max(stage_folder.glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")))
    file = next(newest.glob("tensors/*.safetensors"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def train_again_after_damage(path: Path, runs: Path, rank: int) -> None:
    """The newest checkpoint of `instruct` is damaged, as if the run had been interrupted there."""
    run = RunFolder(runs / "two")
    torch.distributed.barrier()
    if rank == 0:
        flip_newest(run.stage("instruct"))
        (run.stage("instruct") / "stage.json").unlink()
    torch.distributed.barrier()
    if rank:
        checkpoint.find_newest_good = _never  # type: ignore[assignment]
    trained(path, runs, "name=two", only="instruct")


def _never(folder: Path) -> Path:
    raise AssertionError("two processes would set the same folder aside")


class Clock:
    """The clock of the loop, on which every look takes some seconds."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def monotonic(self) -> float:
        self.now += self.seconds
        return self.now


def train_until_one_rank_is_told_to_stop(path: Path, runs: Path, rank: int) -> str:
    """Only the second process gets the signal, in the middle of step 3 of `pair`. By the clock of the first one, the
    five minutes of `save_every` are over in step 2; that of the second one hardly moves."""
    set_rate, loop.time = loop.set_rate, Clock(0.001 if rank else 60)  # type: ignore[assignment]

    def told(optimizer: Any, config: Any, step: int, steps: int) -> float:
        if rank == 1 and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return set_rate(optimizer, config, step, steps)

    loop.set_rate = told  # type: ignore[assignment]
    try:
        trained(path, runs, "name=stopped", "stages.0.save_every=5 min", only="pair")
    except Preempted as stopped:
        return str(stopped)
    finally:
        loop.set_rate, loop.time = set_rate, time  # type: ignore[assignment]
    return "went on to the end"


def main(folder: Path) -> None:
    path, runs, rank = folder / "recipe.yaml", folder / "runs", int(os.environ["RANK"])
    steps = {case: first_step(path, runs, *arguments) for case, arguments in CASES.items()}
    trained(path, runs, "name=two")
    metrics, undisturbed = RunFolder(runs / "two").metrics.read_text(), weights(RunFolder(runs / "two"), "instruct")
    trained(path, runs, "name=waits", *WAITS, only="pair")
    train_again_after_damage(path, runs, rank)
    stopped = train_until_one_rank_is_told_to_stop(path, runs, rank)
    torch.save(
        {"steps": steps, "metrics": metrics, "instruct": undisturbed, "stopped": stopped}, folder / f"rank-{rank}.pt"
    )
    if rank == 0:
        (folder / "done.json").write_text(json.dumps(sorted(p.name for p in (runs / "two" / "instruct").iterdir())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
