"""Loads the weights and adapters that a stage starts from: of earlier stages, other runs, folders or hub ids."""

from __future__ import annotations

from typing import Any

import torch

from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.lora_config import Lora
from medvlm.core.run import MERGED, RunFolder
from medvlm.core.stage_config import Merge, StageConfig
from medvlm.models import lora
from medvlm.models.parts import module_of
from medvlm.models.restore import load_weights, modules_of
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.origins import FilesOrigin, Origin, StageOrigin, name_outside

Origins = dict[str, list[Origin]]
"""Module ("" = all others) -> where to look for its weights, in this order."""
Starts = list[tuple[float, Origins]]
"""The models that a stage starts from, with their shares, which sum to 1: one, or those that are merged."""


def find_starts(config: StageConfig, i: int, loaded: LoadedRecipe, run: RunFolder) -> Starts:
    """Where a stage finds the weights that `from` names. Raises CheckpointError for an origin that is missing or not
    finished."""
    if not isinstance(config.from_, Merge):
        return [(1.0, _find_origins(config, config.from_, i, loaded, run))]
    return [(share, _find_origins(config, name, i, loaded, run)) for name, share in config.from_.list_shares().items()]


def _find_origins(
    config: StageConfig, given: str | dict[str, str], i: int, loaded: LoadedRecipe, run: RunFolder
) -> Origins:
    """The origin that is given, then the stages before it; by default all earlier stages, latest first."""
    names = [s.name for s in loaded.recipe.stages[:i]]

    def chain(start: str, module: str = "") -> list[Origin]:
        if start in names:
            return [StageOrigin(run, name) for name in names[names.index(start) :: -1]]
        origin = name_outside(start, module)
        assert origin is not None, f"{start}: the rules of recipes should have refused it"
        if problem := origin.find_problem():
            raise CheckpointError(f"stages.{config.name}.from: {problem}")
        return [origin, *(origin.list_stages_before() if isinstance(origin, StageOrigin) else [])]

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


def put_start(model: Any, config: StageConfig, starts: Starts, seed: int) -> tuple[dict[str, str], Lora | None]:
    """Loads the starting weights into the model and attaches adapters. Returns module -> its origin for lineage, and
    the adapters that the model has now.

    Raises CheckpointError for weights that do not fit, and if an origin in `from` has no weights of its module.
    """
    if len(starts) == 1:
        started, adapters = _put(model, config, starts[0][1], config.find_adapter())
        kept = _find_kept(starts[0][1], config.find_adapter()) if not adapters or not adapters.name else None
        if kept is not None:
            started["lora"], adapters = _put_kept(model, kept, adapters)
    else:
        started, adapters = _put_merged(model, config, starts), None
    if config.lora and config.lora != adapters:
        if adapters:
            lora.merge(model)
        lora.attach(model, config.lora, seed)
        adapters = config.lora
    return started, adapters


def _put(model: Any, config: StageConfig, origins: Origins, name: str = "") -> tuple[dict[str, str], Lora | None]:
    """name: of the adapters that the stage trains. Those of other names are left out, and the base is as it was without
    them."""
    started: dict[str, str] = {}
    adapters: Lora | None = None
    for origin, modules in _plan(model, config, origins):
        start = origin.load(model, modules)
        saved, weights, published = start.adapters, start.weights, start.published
        if saved and saved.name and name not in ("", saved.name):
            saved, weights = None, lora.drop_adapters(weights)
            published = lora.drop_adapters(published, start.weights)
        if saved and adapters and saved != adapters:
            raise RecipeError(
                f"stages.{config.name}.from: modules come from stages with different adapters; start from one of them"
            )
        described = origin.describe()
        new, where = saved if saved and not adapters else None, described.partition("@")[0]
        load_weights(model, weights, new, where, modules, published)
        adapters = adapters or saved
        started |= dict.fromkeys(modules, described)
    return started, adapters


def _find_kept(origins: Origins, name: str) -> StageOrigin | None:
    """The last stage with the adapters of this name, other than that with the base."""
    stages = [origin for origin in origins[""] if isinstance(origin, StageOrigin)] if name else []
    return next((each for each in stages if (found := each.find_adapters()) and found.name == name), None)


def _put_kept(model: Any, origin: StageOrigin, adapters: Lora | None) -> tuple[str, Lora]:
    """Adds adapters that were kept apart. Returns where they are from, and their settings. adapters: unnamed ones,
    which are folded in."""
    saved, described = origin.find_adapters(), origin.describe()
    assert saved is not None, described
    if adapters:
        lora.merge(model)
    lora.attach(model, saved, seed=0)
    modules = {module_of(name) for name in model.state_dict() if ".lora_" in name}
    lora.put_in(model, origin.load(model, modules).weights, described.partition("@")[0])
    return described, saved


def _put_merged(model: Any, config: StageConfig, starts: Starts) -> dict[str, str]:
    """Loads the weighted sum of several models, with their adapters folded in. The sum is computed in float32, on the
    CPU: it takes three times the memory of the weights for that time.

    Raises CheckpointError if they do not have the same modules, or differ in what has no mean: whole numbers, and the
    statistics of batch normalization, which would have to be measured again."""
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    buffers = {name for name, _ in model.named_buffers()}
    total: dict[str, torch.Tensor] = {}
    shares: list[tuple[float, dict[str, str]]] = []
    moved: set[str] = set()
    for share, origins in starts:
        model.load_state_dict(fresh)
        started, adapters = _put(model, config, origins)
        if adapters:
            lora.merge(model)
        shares.append((share, started))
        if other := sorted(shares[0][1].keys() ^ started.keys()):
            names = " and ".join(sorted({text.partition("@")[0] for _, each in shares for text in each.values()}))
            raise CheckpointError(
                f"stages.{config.name}.from: not all of {names} have weights of {other[0]}; merge models with the same"
                " modules"
            )
        for name, tensor in model.state_dict().items():
            moved |= set() if torch.equal(tensor, fresh[name]) else {name}
            if name not in buffers:
                value = tensor.float() * share
                total[name] = total[name] + value if name in total else value
            elif not torch.equal(total.setdefault(name, tensor.clone()), tensor):
                raise CheckpointError(
                    f"stages.{config.name}.from: the models differ in {name}, which is no weight and has no mean; merge"
                    " models that agree in it"
                )
    # What no model changed keeps its last bit, which a sum would not.
    model.load_state_dict({name: tensor if name in moved else fresh[name] for name, tensor in total.items()})
    return {module: MERGED.join(f"{each[module]} x {share:g}" for share, each in shares) for module in shares[0][1]}


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
