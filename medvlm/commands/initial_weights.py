"""What a stage starts from: the weights and adapters of earlier stages, and the identity that follows from them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.core.stage_config import Lora, StageConfig
from medvlm.models import lora
from medvlm.models.parts import module_of
from medvlm.models.restore import modules_of, put
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.sources import OpenSource
from medvlm.train import checkpoint


def put_start(
    model: Any, config: StageConfig, origins: dict[str, list[str]], run: RunFolder, seed: int
) -> tuple[dict[str, str], Lora | None]:
    """Puts the weights of earlier stages in, and the adapters on. Returns module -> `STAGE/step-N@hash` and the
    adapters there are now."""
    started: dict[str, str] = {}
    adapters: Lora | None = None
    wanted = modules_of([n for n, _ in model.named_parameters()])
    plan: dict[str, set[str]] = {}
    held = {name: _held(run, name) for name in dict.fromkeys(s for chain in origins.values() for s in chain)}
    for module in sorted(wanted):
        chain = origins.get(module) or origins.get(module.partition(".")[0]) or origins[""]
        if found := next((name for name in chain if module in held[name][0]), None):
            plan.setdefault(found, set()).add(module)
    for name, modules in plan.items():
        folder = checkpoint.find_final(run.stage(name))
        weights = checkpoint.read_weights(folder)
        # A tower taken from a stage whose adapters sit in the language model has none to bring along.
        saved = held[name][1] if any(".lora_" in n and module_of(n) in modules for n in weights) else None
        if saved and adapters and saved != adapters:
            raise RecipeError(
                f"stages.{config.name}.from: modules come from stages with different adapters; start from one of them"
            )
        put(model, weights, saved if saved and not adapters else None, f"{name}/{folder.name}", modules)
        adapters = adapters or saved
        started |= {module: f"{name}/{folder.name}@{checkpoint.digest(folder)}" for module in modules}
    if config.lora and config.lora != adapters:
        if adapters:
            lora.merge(model)
        lora.attach(model, config.lora, seed)
        adapters = config.lora
    return started, adapters


def _held(run: RunFolder, stage: str) -> tuple[set[str], Lora | None]:
    """The modules that a finished stage's checkpoint holds, and the adapters in them."""
    record = json.loads((run.stage(stage) / "stage.json").read_text())
    saved = checkpoint.read_state(checkpoint.find_final(run.stage(stage)))["meta"]["adapters"]
    return set(record["parameters"]), Lora(**saved) if saved else None


def origins_of(config: StageConfig, i: int, loaded: LoadedRecipe, run: RunFolder) -> dict[str, list[str]]:
    """Module ("" = all others) -> the stages to look for its weights in, latest first: where `from` points, then what
    that came from."""
    names = [s.name for s in loaded.recipe.stages[:i]]

    def chain(start: str) -> list[str]:
        return names[: names.index(start) + 1][::-1]

    given = config.from_
    origins = {"": chain(given) if isinstance(given, str) and given else names[::-1]}
    if isinstance(given, dict):
        origins |= {module: chain(start) for module, start in given.items()}
    unfinished = [
        n for n in dict.fromkeys(n for c in origins.values() for n in c) if not (run.stage(n) / "stage.json").exists()
    ]
    if unfinished:
        raise CheckpointError(
            f"stage {config.name} starts from {unfinished[0]}, which is not finished; train that first (medvlm train"
            " without --stage trains all)"
        )
    return origins


def identity_of(
    config: StageConfig,
    loaded: LoadedRecipe,
    sources: dict[str, OpenSource],
    run: RunFolder,
    origins: dict[str, list[str]],
) -> str:
    """What decides a stage's result: its settings, the model, its data, where it starts, the seed, the precision."""
    first = {chain[0] for chain in origins.values() if chain}
    starts = {name: json.loads((run.stage(name) / "stage.json").read_text())["checkpoint"] for name in first}
    decides = {
        "stage": config.model_dump(
            mode="json", by_alias=True, exclude={"save_every", "keep_last", "keep_every", "on_nan"}
        ),
        "model": loaded.recipe.model.model_dump(mode="json", by_alias=True),
        "seed": loaded.recipe.seed,
        "sources": {name: _source_identity(loaded, sources[name]) for name in config.mix},
        "starts": starts,
        "precision": loaded.recipe.engine.precision,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _source_identity(loaded: LoadedRecipe, source: OpenSource) -> list[Any]:
    settings = loaded.recipe.data[source.name]
    return [
        source.shards.fingerprint,
        source.fold,
        *(part and part.model_dump(mode="json") for part in (settings.augment, settings.order, settings.hold_out)),
    ]
