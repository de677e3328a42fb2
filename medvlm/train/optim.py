"""Creates optimizers with parameter groups, and computes the learning rate from the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from medvlm.core.blocks import find_blocks
from medvlm.core.errors import RecipeError
from medvlm.core.stage_config import Optim, OptimOf
from medvlm.train.muon import Muon, find_hidden_matrices
from medvlm.train.tensors import shape_of

Matches = Callable[[str, str], bool]
CPU = torch.device("cpu")
RESTS = "rests"
"""Of a group of parameters: the share of the steps in which they rest."""


def make_optimizers(
    model: nn.Module, configs: Mapping[str, Optim], matches: Matches, stage: str, device: torch.device = CPU
) -> dict[str, torch.optim.Optimizer]:
    """Name -> optimizer of its share of the trained parameters. The default one, "", gets those that no other one
    names.

    device: of the optimizer states. Raises RecipeError for a pattern that matches no trained parameter, for parameters
    with two optimizers or none, and for a kind that cannot run here.
    """
    trained = dict(_list_trained(model))
    owner: dict[str, str] = {}
    for name, config in configs.items():
        for pattern in config.of if isinstance(config, OptimOf) else ():
            found = [parameter for parameter in trained if matches(parameter, pattern)]
            if not found:
                raise RecipeError(f"stages.{stage}: optimizer {name}: {pattern!r} matches no trained parameter")
            for parameter in found:
                if owner.setdefault(parameter, name) != name:
                    raise RecipeError(f"stages.{stage}: optimizers {owner[parameter]} and {name} both step {parameter}")
    if left := [parameter for parameter in trained if "" not in configs and parameter not in owner]:
        raise RecipeError(f"stages.{stage}: no optimizer steps {left[0]} ({len(left)} parameters)")
    return {
        name: make_optimizer(model, config, matches, stage, device, {p for p in trained if owner.get(p, "") == name})
        for name, config in configs.items()
    }


def make_optimizer(
    model: nn.Module,
    config: Optim,
    matches: Matches,
    stage: str,
    device: torch.device = CPU,
    own: Collection[str] | None = None,
) -> torch.optim.Optimizer:
    """An optimizer of the trained parameters in `own`, by default of all. Vectors and scalars (biases, norms, scales)
    get no weight decay.

    Raises RecipeError for an `lr_of` or `rests` that matches no trained parameter, and for a kind that cannot run here.
    """
    matrices = {id(p) for p in find_hidden_matrices(model)} if config.kind == "muon" else set()
    groups: dict[tuple[float, float, bool, float], list[nn.Parameter]] = {}
    trained = [(n, p) for n, p in _list_trained(model) if own is None or n in own]
    for key, patterns in (("lr_of", config.lr_of), ("rests", config.rests)):
        for pattern in patterns:
            if not any(matches(name, pattern) for name, _ in trained):
                raise RecipeError(f"stages.{stage}.optim.{key}: {pattern!r} matches no trained parameter")
    of_layer = find_layer_factors(model, config.layer_decay, stage) if config.layer_decay else {}
    for name, parameter in trained:
        factor = next((f for pattern, f in config.lr_of.items() if matches(name, pattern)), 1.0)
        factor *= of_layer.get(name, 1.0)
        decay = config.weight_decay if len(shape_of(parameter)) > 1 else 0.0
        # The two factors of an adapter form a matrix only together, so they get AdamW.
        orthogonal = id(parameter) in matrices and not matches(name, "lora")
        rests = next((share for pattern, share in config.rests.items() if matches(name, pattern)), 0.0)
        groups.setdefault((factor, decay, orthogonal, rests), []).append(parameter)
    options: list[dict[str, Any]] = [
        {
            "params": p,
            "weight_decay": decay,
            "factor": factor,
            "orthogonal": turned,
            **({RESTS: rests} if rests else {}),
        }
        for (factor, decay, turned, rests), p in groups.items()
    ]
    if config.kind == "adamw8bit":
        return _make_eight_bit(options, config, device, stage)
    if config.kind == "muon":
        return Muon(options, lr=config.lr, betas=config.betas)
    # `fused` uses one kernel for all parameters. On a CPU it gains little and changes the last bits.
    return torch.optim.AdamW(options, lr=config.lr, betas=config.betas, fused=device.type == "cuda" or None)


def find_layer_factors(model: nn.Module, decay: float, stage: str) -> dict[str, float]:
    """Parameter of a part with repeated blocks -> the factor on its rate. Of d blocks, the i-th (from 1) has decay **
    (d + 1 - i), what is registered before them has decay ** (d + 1), and what comes behind them 1.

    Source: BEiT (arXiv 2106.08254), in the form of MAE's util/lr_decay.py. Raises RecipeError if nothing that is
    trained has blocks."""
    blocks: dict[str, list[str]] = {}
    for name, _ in find_blocks(model):
        blocks.setdefault(_find_part(model, name), []).append(name)
    found: dict[str, float] = {}
    reached: dict[str, int] = {}
    for name, _ in model.named_parameters():
        part = _find_part(model, name)
        if part not in blocks:
            continue
        depth = len(blocks[part])
        own = next((i for i, block in enumerate(blocks[part], 1) if name.startswith(f"{block}.")), 0)
        reached[part] = own or reached.get(part, 0)
        layer = own or (depth + 1 if reached[part] == depth else reached[part])
        found[name] = decay ** (depth + 1 - layer)
    if not any(found.get(name, 1.0) != 1 for name, _ in _list_trained(model)):
        raise RecipeError(f"stages.{stage}.optim.layer_decay: nothing that is trained has repeated blocks; remove it")
    return found


def _find_part(model: nn.Module, name: str) -> str:
    """encoders.film, text, language: what has a name of its own in a recipe."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if isinstance(getattr(model, first), nn.ModuleDict) else first


def _list_trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def _make_eight_bit(
    options: list[dict[str, Any]], config: Optim, device: torch.device, stage: str
) -> torch.optim.Optimizer:
    """AdamW with moments in 8 bits, block by block (arXiv 2110.02861): a quarter of the optimizer's memory."""
    if find_spec("bitsandbytes") is None:
        raise RecipeError(
            f"stages.{stage}.optim.kind: adamw8bit needs bitsandbytes: pip install bitsandbytes, or use adamw"
        )
    import bitsandbytes

    made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(options, lr=config.lr, betas=config.betas)
    return made


def set_rate(optimizer: torch.optim.Optimizer, config: Optim, step: int, steps: int) -> float:
    """Sets every group's rate and weight decay for `step` (from 0) and returns the base rate."""
    rate = config.lr * compute_rate_factor(config, step, steps)
    decay = compute_decay(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if step < group.get(RESTS, 0.0) * steps else rate * group["factor"]
        if group["weight_decay"]:
            group["weight_decay"] = decay
    return rate


def compute_rate_factor(config: Optim, step: int, steps: int) -> float:
    """Linear warm-up, then constant, linear to 0, or half a cosine to 0 (SGDR, arXiv 1608.03983, equation 5)."""
    warmup = math.ceil(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[config.schedule]


def compute_decay(config: Optim, step: int, steps: int) -> float:
    """Half a cosine from `weight_decay` in the first step to `weight_decay_end` in the last."""
    if config.weight_decay_end is None:
        return config.weight_decay
    done = step / max(1, steps - 1)
    return config.weight_decay_end + 0.5 * (config.weight_decay - config.weight_decay_end) * (
        1 + math.cos(math.pi * done)
    )
