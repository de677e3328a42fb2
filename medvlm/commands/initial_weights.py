"""Loads the weights and adapters that a stage starts from: of earlier stages, other runs, folders or hub ids."""

from __future__ import annotations

from typing import Any

from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.core.stage_config import Lora, StageConfig
from medvlm.models import lora
from medvlm.models.parts import module_of
from medvlm.models.restore import load_weights, modules_of
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.origins import FilesOrigin, Origin, StageOrigin, name_outside

Origins = dict[str, list[Origin]]
"""Module ("" = all others) -> where to look for its weights, in this order."""


def find_origins(config: StageConfig, i: int, loaded: LoadedRecipe, run: RunFolder) -> Origins:
    """The origin that `from` names, then the stages before it; by default all earlier stages, latest first.

    Raises CheckpointError for an origin that is missing or not finished.
    """
    names = [s.name for s in loaded.recipe.stages[:i]]

    def chain(start: str, module: str = "") -> list[Origin]:
        if start in names:
            return [StageOrigin(run, name) for name in names[names.index(start) :: -1]]
        origin = name_outside(start, module)
        assert origin is not None, f"{start}: the rules of recipes should have refused it"
        if problem := origin.find_problem():
            raise CheckpointError(f"stages.{config.name}.from: {problem}")
        return [origin, *(origin.list_stages_before() if isinstance(origin, StageOrigin) else [])]

    given = config.from_
    before: list[Origin] = [StageOrigin(run, name) for name in reversed(names)]
    origins = {"": chain(given) if isinstance(given, str) and given else before}
    if isinstance(given, dict):
        origins |= {module: chain(start, module) for module, start in given.items()}
    for origin in (origin for chain_ in origins.values() for origin in chain_):
        if isinstance(origin, StageOrigin) and not origin.run.is_finished(origin.stage):
            raise CheckpointError(
                f"stage {config.name} starts from {origin.stage}, which is not finished; train that stage first (medvlm"
                " train without --stage trains all)"
            )
    return origins


def put_start(model: Any, config: StageConfig, origins: Origins, seed: int) -> tuple[dict[str, str], Lora | None]:
    """Loads the starting weights into the model and attaches adapters. Returns module -> its origin for lineage, and
    the adapters that the model has now.

    Raises CheckpointError for weights that do not fit, and if an origin in `from` has no weights of its module.
    """
    started: dict[str, str] = {}
    adapters: Lora | None = None
    for origin, modules in _plan(model, config, origins):
        weights, saved = origin.load(model, modules)
        if saved and adapters and saved != adapters:
            raise RecipeError(
                f"stages.{config.name}.from: modules come from stages with different adapters; start from one of them"
            )
        described = origin.describe()
        load_weights(model, weights, saved if saved and not adapters else None, described.partition("@")[0], modules)
        adapters = adapters or saved
        started |= dict.fromkeys(modules, described)
    if config.lora and config.lora != adapters:
        if adapters:
            lora.merge(model)
        lora.attach(model, config.lora, seed)
        adapters = config.lora
    return started, adapters


def _plan(model: Any, config: StageConfig, origins: Origins) -> list[tuple[Origin, set[str]]]:
    """Which modules to load from which origin. Files come first, because attaching adapters renames the tensors of
    their modules."""
    own: dict[str, list[str]] = {}
    for name in model.state_dict():
        own.setdefault(module_of(name), []).append(name.removeprefix(f"{module_of(name)}."))
    plan: list[tuple[Origin, set[str]]] = []
    for module in sorted(modules_of([n for n, _ in model.named_parameters()])):
        chain = origins.get(module) or origins.get(module.partition(".")[0]) or origins[""]
        found = next((origin for origin in chain if origin.holds(module, own[module])), None)
        if found is None:
            continue
        modules = next((modules for origin, modules in plan if origin == found), None)
        if modules is None:
            plan.append((found, {module}))
        else:
            modules.add(module)
    used = [origin for origin, _ in plan]
    for module, chain in origins.items():
        is_outside = bool(chain) and not (isinstance(chain[0], StageOrigin) and not chain[0].is_other)
        if is_outside and not any(origin in used for origin in chain):
            key = f"stages.{config.name}.from{f'.{module}' if module else ''}"
            what = module or f"this model ({', '.join(sorted(own))})"
            raise CheckpointError(f"{key}: {chain[0].describe()} has no weights of {what}")
    return sorted(plan, key=lambda step: not isinstance(step[0], FilesOrigin))
