"""Compares the memory that `medvlm plan` predicts with that of a real training step. Prints one JSON line.

    python benchmarks/plan_memory.py [--only dual adapters recomputed full] [--steps 4]

Four recipes with random weights on generated films: a dual encoder, a composed model with adapters, and a composed
model that is trained in full, with and without recomputed layers. Each is planned, then trained for a few steps by the
real stage and engine. `ratio` is planned over measured memory (torch.cuda.max_memory_allocated); the aim is 0.85 to
1.15. `parts` compares single figures in GiB, to find a wrong one: weights, memory held when the backward pass begins,
gradients, optimiser, and the peak of each section. On a CPU the models are tiny, and it only checks that this runs."""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from medvlm.commands import train as training
from medvlm.core.config import component
from medvlm.core.run import RunFolder
from medvlm.models import lora
from medvlm.models.parts import group_of, matches, set_trained
from medvlm.preflight import memory as bytes_of
from medvlm.preflight.draft import make_draft
from medvlm.preflight.plan import plan
from medvlm.preflight.precision import convert_weights
from medvlm.preflight.rehearsal.shrink import shrink_config
from medvlm.preflight.samples import look
from medvlm.preflight.simulate import Step, simulate
from medvlm.preflight.staging import build_stage
from medvlm.recipe.known import look_up_model
from medvlm.recipe.load import LoadedRecipe, load
from medvlm.recipe.sources import open_sources
from medvlm.train.engines import make_engine
from medvlm.train.optim import make_optimizer
from medvlm.train.terms import share_of_loss, sum_of_losses

GIB = 1 << 30
CARD = {
    "name": "films",
    "title": "Generated films",
    "summary": "For measuring.",
    "licence": {"id": "CC0-1.0", "commercial": True},
    "access": "generated",
    "phi": {"status": "synthetic"},
    "patient_key": "patient",
    "media": ["film"],
    "reader": {"kind": "phantom", "films": 96, "film_px": 128},
}
TEXT = {
    "kind": "transformers",
    "config": look_up_model("microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract").config,
    "max_tokens": 512,
}


def make_tower(model: str) -> dict[str, Any]:
    found = look_up_model(model)
    return {
        "kind": "transformers",
        "config": found.vision,
        "preprocess": {"size": [found.vision["image_size"]] * 2},
        "connector": {"kind": "mlp"},
    }


def make_language(model: str) -> dict[str, Any]:
    return {"kind": "causal", "config": look_up_model(model).text}


SUPERVISED = {
    "name": "stage",
    "kind": "supervised",
    "mix": {"films": 1},
    "tasks": ["choice", "count"],
    "questions": 6,
    "steps": 8,
    "optim": {"lr": 1.0e-5},
}
RECIPES: dict[str, dict[str, Any]] = {
    "dual": {
        "model": {"encoders": {"film": {**make_tower("google/siglip-so400m-patch14-384"), "connector": None}}},
        "engine": {"precision": "bf16-mixed"},
        "stages": [
            {
                "name": "stage",
                "kind": "contrastive",
                "mix": {"films": 1},
                "trains": ["encoders", "text", "heads"],
                "text": TEXT,
                "loss": {"kind": "siglip"},
                "width": 512,
                "steps": 8,
                "batch": 24,
                "optim": {"lr": 1.0e-5},
            }
        ],
    },
    "adapters": {
        "model": {
            "encoders": {"film": make_tower("google/siglip-so400m-patch14-384")},
            "language": make_language("Qwen/Qwen3-4B-Instruct-2507"),
        },
        "engine": {"precision": "bf16-true"},
        "stages": [{**SUPERVISED, "trains": ["connectors", "lora"], "lora": {"rank": 16, "alpha": 32}, "batch": 8}],
    },
    "recomputed": {
        "model": {
            "encoders": {"film": make_tower("google/siglip-base-patch16-224")},
            "language": make_language("Qwen/Qwen2.5-1.5B-Instruct"),
        },
        "engine": {"precision": "bf16-mixed", "recompute": ["language", "encoders"]},
        "stages": [{**SUPERVISED, "trains": ["encoders", "connectors", "language"], "batch": 32}],
    },
    "full": {
        "model": {
            "encoders": {"film": make_tower("google/siglip-base-patch16-224")},
            "language": make_language("Qwen/Qwen2.5-1.5B-Instruct"),
        },
        "engine": {"precision": "bf16-mixed"},
        "stages": [{**SUPERVISED, "trains": ["encoders", "connectors", "language"], "batch": 16}],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    results = {}
    for name in args.only:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            results[name] = {
                **compare(write_recipe(name, Path(folder), on_gpu), Path(folder) / "runs", args.steps, on_gpu),
                "seconds": round(time.monotonic() - began, 1),
            }
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    print(json.dumps({"benchmark": "plan_memory", "device": device, "torch": torch.__version__, "recipes": results}))


def write_recipe(name: str, folder: Path, on_gpu: bool) -> Path:
    content = {
        "name": name,
        "seed": 7,
        "data": {"films": {"card": "card.yaml"}},
        **json.loads(json.dumps(RECIPES[name])),
    }
    content["engine"] |= {"kind": "single", "device": "cuda" if on_gpu else "cpu", "workers": 2}
    if not on_gpu:
        shrink(content)
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def shrink(content: dict[str, Any]) -> None:
    film = content["model"]["encoders"]["film"]
    film["config"] = shrink_config(film["config"])
    film["preprocess"]["size"] = [film["config"]["image_size"]] * 2
    parts = [content["model"].get("language"), content["stages"][0].get("text")]
    for part in filter(None, parts):
        part["config"] = shrink_config(part["config"])
    content["stages"][0]["batch"] = 4


def compare(path: Path, runs: Path, steps: int, on_gpu: bool) -> dict[str, Any]:
    loaded = load(path)
    foretold = plan(loaded, runs, None).stages[0]
    total = foretold.memory[foretold.chosen]["total"]
    measured, micro = train_and_measure(loaded, runs, steps, on_gpu)
    step, weights = simulate_micro(loaded, runs, micro)
    peak = measured.get("peak")
    again = loaded.recipe.engine.recompute
    return {
        "planned_gib": total,
        "measured_gib": peak,
        "ratio": round(total / peak, 3) if peak else "not checked",
        "parts": {
            "planned": {
                "weights": to_gib(weights.trained_bytes + weights.frozen_bytes),
                **({} if again else list_parts(step)),
            },
            "measured": measured,
        },
        "table": foretold.memory[foretold.chosen],
    }


def list_parts(step: Step) -> dict[str, Any]:
    """Planned figures for exactly the micro-batch that was trained."""
    held = {part: to_gib(size) for part, size in step.held.items() if part != "optimiser"}
    made = {
        "held": round(sum(held.values()), 3),
        "held_by_part": held,
        "optimiser": to_gib(step.held["optimiser"]),
        "gradients": to_gib(step.sections["step"]["gradients"]),
    }
    return {**made, "sections": {name: to_gib(sum(parts.values())) for name, parts in step.sections.items()}}


def simulate_micro(loaded: LoadedRecipe, runs: Path, micro: Any) -> tuple[Step, bytes_of.Weights]:
    with tempfile.TemporaryDirectory() as folder:
        draft = make_draft(loaded.recipe, look(loaded, runs), Path(folder))
        stage = build_stage(draft, 0, 1)
    recipe, config = draft.recipe, draft.recipe.stages[0]
    convert_weights(stage.model, recipe.engine.precision)
    blank = {name: torch.empty(pixels.shape, device="meta") for name, pixels in micro.media.items()}
    given = type(micro)(**{**vars(micro), "media": blank})
    step = simulate(
        stage.model,
        lambda m: sum_of_losses(stage.compute_loss(m, given, 0)),
        lambda: [make_optimizer(stage.model, config.optim, matches, config.name)],
        group_of,
        recipe.engine.precision,
    )
    return step, bytes_of.weights_of(stage.model)


def train_and_measure(loaded: LoadedRecipe, runs: Path, steps: int, on_gpu: bool) -> tuple[dict[str, Any], Any]:
    """GiB on the GPU at each point of the last step, and its largest micro-batch. Weights are made on the GPU, because
    that takes minutes on a CPU."""
    recipe, config = loaded.recipe, loaded.recipe.stages[0]
    gc.collect()  # objects of the previous recipe that reference each other would count here
    engine = make_engine(recipe.engine)
    run = RunFolder(runs / recipe.name)
    run.root.mkdir(parents=True, exist_ok=True)
    sources = open_sources(loaded, runs, say=lambda _: None)
    assemblies = training._assemble_all(loaded, run, engine, sources)
    setup = training._make_setup(config, assemblies, loaded, run, engine, sources)
    before = count_allocated(on_gpu)
    with engine.device:
        stage = component("stages", config.kind).build(config, setup)
        if config.lora:
            lora.attach(stage.model, config.lora, recipe.seed)
    set_trained(stage.model, config.trains, config.name)
    engine.place(stage.model, matches)
    stage.set_modes()
    figures: dict[str, Any] = {"weights": to_gib(count_allocated(on_gpu) - before)}
    optimizer = make_optimizer(stage.model, config.optim, matches, config.name, engine.steps_on)
    model = engine.setup(stage.model, {"": optimizer})
    batches, largest, longest = stage.read_batches(0), None, 0
    for number in range(steps):
        (micro,) = stage.make_micros(next(batches)[1], 1)
        tokens = getattr(micro, "ids_BT", torch.empty(0)).numel()
        if tokens > longest:
            largest, longest = micro, tokens
        start = count_allocated(on_gpu)
        read_peak(on_gpu)
        loss = share_of_loss(stage.compute_loss(model, micro, number), stage.weigh(micro))
        figures["held"] = to_gib(count_allocated(on_gpu) - start)
        figures["peak_forward"] = to_gib(read_peak(on_gpu))
        engine.backward(loss)
        del loss
        figures["gradients"] = to_gib(count_allocated(on_gpu) - start)
        figures["peak_backward"] = to_gib(read_peak(on_gpu))
        engine.clip(config.optim.max_norm)
        engine.step()
        figures["peak_step"] = to_gib(read_peak(on_gpu))
        if number:  # the first step creates the optimiser's states
            figures["peak"] = max(
                figures.get("peak", 0.0), *(figures[f"peak_{section}"] for section in ("forward", "backward", "step"))
            )
        else:
            figures["optimiser"] = to_gib(count_allocated(on_gpu) - start)
    batches.close()  # type: ignore[attr-defined]
    del model, stage, optimizer, engine, setup
    if on_gpu:
        torch.cuda.empty_cache()
    return figures if on_gpu else {"peak": None}, largest


def count_allocated(on_gpu: bool) -> int:
    return torch.cuda.memory_allocated() if on_gpu else 0


def read_peak(on_gpu: bool) -> int:
    """Peak of allocated bytes since the last call."""
    found = torch.cuda.max_memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    return found


def to_gib(size: float) -> float:
    return round(size / GIB, 3)


if __name__ == "__main__":
    main()
